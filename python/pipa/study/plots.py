"""Forest plot and curves of a study as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipa.files.atomic import write_text
from pipa.study.inside import labelled
from pipa.study.statistics import MODELS, compare, has_teacher
from pipa.study.tables import methods, shared
from pipa.viz.svg import drawing, svg_of

COLOURS = {"student": "#4269d0", "teacher": "#c9570f"}


def forest(results: Mapping[str, Any], path: Path) -> Path:
    """Paired differences to the baseline; small dots are the seeds.

    Thick lines are 95 % bootstrap intervals, thin ones Student's. These are far wider for few seeds: the frame grows by
    up to half its width to both sides for them, and an arrow says that it cuts one.
    """
    baseline = results["baseline"]
    rows = []
    for method in methods(results):
        for model in MODELS:
            if model == "teacher" and not any(has_teacher(results, name) for name in (method, baseline)):
                continue
            found = None if method == baseline else compare(results, method, baseline, model)
            if found is not None:
                rows.append((method, model, found))
    with drawing():
        figure = Figure(figsize=(6.4, 0.8 + 0.3 * max(1, len(rows))), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="#888", linewidth=0.8)
        for y, (_, model, found) in enumerate(rows):
            colour = COLOURS[model]
            axes.plot(found.differences, [y] * len(found.differences), "o", color=colour, alpha=0.35, markersize=3)
            if found.bootstrap is not None:
                axes.plot(found.bootstrap, [y, y], color=colour, linewidth=2.5)
            axes.plot([found.mean], [y], "D", color=colour, markersize=5)
        low, high = axes.get_xlim()
        margin = (high - low) / 20
        ends = [end for _, _, found in rows if found.student_t is not None for end in found.student_t]
        least = max(min([low, *(end - margin for end in ends)]), low - (high - low) / 2)
        most = min(max([high, *(end + margin for end in ends)]), high + (high - low) / 2)
        axes.set_xlim(least, most)
        for y, (_, model, found) in enumerate(rows):
            if found.student_t is None:
                continue
            start, end = found.student_t
            axes.plot([max(start, least), min(end, most)], [y, y], color=COLOURS[model], linewidth=0.8)
            for place, cut, mark in ((least, start < least, "<"), (most, end > most, ">")):
                if cut:
                    axes.plot([place], [y], mark, color=COLOURS[model], markersize=4, clip_on=False)
        axes.set_yticks(range(len(rows)), [f"{method}, {model}" for method, model, _ in rows])
        axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)  # the first on top, none on the frame
        axes.grid(axis="x", color="#ddd")
        axes.set_axisbelow(True)
        axes.set_xlabel(f"mIoU minus {baseline}'s, points\n95 %: bootstrap thick, Student's t thin")
        return write_text(path, svg_of(figure))


def label_curves(results: Mapping[str, Any], path: Path) -> Path | None:
    """Pseudo-labels over the iterations: sure pixels, right ones of them, found ones of each class.

    Means of the seeds that every method has.

    Returns:
        The path; None where no run has such numbers.
    """
    results, _ = labelled(results)
    kept = results["runs"]
    if not kept:
        return None
    names = list(kept[0]["pseudo_labels"]["found"])
    panels = [("sure",), ("sure_right",), *(("found", name) for name in names)]
    titles = ["sure pixels", "right, of the sure", *names]
    rows = -(-len(panels) // 4)
    with drawing():
        figure = Figure(figsize=(9.2, 0.6 + 1.7 * rows), layout="constrained")
        grid = figure.subplots(rows, 4, sharex=True, squeeze=False).flatten()
        for axes, place, title in zip(grid, panels, titles, strict=False):
            axes.set_title(title, fontsize=9)
            axes.set_ylim(0, 100)
            axes.grid(color="#ddd")
            for i, method in enumerate(methods(results)):
                lines = [values_at(run, place) for run in kept if run["method"] == method]
                steps = max((tuple(steps) for steps, _ in lines), key=len, default=())
                same = [values for at, values in lines if tuple(at) == steps]
                if same:
                    axes.plot(steps, np.mean(same, axis=0), color=f"C{i}", linewidth=1.2, label=method)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
        figure.supxlabel("iteration", fontsize=9)
        figure.supylabel("per cent of pixels", fontsize=9)
        return write_text(path, svg_of(figure))


def values_at(run: Mapping[str, Any], place: tuple[str, ...]) -> tuple[list[int], list[float]]:
    """Iterations and values of a quantity of a run's pseudo-labels; a gap where it had no pixel."""
    found = run["pseudo_labels"]
    for key in place:
        found = found[key]
    return run["curve"]["iteration"], [np.nan if value is None else value for value in found]


def curves(results: Mapping[str, Any], path: Path) -> Path:
    """mIoU over the iterations: students in the left panel, teachers in the right; means of the seeds that all have."""
    results = shared(results)
    with drawing():
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, model, key in zip(panels, MODELS, ("mIoU", "teacher_mIoU"), strict=True):
            for i, method in enumerate(methods(results)):
                runs = [r for r in results["runs"] if r["method"] == method and key in r["curve"]]
                if not runs:
                    continue
                # A study whose length was changed has curves of several lengths: the mean is over equal ones.
                steps = max((tuple(r["curve"]["iteration"]) for r in runs), key=len)
                lines = [r["curve"][key] for r in runs if tuple(r["curve"]["iteration"]) == steps]
                axes.plot(steps, np.mean(lines, axis=0), marker=".", color=f"C{i}", label=method)
            axes.set_title(model)
            axes.set_xlabel("iteration")
            axes.grid(color="#ddd")
        panels[0].set_ylabel("mIoU, per cent")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        return write_text(path, svg_of(figure))


# The plots of a study, by the ends of their file names.
PLOTS = {"forest": forest, "curves": curves, "pseudo_labels": label_curves}
