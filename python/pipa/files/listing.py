"""The files of a folder, without what other systems leave between them.

macOS writes `._a.png` beside `a.png` on foreign disks and `__MACOSX` into archives, notebooks write
`.ipynb_checkpoints/a-checkpoint.png`, NAS systems `@eaDir/a.jpg/thumb.jpg`: all of them end in a suffix of images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipa.files.images import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# In lower case; whatever begins with a dot or with "~$" is foreign too.
_FOREIGN = frozenset(
    ["__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "@tmp", "#recycle", "$recycle.bin"]
) | {"system volume information", "lost+found", "__pycache__"}


def foreign(name: str) -> bool:
    """Is a file or folder of this name no part of a data set, but a trace of some system or program?"""
    return name.startswith((".", "~$")) or name.lower() in _FOREIGN


def find_files(
    folder: str | Path, suffixes: str | Sequence[str], *, recursive: bool = True, ignore_case: bool = False
) -> Iterator[str]:
    """Files below `folder` that end in one of `suffixes`, as sorted relative posix paths.

    Hidden files and folders, and those that other systems leave (:func:`foreign`), are skipped. Only what lies below
    `folder` is judged: a data set may itself live in a hidden folder. Links are followed, circles of links are not.

    Args:
        ignore_case: take `A.PNG` for ".png".

    Raises:
        DataError: a folder cannot be read.
    """
    ends = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
    if ignore_case:
        ends = tuple(end.lower() for end in ends)
    yield from sorted(_walk(Path(folder), "", ends, recursive, ignore_case, ()))


def _walk(
    folder: Path, inner: str, ends: tuple[str, ...], recursive: bool, ignore_case: bool, above: tuple[str, ...]
) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if not foreign(entry.name)]
    except OSError as error:
        raise DataError(f"{folder}: cannot read this folder ({error.strerror})") from None
    for name, is_folder in found:
        if not is_folder:
            if (name.lower() if ignore_case else name).endswith(ends):
                yield inner + name
        elif recursive:
            yield from _walk(folder / name, f"{inner}{name}/", ends, recursive, ignore_case, (*above, real))
