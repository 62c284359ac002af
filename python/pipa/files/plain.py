"""YAML and JSON files as plain values. mmengine's reader makes any object that a YAML tag asks for, and unpickles."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

# Comes with mmengine; its type hints are a package of their own, which not every environment has.
yaml: Any = importlib.import_module("yaml")

SUFFIXES = (".yaml", ".yml", ".json")


class _Loader(yaml.SafeLoader):
    """Plain values only; 1e-3 is a number (YAML 1.1 reads it as text)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_plain(path: str | Path) -> Any:
    """What is in a YAML or JSON file.

    Raises:
        ValueError: another kind of file, or not readable as plain values; the message names the file.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable {path.suffix[1:]} file of plain values: {' '.join(str(error).split())}"
        ) from None
