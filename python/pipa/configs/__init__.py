"""The configs that come with the package: ``NETWORK x METHOD x DOMAIN PAIR``, named ``DOMAINS_NETWORK_METHOD``.

Each is a few lines over the annotated pieces in ``_base_``: networks, domains, methods, training. `PIPA_DATA` names the
folder of the data sets (default ``data``), `PIPA_PRETRAINED` that of the encoder's weights (default ``pretrained``).
"""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def list_configs() -> list[tuple[str, str]]:
    """Name and one-line description of every config, sorted by name."""
    files = sorted(file for file in _FOLDER.glob("*.py") if not file.stem.startswith("_"))
    return [(file.stem, _description(file)) for file in files]


def path_of(name: str) -> Path:
    """File of a config, for ``mmengine.config.Config.fromfile``.

    Args:
        name: as in :func:`list_configs`, with or without ``.py``.

    Raises:
        ValueError: there is no such config; the message names the nearest ones.
    """
    stem = name.removesuffix(".py")
    names = [known for known, _ in list_configs()]
    if stem not in names:
        near = difflib.get_close_matches(stem, names, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"no config named {name!r}{hint} (`pipa configs` lists all {len(names)})")
    return _FOLDER / f"{stem}.py"


def _description(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.split("\n", 1)[0].rstrip(".")
