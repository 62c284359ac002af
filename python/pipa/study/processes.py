"""The process of a training: of one thread, or with a GPU of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipa.files.atomic import write_text
from pipa.study.chain import check_same, folder_of, start_of, weights_of
from pipa.study.definition import Run, Study
from pipa.study.worker import RESULT, RUN

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


def check_runs(runs: Iterable[Run], study: Study, environment: dict[str, str], data_root: str | None) -> None:
    """Refuse a method that cannot be trained, or whose trainings would have no score, before the first one trains.

    Raises:
        ValueError: names the method, its config, what was expected and what came.
    """
    wanted = {
        "runs": [asdict(run) for run in {run.method: run for run in runs}.values()],
        "test": study.test,
        "evaluations": study.evaluations,
        "data_root": data_root,
    }
    command = [sys.executable, "-W", "ignore", "-m", "pipa.study.worker", "--check"]
    asked = subprocess.run(command, input=json.dumps(wanted), env=environment, capture_output=True, text=True)
    if asked.returncode:
        lines = [line for line in asked.stderr.splitlines() if line.strip()]
        raise ValueError(lines[-1] if lines else f"{study.name}: the check of its methods ended without a word")


def start(
    run: Run,
    study: Study,
    out: Path,
    slot: int,
    devices: int,
    environment: dict[str, str],
    asked: bool,
    needed: bool,
    data_root: str | None = None,
    like: str | None = None,
) -> Running:
    """Start or go on with a run in its folder. Its weights stay where they are asked for or others start from them.

    Args:
        data_root: for the config's variable of that name.
        like: digest of the config of the method's finished runs.

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
        "data_root": data_root,
        "like": like,
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
        command = [sys.executable, "-m", "pipa.study.worker", str(folder), str(os.getpid())]
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
