"""Line charts as inline SVG. Colours come from the page's CSS variables, so that they follow light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape

from pipa.viz.report.data import Curve

# More points than this are averaged in bins: a curve cannot show them, and the file would grow.
_MOST_POINTS = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 12, 26


def line_chart(
    curves: Mapping[str, Curve],
    slots: Mapping[str, int],
    *,
    width: int = 560,
    height: int = 220,
    unit: str = "",
    smooth: bool = False,
    label: str = "",
) -> str:
    """An SVG with one line per curve.

    Args:
        curves: Curves by the run's name; empty curves are left out.
        slots: The colour slot (``--run-N``) of each run, the same in every chart of a page.
        unit: Written after the values of the pointer's text.
        smooth: Show the running mean; the curve itself stays behind it, faint.
        label: What the chart shows, for screen readers.
    """
    shown = {name: _clean(curve) for name, curve in curves.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return ""
    every = [point for points in shown.values() for point in points]
    x_high = max(x for x, _ in every) or 1.0
    lines = {name: (_running_mean(points) if smooth else points) for name, points in shown.items()}
    # Losses start high and spike: the axis follows the smoothed lines, and the faint ones are clipped.
    ticks = _ticks(min(y for p in lines.values() for _, y in p), max(y for p in lines.values() for _, y in p))
    low, high = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (width - _LEFT - _RIGHT) * x / x_high,
            _TOP + (height - _TOP - _BOTTOM) * (1 - (min(max(y, low), high) - low) / (high - low)),
        )

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        _, y = at(0, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in _ticks(0, x_high):
        if tick <= x_high:
            x, _ = at(tick, low)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{_number(tick)}</text>')
    for name, points in shown.items():
        slot = slots.get(name, 0)
        if smooth:
            parts.append(f'<path class="faint run-{slot}" d="{_path(points, at)}"/>')
        parts.append(f'<path class="line run-{slot}" d="{_path(lines[name], at)}"/>')
        if not smooth and len(points) <= 40:
            for x, y in points:
                cx, cy = at(x, y)
                hint = f"{escape(name)}, iteration {x:g}: {y:.1f}{escape(unit)}"
                parts.append(
                    f'<circle class="dot run-{slot}" cx="{cx:.1f}" cy="{cy:.1f}" r="3"><title>{hint}</title></circle>'
                )
    parts.append("</svg>")
    return "".join(parts)


def _clean(curve: Curve) -> list[tuple[float, float]]:
    points = [(float(x), float(y)) for x, y in curve if math.isfinite(float(y))]
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return points
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in bins]


def _running_mean(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    reach = max(1, len(points) // 30)
    means = []
    for i, (x, _) in enumerate(points):
        near = points[max(0, i - reach) : i + reach + 1]
        means.append((x, sum(y for _, y in near) / len(near)))
    return means


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that enclose low..high."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{round(value, 10):g}"


def _path(points: list[tuple[float, float]], at: Callable[[float, float], tuple[float, float]]) -> str:
    return "M" + "L".join("{:.1f} {:.1f}".format(*at(x, y)) for x, y in points)
