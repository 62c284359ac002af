"""The checkpoint that a user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipa.inference.export.folder import WEIGHTS
from pipa.mmseg.checkpoints.read import read_checkpoint


def read_named(path: str | Path) -> dict[str, Any]:
    """:func:`pipa.mmseg.checkpoints.read.read_checkpoint`; a folder of a training is refused with what to write.

    Raises:
        ValueError: a folder that ``save_pretrained`` has not written.
    """
    folder = Path(path).expanduser()
    if folder.is_dir() and not (folder / WEIGHTS).is_file():
        files = [file for file in folder.glob("*.pth") if not file.name.startswith(".")]
        if not files:
            raise ValueError(f"{path}: expected a checkpoint, found a folder without {WEIGHTS} and without *.pth")
        last = max(files, key=lambda file: (file.stat().st_mtime, file.name))
        raise ValueError(
            f"{path}: expected one checkpoint, found the folder of a training, which has {len(files)}; the last is "
            f"{last}"
        )
    return read_checkpoint(path)
