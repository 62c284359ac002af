"""Files that a number tells apart, such as a training's checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINT = "iter_{}.pth"


def numbered(folder: Path, template: str = CHECKPOINT) -> list[Path]:
    """Files of ``folder`` called ``template`` with a whole number for its braces, the highest number first."""
    found = [(number, path) for path in folder.glob("*") if (number := number_in(path.name, template)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def number_in(name: str, template: str = CHECKPOINT) -> int | None:
    """The number that stands for the braces of ``template`` in ``name``; None for another kind of name."""
    match = re.fullmatch(re.escape(template).replace(r"\{\}", r"(\d+)"), name)
    return None if match is None else int(match[1])
