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
    """Plain values only; a key twice is an error; 1e-3 is a number (YAML 1.1 reads it as text); 010 and 1:30
    are refused (YAML 1.1 reads them as 8 and 90)."""

    def construct_yaml_int(self, node: Any) -> int:
        text = str(self.construct_scalar(node))
        if ":" in text or re.fullmatch(r"[-+]?0[0-9_]+", text):
            line = node.start_mark.line + 1
            raise ValueError(
                f"expected an integer without leading zeros or colons, found {text} (line {line}), which YAML reads as "
                f"{super().construct_yaml_int(node)}; put text in quotes"
            )
        return super().construct_yaml_int(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: list[Any] = []
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"the key {key!r} stands twice in one mapping (line {key_node.start_mark.line + 1})")
            seen.append(key)
        return super().construct_mapping(node, deep)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one mapping")
    return found


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_plain(path: str | Path) -> Any:
    """What is in a YAML or JSON file. A key that stands twice in a mapping is an error: one of the two would be lost.

    Raises:
        ValueError: another kind of file, or not readable as plain values; the message names the file.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors mark UTF-8
        return json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)
    except OSError as error:
        raise ValueError(f"{path}: cannot read this file ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a readable {path.suffix[1:]} file of plain values: {' '.join(str(error).split())}"
        ) from None
