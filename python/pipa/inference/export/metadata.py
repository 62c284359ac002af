"""A network's description as JSON text, with tuples kept apart from lists: some layers take only one of them."""

from __future__ import annotations

import json
from typing import Any

#: Under this name a file holds the text.
NAME = "pipa"
_TUPLE = "__tuple__"


def to_text(value: Any, indent: int | None = None) -> str:
    """JSON of plain values.

    >>> to_text({"size": (2, 3)})
    '{"size": {"__tuple__": [2, 3]}}'
    """
    return json.dumps(_marked(value), indent=indent, ensure_ascii=False)


def from_text(text: str) -> Any:
    """What :func:`to_text` wrote. ValueError: no JSON."""
    return _unmarked(json.loads(text))


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_marked(inner) for inner in value]}
    return [_marked(inner) for inner in value] if isinstance(value, list) else value


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TUPLE}:
            return tuple(_unmarked(inner) for inner in value[_TUPLE])
        return {key: _unmarked(inner) for key, inner in value.items()}
    return [_unmarked(inner) for inner in value] if isinstance(value, list) else value
