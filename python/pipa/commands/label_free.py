"""What `pipa test --unlabelled` leaves: a table, how well each score ranks, a plot, a page, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.console import Console
from rich.table import Table

from pipa.files.atomic import refuse_other, write_text
from pipa.files.plain import read_plain
from pipa.inference.choosing import SAMPLE
from pipa.mmseg.run.choosing import Candidate, Comparison
from pipa.study.plots import COLOURS
from pipa.viz.report.page import page_of, refuse_foreign
from pipa.viz.svg import drawing, svg_of

#: Score -> (its column, which end is good, its value for a network of a candidate).
SCORES: dict[str, tuple[str, int, Callable[[Candidate, str], float | None]]] = {
    "entropy": ("entropy", -1, lambda c, name: c.networks[name].entropy if name in c.networks else None),
    "snd": ("SND", 1, lambda c, name: c.networks[name].snd if name in c.networks else None),
    "agreement": ("agreement", 1, lambda c, _: c.agreement),
}
PAGE, SCORES_FILE, PLOT = "index.html", "scores.json", "scores.svg"
AGREEMENT = "agree\nment"  # as narrow as a number, on the screen
_FEWEST = 3  # checkpoints of which a rank correlation says something
_TRUTH = {"labels": "mIoU on these pictures", "log": "mIoU of the training's own validation"}


def names_of(candidates: Sequence[Candidate]) -> list[str]:
    """The networks that occur: student, teacher."""
    return [name for name in ("student", "teacher") if any(name in c.networks for c in candidates)]


def chosen(candidates: Sequence[Candidate], score: str, name: str) -> Candidate | None:
    """The checkpoint that a score would take for a network; the earliest of equal ones."""
    _, sign, value = SCORES[score]
    there = [(sign * v, c) for c in candidates if (v := value(c, name)) is not None and not math.isnan(v)]
    return max(there, key=lambda pair: pair[0])[1] if there else None


def rank(candidates: Sequence[Candidate], score: str, name: str) -> float | None:
    """Spearman's correlation of a score (turned so that higher is better) and mIoU over the checkpoints; None below
    three, or where either is the same everywhere.

    Raises:
        ImportError: SciPy is missing.
    """
    _, sign, value = SCORES[score]
    pairs = []
    for candidate in candidates:
        found = value(candidate, name)
        truth = candidate.miou(name)
        if found is not None and truth is not None and not math.isnan(found + truth):
            pairs.append((sign * found, truth))
    if len(pairs) < _FEWEST or any(len(set(column)) == 1 for column in zip(*pairs, strict=True)):
        return None
    try:
        from scipy.stats import spearmanr
    except ImportError:
        raise ImportError("rank correlations need the package scipy: pip install pipa-rs[study]") from None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def as_dict(result: Comparison, pictures: int) -> dict[str, Any]:
    """The content of scores.json; NaN is null."""
    found = result.candidates
    choices: dict[str, dict[str, Any]] = {}
    for name in names_of(found):
        choices[name] = {}
        for score in SCORES:
            best = chosen(found, score, name)
            if best is not None:
                choices[name][score] = {"checkpoint": best.name, "mIoU": _number(best.miou(name))}
                if result.truth is not None:
                    choices[name][score]["spearman"] = rank(found, score, name)
    return {
        "pictures": pictures,
        "sample": SAMPLE,
        "mIoU from": result.truth,
        "checkpoints": [
            {
                "file": c.name,
                "iteration": c.iteration,
                **{
                    name: {"entropy": _number(s.entropy), "snd": _number(s.snd), "mIoU": _number(s.miou)}
                    for name, s in c.networks.items()
                },
                "agreement": c.agreement,
            }
            for c in found
        ],
        "chosen": choices,
        "problems": [{"file": file, "reason": reason} for file, reason in result.problems],
    }


def rows_of(result: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table; the checkpoint that a score would take has a star."""
    found, names = result.candidates, names_of(result.candidates)
    head, columns = ["checkpoint"], []
    for name in names:
        for score in ("entropy", "snd"):
            title, _, value = SCORES[score]
            best = chosen(found, score, name)
            head.append(f"{title}\n{name}")
            columns.append([_cell(value(c, name), 3, c is best and len(found) > 1) for c in found])
    if any(c.agreement is not None for c in found):
        best = chosen(found, "agreement", names[0])
        head.append(AGREEMENT)
        columns.append([_cell(c.agreement, 3, c is best and len(found) > 1) for c in found])
    if result.truth is not None:
        for name in names:
            head.append(f"mIoU\n{name}")
            columns.append([_cell(c.miou(name), 2) for c in found])
    return head, [[c.name, *(column[i] for column in columns)] for i, c in enumerate(found)]


