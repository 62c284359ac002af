"""Numbers that a config gives to data sets and transforms."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def number(value: Any, name: str) -> float:
    """``value``, if it is a finite number. Every comparison with NaN is false, so that a range alone lets it through.

    Raises:
        ValueError: names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)
