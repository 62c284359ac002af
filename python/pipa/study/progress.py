"""How far a study is, as a table with the time left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from pipa.study.definition import Run


def time_left(pending: Sequence[Run], running: Mapping[Run, Mapping[str, Any]], done: Sequence[Mapping[str, Any]],
              jobs: int) -> float | None:  # fmt: skip
    """Seconds until the last run ends, from what runs of the same method took; None while nothing is known.

    A run that starts from another's weights waits for that one, however many processes there are.

    Args:
        pending: runs that wait.
        running: runs that train, each with ``iteration``, ``iterations`` and ``seconds`` so far.
        done: entries of finished runs (``method``, ``seconds``).
        jobs: processes side by side.
    """
    lengths: dict[str, list[float]] = {}
    for entry in done:
        lengths.setdefault(entry["method"], []).append(entry["seconds"])
    for run, state in running.items():
        if state["iteration"] > 0 and run.method not in lengths:
            lengths[run.method] = [state["seconds"] * state["iterations"] / state["iteration"]]
    if not lengths:
        return None
    mean = {method: sum(values) / len(values) for method, values in lengths.items()}
    usual = sum(mean.values()) / len(mean)
    left = {(run.method, run.seed): mean.get(run.method, usual) for run in pending}
    for run, state in running.items():
        length = mean.get(run.method, usual)
        left[run.method, run.seed] = max(0.0, length * (1 - state["iteration"] / max(1, state["iterations"])))
    starts = {(run.method, run.seed): (run.start, run.seed) for run in (*pending, *running) if run.start is not None}

    def end(name: tuple[str, int]) -> float:
        return left[name] + (end(starts[name]) if starts.get(name) in left else 0.0)

    return max(sum(left.values()) / jobs, max(map(end, left), default=0.0))


def clock(seconds: float | None) -> str:
    """`1:02:03`, or `?`."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def table(
    title: str,
    pending: Sequence[Run],
    running: Mapping[Run, Mapping[str, Any]],
    done: Sequence[Mapping[str, Any]],
    jobs: int,
) -> Table:
    """Methods as rows: finished runs with their scores, the running ones, and those that wait."""
    left = clock(time_left(pending, running, done, jobs))
    total = len(pending) + len(running) + len(done)
    view = Table("method", "done", "mIoU", "teacher", "training", "waiting", title=title)
    view.caption = f"{len(done)} of {total} runs, {left} left"
    methods = dict.fromkeys([e["method"] for e in done] + [r.method for r in running] + [r.method for r in pending])
    for method in methods:
        own = [entry for entry in done if entry["method"] == method]
        now = [
            f"seed {run.seed}: {state['iteration']}/{state['iterations'] or '?'}"
            for run, state in running.items()
            if run.method == method
        ]
        waiting = sum(run.method == method for run in pending)
        view.add_row(
            method,
            str(len(own)),
            mean([entry["mIoU"] for entry in own]),
            mean([entry["teacher_mIoU"] for entry in own]),
            ", ".join(now),
            str(waiting or ""),
        )
    return view


def mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1f}" if known else ""
