"""Arguments that must be whole numbers."""

from __future__ import annotations

import operator
from typing import Any


def whole(value: Any, name: str) -> int:
    """``value`` as an integer; a fraction is refused, not cut.

    Raises:
        TypeError: names the argument.
    """
    try:
        return int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