def ranks_of(result: Comparison) -> tuple[list[str], list[list[str]]]:
    """What each score would choose, and how well it ranks; a last checkpoint is one of a single training."""
    found = result.candidates
    head = ["score", "network", "would choose", "its mIoU", "best", "last", "Spearman"]
    rows = []
    for name in names_of(found):
        miou = [c.networks[name].miou for c in found if name in c.networks]
        there = [value for value in miou if value is not None]
        for score, (title, _, _) in SCORES.items():
            best = chosen(found, score, name)
            if best is None or not there:
                continue
            last = None if result.several else miou[-1]
            values = [_cell(value, 2) for value in (best.miou(name), max(there), last, rank(found, score, name))]
            rows.append([title, name, best.name, *values])
    return head, rows


def print_table(result: Comparison, console: Console | None = None) -> None:
    """Both tables on the screen."""
    console = console or Console()
    tables = [(rows_of(result), "lower entropy, higher SND and agreement are better; * would be chosen")]
    if result.truth is not None:
        tables.append((ranks_of(result), f"against the {_TRUTH[result.truth]}"))
    for (head, rows), title in tables:
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def refuse_other_scores(out: Path) -> None:
    """Refuse to write into a folder where one of the three files is there and none of an earlier comparison. Asked
    before long work, and again where they are written.

    Raises:
        FileExistsError: names the file.
    """
    refuse_foreign(out / PAGE)
    refuse_other(out / SCORES_FILE, _is_scores, "table of an earlier comparison")
    if not (out / SCORES_FILE).exists():
        refuse_other(out / PLOT, lambda _: False, "plot of an earlier comparison")


def _is_scores(path: Path) -> bool:
    try:
        content = read_plain(path)
    except ValueError:
        return False
    return isinstance(content, dict) and {"checkpoints", "chosen", "mIoU from"} <= set(content)


def write(result: Comparison, out: Path, pictures: int) -> Path:
    """``scores.json``, ``scores.svg`` and ``index.html`` in a folder; the page's path.

    Raises:
        FileExistsError: see :func:`refuse_other_scores`.
    """
    refuse_other_scores(out)
    path = out / PAGE
    content = as_dict(result, pictures)
    write_text(out / SCORES_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")
    svg = plot(result, out / PLOT).read_text()
    parts = [
        "<h1>Checkpoints without labels</h1>",
        f'<p class="soft">{len(result.candidates)} checkpoint(s), {pictures} picture(s)</p>',
        _html(*rows_of(result)),
        "<p>Lower entropy, higher soft neighbourhood density (SND) and higher agreement are better; * marks the "
        "checkpoint that a score would choose. A network that says one thing everywhere looks good to all three: look "
        "at its pictures.</p>",
        f'<figure style="background:#fff">{svg[svg.index("<svg") :]}</figure>',
    ]
    if result.truth is not None:
        parts += [f"<h2>How well they rank: {_TRUTH[result.truth]}</h2>", _html(*ranks_of(result))]
        parts.append(
            "<p>Spearman's correlation over the checkpoints: 1 where a score orders them as the mIoU does, -1 where it "
            f"turns the order round; none below {_FEWEST} checkpoints.</p>"
        )
    if result.problems:
        failed = "".join(f"<dt>{escape(f)}</dt><dd>{escape(reason)}</dd>" for f, reason in result.problems)
        parts.append(f"<h2>Could not be used</h2><dl>{failed}</dl>")
    return write_text(path, page_of("Checkpoints without labels", parts))


def plot(result: Comparison, path: Path) -> Path:
    """Each score, and the mIoU where it is known, against the iteration; against the place in the table where the
    checkpoints are of several trainings."""
    found = result.candidates
    where = [i if result.several or c.iteration is None else c.iteration for i, c in enumerate(found, 1)]
    shown: list[tuple[str, Callable[[Candidate, str], float | None]]] = [
        (title, value) for score, (title, _, value) in SCORES.items() if score != "agreement" or found[0].agreement
    ]
    if result.truth is not None:
        shown.append(("mIoU, per cent", lambda c, name: c.miou(name)))
    with drawing():
        figure = Figure(figsize=(2.6 * len(shown) + 0.4, 2.6), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (title, value) in zip(panels, shown, strict=True):
            for name in names_of(found) if title != "agreement" else ["student"]:
                pairs = [(x, v) for x, c in zip(where, found, strict=True) if (v := value(c, name)) is not None]
                if pairs:
                    colour = "#555" if title == "agreement" else COLOURS[name]
                    label = None if title == "agreement" else name
                    line = "" if result.several else "-"
                    axes.plot(*zip(*pairs, strict=True), marker=".", ls=line, color=colour, label=label)
            axes.set_title(title)
            axes.set_xlabel("line of the table" if result.several else "iteration")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(color="#ddd")
        panels[0].legend(frameon=False)
        return write_text(path, svg_of(figure))


def _cell(value: float | None, digits: int, best: bool = False) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{digits}f}{'*' if best else ''}"


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = (escape(name.replace(AGREEMENT, "agreement")).replace("\n", "<br>") for name in head)
    top = "".join(f"<th>{name}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
