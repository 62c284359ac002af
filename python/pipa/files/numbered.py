"""Files that a number tells apart, such as a training's checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINT = "iter_{}.pth"


def numbered(folder: Path, template: str = CHECKPOINT) -> list[Path]:
    """Files of ``folder`` called ``template`` with a whole number for its braces, the highest number first."""
    pattern = re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))
    found = [(int(m[1]), path) for path in folder.glob("*") if (m := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]
