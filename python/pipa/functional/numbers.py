"""Arguments that must be whole or finite numbers."""

from __future__ import annotations

import math
import operator
from numbers import Real
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


def number(value: Any, name: str) -> float:
    """``value``, if it is a finite number. Every comparison with NaN is false, so that a range alone lets it through.

    Raises:
        ValueError: names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)
