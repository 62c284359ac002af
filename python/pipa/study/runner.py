"""The trainings of a study, side by side, each in a process of one thread (or with a GPU of its own)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live

from pipa import toy
from pipa.study.chain import (
    check_same,
    folder_of,
    is_needed,
    keep,
    name_of,
    next_ready,
    release,
    start_of,
    sweep,
    to_do,
)
from pipa.study.definition import Run, Study
from pipa.study.processes import Running, check_runs, child_environment, collect, gpu_count, start, stop
from pipa.study.progress import clock, table, time_left
from pipa.study.results import kept, summary, write_results
from pipa.study.worker import LOCK, RESULT

TRAIN_IMAGES, VAL_IMAGES = 300, 60  # of the embedded pair, as in the demo


@dataclass
class State:
    """What is left, what runs, what is known."""

    pending: list[Run]
    done: list[dict[str, Any]]
    running: list[Running] = field(default_factory=list)

    @property
    def finished(self) -> set[tuple[str, int]]:
        return {(entry["method"], entry["seed"]) for entry in self.done}

    @property
    def waiting(self) -> set[tuple[str, int]]:
        """Of runs that train or wait."""
        return {name_of(run) for run in (*self.pending, *(one.run for one in self.running))}


def run_study(
    study: Study,
    out: Path,
    results: Path | None = None,
    jobs: int | None = None,
    data_root: Path | None = None,
    keep_checkpoints: bool = False,
    console: Console | None = None,
) -> Path:
    """Train all runs of a study that are not in its results yet.

    Stop it in any way and call it again: finished runs stay, the others go on from their newest checkpoint.

    Args:
        study: what to train.
        out: folder of the study; runs in ``out/runs``, and the embedded pair's images in ``out/data``.
        results: file for the numbers of finished runs, ``out/results.json`` when not given.
        jobs: processes side by side: one per GPU, or one per CPU core, when not given.
        data_root: folder of the data sets, for studies that do not draw their own.
        keep_checkpoints: keep the last checkpoint of each run instead of its numbers alone.

    Returns:
        The results file.

    Raises:
        ValueError: results of other settings are in the way. RuntimeError: a training failed; the others were stopped
        and can go on. KeyboardInterrupt: SIGINT or SIGTERM, after the trainings have saved.
    """
    console = console or Console()
    results = results or out / "results.json"
    devices = gpu_count()
    jobs = jobs or devices or os.cpu_count() or 1
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, results), signals():
        sweep(out)
        state = State([], kept(results, study))
        if gather(state, study, out):
            write_results(results, study, state.done)
        tell_untested(console, study, state.done, results)
        if keep_checkpoints:
            keep(study, out)
        state.pending = to_do(study, state.finished, out)
        environment = child_environment(data_folder(study, out, data_root), devices)
        given = None if data_root is None or study.data == "toy" else str(data_root.resolve())
        if state.pending:
            check_runs(state.pending, study, environment, given)
        live = Live(console=console, refresh_per_second=1, transient=True) if console.is_terminal else None
        begin = partial(start, study=study, out=out, devices=devices, environment=environment, data_root=given)
        try:
            with live or contextlib.nullcontext():
                while state.pending or state.running:
                    fill(state, study, out, jobs, partial(begin, asked=keep_checkpoints))
                    time.sleep(0.2)
                    for one in [r for r in state.running if r.process.poll() is not None]:
                        state.running.remove(one)
                        result = collect(one)
                        if name_of(one.run) not in state.finished:  # else trained again for its weights
                            state.done.append(summary(one.run, result, study.evaluations))
                        write_results(results, study, state.done)
                        release(study, state.finished, state.waiting, out)
                        if live is None:
                            tell(console, state, one.run, jobs)
                    if live is not None:
                        live.update(table(study.title, state.pending, progress(state), of(study, state.done), jobs))
        finally:
            stop(state.running)
        write_results(results, study, state.done)
        release(study, state.finished, (), out)  # what a kill after the last result has left
    return results


def fill(state: State, study: Study, out: Path, jobs: int, begin: Callable[..., Running]) -> None:
    """Begin trainings until ``jobs`` are at work or the next one waits for the weights of one that is.

    Raises:
        RuntimeError: nothing is at work, and what is left has no weights to start from.
    """
    while state.pending and len(state.running) < jobs:
        run = next_ready(state.pending, study, out)
        if run is None:
            break
        needed = is_needed(run, study, state.finished, state.waiting)
        state.pending.remove(run)
        free = min(set(range(jobs)) - {r.device for r in state.running})
        made = (entry["versions"].get("config") for entry in state.done if entry["method"] == run.method)
        state.running.append(begin(run, slot=free, needed=needed, like=next(filter(None, made), None)))
    if not state.running:
        raise RuntimeError(no_weights(state.pending[0], study, out))


def tell_untested(console: Console, study: Study, done: list[dict[str, Any]], results: Path) -> None:
    """`test: true` reaches runs to come; finished ones had no look at the test data, and have no weights any more."""
    lacking = [entry for entry in of(study, done) if study.test and entry.get("test") is None]
    if lacking:
        names = ", ".join(f"{entry['method']} seed {entry['seed']}" for entry in lacking)
        console.print(f"{results}: ended before `test: true`, without test data: {names}; remove them to train again")


def gather(state: State, study: Study, out: Path) -> bool:
    """Take in results whose trainings ended while nobody was there to collect them; whether there were some."""
    before = len(state.done)
    for run in study.runs:
        folder = folder_of(run, out)
        if name_of(run) not in state.finished and (folder / RESULT).is_file():
            check_same(run, folder)
            result = json.loads((folder / RESULT).read_text())
            state.done.append(summary(run, result, study.evaluations))
    return len(state.done) > before


def no_weights(run: Run, study: Study, out: Path) -> str:
    first = start_of(run, study)
    assert first is not None
    return (
        f"{run.method}, seed {run.seed}: expected a checkpoint iter_N.pth of {first.method} to start from, "
        f"got none in {folder_of(first, out)}"
    )


def of(study: Study, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Finished runs that belong to what was asked for."""
    wanted = {(run.method, run.seed) for run in study.runs}
    return [entry for entry in done if (entry["method"], entry["seed"]) in wanted]


