"""Which files of a folder are pictures to segment."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pipa.files.listing import IMAGE_SUFFIXES, find_files

#: Text that every picture written by a prediction carries, so that it is never taken for an input or overwritten by
#: mistake.
MARK = ("Software", "pipa predict")


def list_images(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Pictures of a folder and its subfolders, sorted.

    Passed over: what :func:`pipa.files.listing.find_files` passes over (``._a.png``, ``.ipynb_checkpoints``), results
    of earlier predictions, and everything below `leave_out` where that lies inside.

    Raises:
        ValueError: no picture there.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of images, found nothing there")
    outside = None if leave_out is None or leave_out.resolve() == folder.resolve() else leave_out.resolve()
    files = []
    for name in find_files(folder, IMAGE_SUFFIXES, ignore_case=True):
        file = folder / name
        if outside is not None and file.resolve().is_relative_to(outside):
            continue
        if not is_result(file):
            files.append(file)
    if not files:
        raise ValueError(f"{folder}: no image in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
    return files


def is_result(file: Path) -> bool:
    """Was this file written by a prediction?"""
    if file.suffix.lower() != ".png":
        return False
    try:
        with Image.open(file) as image:
            return image.info.get(MARK[0]) == MARK[1]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # no picture at all: whoever reads it says so
