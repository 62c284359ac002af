"""Trainings that start from the weights of another one of the study: what must run first, and what may go."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from pipa.study.definition import Run, Study
from pipa.study.worker import RESULT

Finished = Collection[tuple[str, int]]


def folder_of(run: Run, out: Path) -> Path:
    return (out / "runs" / run.folder).resolve()


def start_of(run: Run, study: Study) -> Run | None:
    """The run whose weights ``run`` starts from."""
    if run.start is None:
        return None
    return next(other for other in study.runs if (other.method, other.seed) == (run.start, run.seed))


def weights_of(run: Run, out: Path) -> Path | None:
    """Last checkpoint of a finished run, where it is still there."""
    folder = folder_of(run, out)
    found = sorted(folder.glob("iter_*.pth"), key=lambda path: int(path.stem.removeprefix("iter_")))
    return found[-1] if found and (folder / RESULT).is_file() else None


def to_do(study: Study, finished: Finished, out: Path) -> list[Run]:
    """Runs without a result, and finished ones again whose weights such a run needs and nobody kept."""
    wanted = {run for run in study.runs if (run.method, run.seed) not in finished}
    for run in list(wanted):
        start = start_of(run, study)
        while start is not None and weights_of(start, out) is None:
            wanted.add(start)
            start = start_of(start, study)
    return [run for run in study.runs if run in wanted]


def next_ready(pending: list[Run], study: Study, out: Path) -> Run | None:
    """The first of ``pending`` whose start has been trained."""
    for run in pending:
        start = start_of(run, study)
        if start is None or weights_of(start, out) is not None:
            return run
    return None


def is_needed(run: Run, study: Study, finished: Finished) -> bool:
    """Whether a run without a result starts from the weights of ``run``."""
    return any(start_of(other, study) is run and (other.method, other.seed) not in finished for other in study.runs)


def release(study: Study, finished: Finished, out: Path) -> None:
    """Remove the folders of finished runs that no other needs any more."""
    for run in study.runs:
        if (run.method, run.seed) in finished and weights_of(run, out) and not is_needed(run, study, finished):
            shutil.rmtree(folder_of(run, out))
