"""Point this checkout at another torch: `python tools/for_torch.py 2.11.0`, then build as usual.

Rewrites the pins of Cargo.toml (tch, torch-sys, pyo3-tch move together) and pyproject.toml; do not commit the result.
"""

import re
import sys
from pathlib import Path

CRATES = {"2.13.0": "0.26.0", "2.11.0": "0.24.0"}
ROOT = Path(__file__).parent.parent


def rewrite(name: str, pattern: str, replacement: str, expected: int) -> None:
    path = ROOT / name
    text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
    if count != expected:
        sys.exit(f"{path}: expected {expected} pins like {pattern}, found {count}")
    path.write_text(text)


if len(sys.argv) != 2 or sys.argv[1] not in CRATES:
    sys.exit(f"usage: python tools/for_torch.py {'|'.join(CRATES)}")
torch = sys.argv[1]
rewrite("Cargo.toml", r'^((?:tch|torch-sys|pyo3-tch) = \{ version = ")[^"]*', rf"\g<1>={CRATES[torch]}", 3)
rewrite("pyproject.toml", r'"torch==[^"]*"', f'"torch=={torch}"', 2)
