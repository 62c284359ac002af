"""Settings from the config text that mmcv and mmengine keep in a checkpoint, read as data: nothing of it is run.

The text is Python as their configs print themselves: ``name = dict(key=value, ...)`` of literals.
"""

from __future__ import annotations

import ast
from typing import Any


def read_config_text(text: str) -> dict[str, Any] | None:
    """The settings, or None where the text is anything but assignments of plain values."""
    try:
        tree = ast.parse(text)
        settings: dict[str, Any] = {}
        for node in tree.body:
            if not isinstance(node, ast.Assign):
                return None
            value = _value(node.value)
            for target in node.targets:
                if not isinstance(target, ast.Name):
                    return None
                settings[target.id] = value
        return settings
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args:
            raise ValueError("not plain")
        return {str(word.arg): _value(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.List):
        return [_value(inner) for inner in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(inner) for inner in node.elts)
    return ast.literal_eval(node)
