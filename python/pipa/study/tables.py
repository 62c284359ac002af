"""Markdown tables of a study's results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from pipa.study.statistics import (
    FEWEST_DRIVES,
    MODELS,
    Paired,
    by_drive,
    class_differences,
    compare,
    compare_on_test,
    has_teacher,
    over_drives,
    scores,
    scores_on_test,
    spread,
)


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a study as one page."""
    parts = [f"# {results['title']}", rule(results), score_table(results)]
    if points(results):
        parts += ["Student / teacher, means of the seeds:", grid_table(results)]
    if any(run.get("test") for run in results["runs"]):
        parts += ["## Test data", table_on_test(results)]
    baseline = results["baseline"]
    if any(compare(results, method, baseline) for method in methods(results) if method != baseline):
        parts += ["## Paired differences", difference_table(results), "## Classes", class_table(results)]
    else:
        parts.append(f"No differences: no seed has runs of {baseline} and of another method yet.")
    return "\n\n".join(parts) + "\n"


def rule(results: Mapping[str, Any]) -> str:
    """The score rule as a sentence."""
    last = results["evaluations"]
    which = "the last evaluation" if last == 1 else f"the mean of the last {last} evaluations"
    return f"mIoU in per cent; the score of a run is {which}, fixed beforehand."


def methods(results: Mapping[str, Any]) -> list[str]:
    """Methods that have a finished run, in the study's order."""
    there = {run["method"] for run in results["runs"]}
    return [name for name in results["methods"] if name in there]


def shared(results: Mapping[str, Any], has: Callable[[Mapping[str, Any]], Any] = bool) -> Mapping[str, Any]:
    """The runs of the seeds that every method has: means of other seeds do not compare.

    Where no seed is every method's, as few methods as possible are left out, and never the baseline.

    Args:
        has: whether a run has what is to be compared; methods of which no run has it do not count.
    """
    runs = [run for run in results["runs"] if has(run)]
    seeds = {name: {run["seed"] for run in runs if run["method"] == name} for name in methods(results)}
    kept, common = _together({name: own for name, own in seeds.items() if own}, results["baseline"])
    return {**results, "runs": [run for run in runs if run["method"] in kept and run["seed"] in common]}


def _together(seeds: Mapping[str, set[int]], baseline: str) -> tuple[tuple[str, ...], set[int]]:
    """The most methods that have a seed in common, of several such choices the one with most seeds, and those seeds."""
    for count in range(len(seeds), 0, -1):
        choices = [some for some in combinations(seeds, count) if baseline in some or baseline not in seeds]
        found = [(some, set.intersection(*(seeds[name] for name in some))) for some in choices]
        best = max(found, key=lambda pair: len(pair[1]), default=((), set()))
        if best[1]:
            return best
    return (), set()


def seeds_of(results: Mapping[str, Any]) -> str:
    """`seed 4`, or `seeds 0, 1, 2`."""
    seeds = sorted({run["seed"] for run in results["runs"]})
    return f"seed{'s' if len(seeds) != 1 else ''} {', '.join(map(str, seeds))}"


def score_table(results: Mapping[str, Any]) -> str:
    """Mean and sample deviation of student and teacher, and each seed (student / teacher)."""
    seeds = sorted({run["seed"] for run in results["runs"]})
    rows = []
    for method in methods(results):
        student = scores(results, method)
        teacher = scores(results, method, "teacher") if has_teacher(results, method) else {}
        cells = [
            (f"{student[s]:.1f} / {teacher[s]:.1f}" if s in teacher else f"{student[s]:.1f}") if s in student else "–"
            for s in seeds
        ]
        rows.append([method, deviation(list(student.values())), deviation(list(teacher.values())), *cells])
    return table(["", "student", "teacher", *(f"seed {s}" for s in seeds)], rows)


