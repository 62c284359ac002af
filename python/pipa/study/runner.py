"""The trainings of a study, side by side, each in a process of one thread (or with a GPU of its own)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live

from pipa import toy
from pipa.files.atomic import write_text
from pipa.study.chain import (
    check_same,
    folder_of,
    is_needed,
    keep,
    name_of,
    next_ready,
    release,
    start_of,
    to_do,
    weights_of,
)
from pipa.study.definition import Run, Study
from pipa.study.progress import clock, table, time_left
from pipa.study.results import kept, summary, write_results
from pipa.study.worker import LOCK, RESULT, RUN

TRAIN_IMAGES, VAL_IMAGES = 300, 60  # of the embedded pair, as in the demo
OUTPUT = "output.txt"
# A training that is asked to stop saves first; after this many seconds it is killed, and loses what came since its
# newest checkpoint.
PATIENCE = 60.0


@dataclass
class Running:
    """A training in its process."""

    run: Run
    folder: Path
    process: subprocess.Popen[bytes]
    device: int


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
    with locked(out), signals():
        done = kept(results, study)
        state = State([], done)
        if gather(state, study, out):
            write_results(results, study, state.done)
        if keep_checkpoints:
            keep(study, out)
        state.pending = to_do(study, state.finished, out)
        environment = child_environment(data_folder(study, out, data_root), devices)
        live = Live(console=console, refresh_per_second=1, transient=True) if console.is_terminal else None
        try:
            with live or contextlib.nullcontext():
                while state.pending or state.running:
                    while state.pending and len(state.running) < jobs:
                        run = next_ready(state.pending, study, out)
                        if run is None:
                            break  # the training that it starts from is at work
                        needed = is_needed(run, study, state.finished, state.waiting)
                        state.pending.remove(run)
                        free = min(set(range(jobs)) - {r.device for r in state.running})
                        state.running.append(
                            start(run, study, out, free, devices, environment, keep_checkpoints, needed)
                        )
                    if not state.running:
                        raise RuntimeError(no_weights(state.pending[0], study, out))
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


# glibc then keeps freed memory instead of asking for it anew: an iteration on the CPU takes an eighth less time.
KEEP_FREED = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def child_environment(data: Path | None, devices: int) -> dict[str, str]:
    environment = dict(os.environ)
    if data is not None:
        environment["PIPA_DATA"] = str(data.resolve())
    if not devices:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = "1"
        for name in KEEP_FREED:
            environment.setdefault(name, str(2**33))
    return environment


def gpu_count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def start(
    run: Run,
    study: Study,
    out: Path,
    slot: int,
    devices: int,
    environment: dict[str, str],
    asked: bool,
    needed: bool,
) -> Running:
    """Start or go on with a run in its folder. Its weights stay where they are asked for or others start from them.

    Raises:
        ValueError: the folder holds an unfinished run of other settings.
    """
    folder = folder_of(run, out)
    folder.mkdir(parents=True, exist_ok=True)
    first = start_of(run, study)
    weights = None if first is None else weights_of(first, out)
    wanted = {
        "run": asdict(run),
        "keep_checkpoints": asked or needed,
        "asked": asked,
        "test": study.test,
        "weights": None if weights is None else str(weights),
    }
    check_same(run, folder)
    (folder / RESULT).unlink(missing_ok=True)  # weights beside a result are the last ones
    write_text(folder / RUN, json.dumps(wanted, indent=1))
    own = dict(environment)
    if devices:
        visible = own.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(devices)]
        own["CUDA_VISIBLE_DEVICES"] = names[slot % devices]
    with (folder / OUTPUT).open("ab") as output:
        command = [sys.executable, "-m", "pipa.study.worker", str(folder)]
        # A session of its own: Ctrl-C reaches this process, which asks each training once.
        process = subprocess.Popen(
            command, env=own, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    return Running(run, folder, process, slot)


def collect(one: Running) -> dict[str, Any]:
    """What a run whose process has ended has left in its folder."""
    code = one.process.returncode
    if code != 0 or not (one.folder / RESULT).is_file():
        lines = [line for line in (one.folder / OUTPUT).read_text(errors="replace").splitlines() if line.strip()]
        said = lines[-1] if lines else "it said nothing"
        name = f"{one.run.method}, seed {one.run.seed}"
        raise RuntimeError(f"{name}: the training ended with code {code}: {said} (all of it: {one.folder / OUTPUT})")
    return json.loads((one.folder / RESULT).read_text())


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


def stop(running: list[Running]) -> None:
    """Ask the trainings to save and end; wait for them."""
    for one in running:
        one.process.terminate()
    end = time.monotonic() + PATIENCE
    for one in running:
        try:
            one.process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """One study per folder; the lock goes with its process, however that ends."""
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"{out}: another `pipa study` is at work here; wait for it or give another --out"
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
