"""Trainings that start from the weights of another one of the study: what must run first, and what may go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from pipa.files.atomic import write_text
from pipa.files.numbered import numbered
from pipa.study.definition import Run, Study
from pipa.study.worker import RESULT, RUN

REMOVED = ".removed"

Names = Collection[tuple[str, int]]
"""Runs by method and seed."""


def folder_of(run: Run, out: Path) -> Path:
    return (out / "runs" / run.folder).resolve()


def name_of(run: Run) -> tuple[str, int]:
    return run.method, run.seed


def as_text(run: Run) -> str:
    """A run as JSON, in which keys are text and sizes are lists."""
    return json.dumps(asdict(run))


def check_same(run: Run, folder: Path) -> None:
    """What a folder holds was made with the run's settings.

    Raises:
        ValueError: it was not; the message names the folder.
    """
    written = folder / RUN
    if written.is_file() and {"start": None, **json.loads(written.read_text())["run"]} != json.loads(as_text(run)):
        raise ValueError(f"{folder}: holds a run of other settings; remove it or give another --out")


def start_of(run: Run, study: Study) -> Run | None:
    """The run whose weights ``run`` starts from."""
    if run.start is None:
        return None
    return next(other for other in study.runs if name_of(other) == (run.start, run.seed))


def checkpoints(run: Run, out: Path) -> list[Path]:
    """Checkpoints of a run, the newest first.

    Raises:
        ValueError: they are of a run with other settings.
    """
    folder = folder_of(run, out)
    found = numbered(folder)
    if found:
        check_same(run, folder)
    return found


def weights_of(run: Run, out: Path) -> Path | None:
    """Last checkpoint of a finished run, where it is still there."""
    found = checkpoints(run, out)
    return found[0] if found and (folder_of(run, out) / RESULT).is_file() else None


def is_ready(run: Run, study: Study, out: Path) -> bool:
    """A run can begin or go on: the weights that it starts from are there, or checkpoints of its own."""
    start = start_of(run, study)
    return start is None or bool(checkpoints(run, out)) or weights_of(start, out) is not None


def to_do(study: Study, finished: Names, out: Path) -> list[Run]:
    """Runs without a result, and finished ones again whose weights such a run needs and nobody kept."""
    wanted = {run for run in study.runs if name_of(run) not in finished}
    for run in list(wanted):
        while not is_ready(run, study, out):
            start = start_of(run, study)
            assert start is not None
            wanted.add(start)
            run = start
    return [run for run in study.runs if run in wanted]


def next_ready(pending: list[Run], study: Study, out: Path) -> Run | None:
    """The first of ``pending`` that can begin."""
    return next((run for run in pending if is_ready(run, study, out)), None)


def is_needed(run: Run, study: Study, finished: Names, waiting: Names) -> bool:
    """Whether a method of the study, asked for now or not, has yet to start from the weights of ``run``.

    waiting: runs that train or wait, also those with a result, which train again for their weights.
    """
    others = [(method, run.seed) for method, start in study.starts.items() if start == run.method]
    return any(name not in finished or name in waiting for name in others)


def keep(study: Study, out: Path) -> None:
    """Let the weights of finished runs stay that are kept for others alone so far: somebody asks for them now."""
    for run in study.runs:
        folder = folder_of(run, out)
        if checkpoints(run, out) and (folder / RESULT).is_file():
            wanted = json.loads((folder / RUN).read_text())
            write_text(folder / RUN, json.dumps({**wanted, "asked": True, "keep_checkpoints": True}, indent=1))


def release(study: Study, finished: Names, waiting: Names, out: Path) -> None:
    """Remove the folders of finished runs without weights, or with weights kept for others alone, which are done.

    Call it once the results are written: the folder holds them until then.
    """
    for run in study.runs:
        folder = folder_of(run, out)
        if name_of(run) not in finished or name_of(run) in waiting or not (folder / RESULT).is_file():
            continue
        # A folder of before there were starts was kept because somebody wanted it.
        asked = json.loads((folder / RUN).read_text()).get("asked", True)
        if not any(folder.glob("*.pth")) or not (asked or is_needed(run, study, finished, waiting)):
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a run's folder; killed on the way, it leaves nothing that passes for a run."""
    away = folder.with_name(f".{folder.name}{REMOVED}")
    shutil.rmtree(away, ignore_errors=True)
    folder.rename(away)
    shutil.rmtree(away)


def sweep(out: Path) -> None:
    """Remove what a removal that was killed has left."""
    for folder in (out / "runs").glob(f".*{REMOVED}"):
        shutil.rmtree(folder)