def points(results: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Values of two settings -> the method of that point of a grid; empty where the methods are no such grid."""
    found, settings = {}, set()
    for method in results["methods"]:
        parts = [part.rsplit(" ", 1) for part in method.split(", ")]
        if len(parts) != 2 or any(len(part) != 2 for part in parts):
            return {}
        settings.add((parts[0][0], parts[1][0]))
        found[parts[0][1], parts[1][1]] = method
    return found if len(settings) == 1 else {}  # one pair of names, else values of different settings would meet


def grid_table(results: Mapping[str, Any]) -> str:
    """Student / teacher over a grid of two settings, means of the seeds; the first goes down, the second across.

    A cell of fewer seeds than others says of how many.

    Raises:
        ValueError: the study's methods are no grid of two settings.
    """
    found = points(results)
    if not found:
        raise ValueError(f"study {results['study']}: expected a grid of two settings, got other methods")
    down, across = (part.rsplit(" ", 1)[0] for part in next(iter(found.values())).split(", "))
    columns = list(dict.fromkeys(second for _, second in found))
    most = max((len(scores(results, method)) for method in found.values()), default=0)
    rows = []
    for first in dict.fromkeys(first for first, _ in found):
        cells = []
        for second in columns:
            method = found.get((first, second), "")
            values = [scores(results, method, m) for m in MODELS if m == "student" or has_teacher(results, method)]
            there = [f"{spread(list(by_seed.values()))[0]:.1f}" for by_seed in values if by_seed]
            fewer = f" ({len(values[0])} of {most} seeds)" if there and len(values[0]) < most else ""
            cells.append(" / ".join(there) + fewer or "–")
        rows.append([first, *cells])
    return table([f"{down} \\ {across}", *columns], rows)


def difference_table(results: Mapping[str, Any], baseline: str | None = None) -> str:
    """Each method against the baseline, seed by seed, for student and teacher."""
    baseline = baseline or results["baseline"]
    rows = []
    for method in methods(results):
        for model in MODELS:
            if method == baseline or (
                model == "teacher" and not any(has_teacher(results, m) for m in (method, baseline))
            ):
                continue
            found = compare(results, method, baseline, model)
            if found is not None:
                rows.append([method, model, *difference_cells(found)])
    heads = ["", "network", "difference", "95 % bootstrap", "95 % t", "better in", "sign test p"]
    return f"Minus {baseline}, in points:\n\n" + table(heads, rows)


def difference_cells(found: Paired) -> list[str]:
    p = "–" if found.sign_p is None else f"{found.sign_p:.3f}"
    count = f"{found.better} of {len(found.seeds)}"
    return [f"{found.mean:+.2f}", interval(found.bootstrap), interval(found.student_t), count, p]


def class_table(results: Mapping[str, Any], baseline: str | None = None) -> str:
    """Mean paired difference of each class, of the seeds that every method has: of the teacher, where both have one or
    one network stands for it."""
    baseline = baseline or results["baseline"]
    results = shared({**results, "baseline": baseline})
    found = {
        method: class_differences(results, method, baseline, "teacher")
        for method in methods(results)
        if method != baseline and compare(results, method, baseline) is not None
    }
    names = list(dict.fromkeys(name for differences in found.values() for name in differences))
    rows = [
        [method, *("–" if (v := differences.get(name)) is None else f"{v:+.1f}" for name in names)]
        for method, differences in found.items()
    ]
    title = f"IoU minus {baseline}'s, teachers (source-only: its one network), {seeds_of(results)}, in points:"
    return f"{title}\n\n{table(['', *names], rows)}"


def table_on_test(results: Mapping[str, Any], baseline: str | None = None) -> str:
    """mIoU on the test data, looked at once at the end of each run, differences, intervals over drives and seeds.

    With fewer than six drives the difference on each stands in the place of an interval over them.
    """
    baseline = baseline or results["baseline"]
    seeds = sorted({run["seed"] for run in results["runs"] if run.get("test")})
    several = len(seeds) > 1
    rows: list[list[str]] = []
    drives = {name for run in results["runs"] if run.get("test") for name in run["test"]["student"]}
    few = len(drives) < FEWEST_DRIVES
    for method in methods(results):
        for model in MODELS:
            if model == "teacher" and not has_teacher(results, method):
                continue
            values = scores_on_test(results, method, model)
            if not values:
                continue
            cells = [f"{values[s]:.1f}" if s in values else "–" for s in seeds] if several else []
            found = None if method == baseline else compare_on_test(results, method, baseline, model)
            if found is None:
                cells += ["–"] * (4 if several else 2)
            else:
                cells += [f"{found.mean:+.2f}", of_drives(results, method, baseline, model, few)]
                if several:
                    cells += [interval(found.student_t), f"{found.better} of {len(found.seeds)}"]
            rows.append([method, model, deviation(list(values.values())), *cells])
    heads = ["", "network", "test mIoU", f"minus {baseline}", "on each drive" if few else "95 % bootstrap over drives"]
    if several:
        heads[3:3] = [f"seed {s}" for s in seeds]
        heads += ["95 % t over seeds", "better in"]
    return table(heads, rows)


def of_drives(results: Mapping[str, Any], method: str, baseline: str, model: str, few: bool) -> str:
    """The difference on each of a few drives, or its interval over many."""
    if few:
        return ", ".join(f"{value:+.1f}" for value in (by_drive(results, method, baseline, model) or {}).values())
    found = over_drives(results, method, baseline, model)
    return interval(None if found is None else found[1])


def gain(results: Mapping[str, Any], method: str, baseline: str, model: str, on: str = "score") -> str:
    """A difference as a phrase, `+1.4 points (95 % t interval +0.2 to +2.6, 3 seeds)`.

    Student's interval: alone in a sentence, the bootstrap's of two or three seeds would promise too much.

    Args:
        on: "score", or "test": the test data.
    """
    found = {"score": compare, "test": compare_on_test}[on](results, method, baseline, model)
    if found is None:
        raise ValueError(f"{results['study']}: {method} and {baseline} share no seed yet")
    count = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    if found.student_t is None:
        return f"{found.mean:+.1f} points ({count})"
    low, high = found.student_t
    return f"{found.mean:+.1f} points (95 % t interval {low:+.1f} to {high:+.1f}, {count})"


def deviation(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean, sample = spread(values)
    return f"{mean:.1f}" if sample is None else f"{mean:.1f} ± {sample:.1f}"


def interval(pair: tuple[float, float] | None) -> str:
    return "–" if pair is None else f"{pair[0]:+.2f} to {pair[1]:+.2f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
