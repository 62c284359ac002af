"""Line charts as inline SVG. Colours are the page's CSS variables, so that they follow light and dark mode."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html import escape

import numpy as np

from pipa.viz.report.data import Curve
from pipa.viz.svg import drawing, svg_of

# More points than this are averaged in bins: a curve cannot show them, and the file would grow.
_MOST_POINTS = 240
# matplotlib knows no CSS variables: it draws in these colours, which are replaced in its text.
_RUN, _SOFT, _LINE, _CARD = "#fe00{:02x}", "#fd0000", "#fd0001", "#fd0002"
_VARIABLES = {_SOFT: "var(--soft)", _LINE: "var(--line)", _CARD: "var(--card)"}


def line_chart(
    curves: Mapping[str, Curve],
    slots: Mapping[str, int],
    *,
    width: int = 560,
    height: int = 220,
    smooth: bool = False,
    label: str = "",
) -> str:
    """An SVG with one line per curve.

    Args:
        curves: Curves by the run's name; empty curves are left out.
        slots: The colour slot (``--run-N``) of each run, the same in every chart of a page.
        smooth: Show the running mean; the curve itself stays behind it, faint.
        label: What the chart shows, for screen readers.

    Raises:
        ImportError: there is a curve to draw, and matplotlib is missing.
    """
    shown = {name: points for name, curve in curves.items() if len(points := _clean(curve))}
    if not shown:
        return ""
    # The label makes the ids of a page's charts differ.
    with drawing(svg_hashsalt=label, svg_fonttype="none", font_size=11):
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained", facecolor="none")
        axes = figure.subplots()
        for name, points in shown.items():
            x, y = points.T
            marked = not smooth and len(x) <= 40
            axes.plot(
                x,
                _running_mean(y) if smooth else y,
                color=_RUN.format(slots.get(name, 0)),
                linewidth=2,
                marker="o" if marked else None,
                markersize=6,
                markeredgecolor=_CARD,
            )
        # Losses start high and spike: the axis follows the smoothed lines, and the faint ones are clipped.
        axes.set_ylim(*axes.get_ylim())
        axes.set_xlim(0, 1.01 * max(float(points[:, 0].max()) for points in shown.values()) or 1)
        for name, points in shown.items() if smooth else ():
            axes.plot(*points.T, color=_RUN.format(slots.get(name, 0)), linewidth=1, alpha=0.28, zorder=1)
        axes.set_facecolor("none")
        axes.spines[:].set_visible(False)
        axes.grid(axis="y", color=_LINE, linewidth=1)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelcolor=_SOFT)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(lambda value, _: _number(value))
    return _inline(svg_of(figure, svg_hashsalt=label, svg_fonttype="none"), label)


def _inline(file: str, label: str) -> str:
    """The drawing as a part of a page: its size follows the page, ids that nothing refers to go."""
    box, content = re.search(r'<svg[^>]*viewBox="([^"]*)"[^>]*>(.*)</svg>', file, re.S).groups()  # type: ignore[union-attr]
    content = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", content, flags=re.S)
    # The page's font, which CSS gives; the numbers stand upright.
    content = re.sub(r'font-family: [^;"]*;? ?| transform="rotate\(-0 [^"]*"', "", content)
    content = content.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', content))
    content = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", content)
    for colour, variable in _VARIABLES.items():
        content = content.replace(colour, variable)
    content = re.sub(r"#fe00(\w\w)", lambda found: f"var(--run-{int(found[1], 16)})", content)
    head = f'<svg class="chart" viewBox="{box}" role="img" aria-label="{escape(label)}">'
    return head + re.sub(r"\s*\n\s*", " ", content).strip() + "</svg>"


def _clean(curve: Curve) -> np.ndarray:
    """(N, 2): iteration and value, at most _MOST_POINTS means of finite ones."""
    points = np.array([(x, y) for x, y in curve if math.isfinite(float(y))], dtype=float).reshape(-1, 2)
    size = math.ceil(len(points) / _MOST_POINTS)
    return np.array([points[i : i + size].mean(0) for i in range(0, len(points), size)]) if size > 1 else points


def _running_mean(values: np.ndarray) -> np.ndarray:
    reach = max(1, len(values) // 30)
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{round(value, 10):g}"
