"""The plot of paired differences shows every interval whole, or says that it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_1samp

from pipa.study import plots

CASES = {
    "whole": ([0.4, 0.5, 0.6], [0.0, 0.1, 0.2]),
    "cut": ([0.4, 0.6], [0.0, 0.02]),  # two seeds: Student's factor is 12.7
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_frame_cuts_has_an_arrow(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = CASES[name]
    runs = [
        {"method": method, "seed": seed, "mIoU": 40.0 + gain, "teacher_mIoU": None}
        for method, gains in (("base", [0.0] * len(one)), ("one", one), ("other", other))
        for seed, gain in enumerate(gains)
    ]
    figures: list[Any] = []
    monkeypatch.setattr(plots, "svg_of", lambda figure: figures.append(figure) or "<svg/>")
    plots.forest({"baseline": "base", "methods": ["base", "one", "other"], "runs": runs}, tmp_path / "forest.svg")
    (axes,) = figures[0].axes
    low, high = axes.get_xlim()
    thin = [line for line in axes.lines if line.get_linewidth() == 0.8 and len(set(line.get_ydata())) == 1]
    thin = [line for line in thin if list(line.get_ydata()) != [0, 1]]  # the line at 0
    arrows = {(line.get_marker(), line.get_ydata()[0]) for line in axes.lines if line.get_marker() in "<>"}
    expected = set()
    assert len(thin) == 2
    for y, (line, gains) in enumerate(zip(thin, (one, other), strict=True)):
        start, end = ttest_1samp(gains, 0).confidence_interval(0.95)
        assert list(line.get_xdata()) == pytest.approx([max(start, low), min(end, high)])
        expected |= {(mark, y) for mark, cut in (("<", start < low), (">", end > high)) if cut}
    assert arrows == expected
    assert bool(arrows) == (name == "cut")
