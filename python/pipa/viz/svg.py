"""Drawings of matplotlib as SVG text: equal content gives equal text."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Ids would be random without the salt.
_STEADY = {"svg.hashsalt": "pipa", "svg.fonttype": "path", "font.size": 9}


def drawing(**settings: Any) -> AbstractContextManager[None]:
    """Settings of matplotlib inside a ``with`` block; keyword arguments with ``_`` for the dot go over ours.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('curves and plots need matplotlib: pip install "pipa-rs[study]"') from error
    given: Any = _STEADY | {key.replace("_", ".", 1): value for key, value in settings.items()}
    return matplotlib.rc_context(given)


def svg_of(figure: Figure, **settings: Any) -> str:
    """The figure as a whole SVG file, without a date and without blanks at the ends of lines."""
    file = io.StringIO()
    with drawing(**settings):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "pipa"})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