def data_folder(study: Study, out: Path, data_root: Path | None) -> Path | None:
    """Where the data are; the embedded pair is drawn."""
    if study.data != "toy":
        if data_root is not None and not data_root.is_dir():
            raise ValueError(f"--data-root: expected a folder, got {str(data_root)!r}")
        return data_root
    return toy.write(data_root or out / "data", TRAIN_IMAGES, VAL_IMAGES)


def progress(state: State) -> dict[Run, dict[str, Any]]:
    from pipa.mmseg.engine.repeatable import read_progress

    return {one.run: read_progress(one.folder) for one in state.running}


def tell(console: Console, state: State, run: Run, jobs: int) -> None:
    """One line per finished run, where the output is no terminal."""
    entry = next(e for e in state.done if (e["method"], e["seed"]) == name_of(run))
    teacher = "" if entry["teacher_mIoU"] is None else f", teacher {entry['teacher_mIoU']:.1f}"
    left = clock(time_left(state.pending, progress(state), state.done, jobs))
    waiting = len(state.pending) + len(state.running)
    console.print(f"{run.method}, seed {run.seed}: mIoU {entry['mIoU']:.1f}{teacher}; {waiting} runs and {left} left")


@contextlib.contextmanager
def locked(out: Path, results: Path) -> Iterator[None]:
    """One study per folder and per results file; the locks go with its process, however that ends.

    The lock of the results stands among the system's temporary files: beside the results it would be one more file of
    somebody's documentation.
    """
    mark = hashlib.sha256(str(results.resolve()).encode()).hexdigest()[:16]
    beside = Path(tempfile.gettempdir()) / f"pipa-study-{os.getuid()}-{mark}.lock"
    with (out / LOCK).open("w") as first, beside.open("w") as second:
        for place, lock in ((out, first), (results, second)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = "--out" if place == out else "--results"
                raise RuntimeError(
                    f"{place}: another `pipa study` is at work here; wait for it or give another {other}"
                ) from None
        yield


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """SIGTERM ends a study as Ctrl-C does."""

    def raised(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, raised)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
