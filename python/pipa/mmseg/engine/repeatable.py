"""`RepeatableHook`: what a training needs besides its checkpoints to end with the same numbers after any kill.

custom_hooks = [dict(type="RepeatableHook")]
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pipa.mmseg.engine.seeding import torch_seed
from pipa.mmseg.engine.work_folder import EVALUATIONS, LOG, PROGRESS
from pipa.mmseg.mmengine_compat import is_training, update_val_interval


@HOOKS.register_module()
class RepeatableHook(Hook):
    """Draws as a function of (seed, rank, iteration), equal starts of all methods, and a diary that survives a kill.

    - Every generator is seeded anew for each iteration, so that dropout of a training without PipaHook resumes exactly.
      (PipaHook seeds again for its own iteration.)
    - Weights are drawn from the seed alone: without this, projection heads would move the draws, and two methods
      of one seed would start from different networks.
    - An evaluation that was due at the resumed iteration, but was cut off by the kill, is made up for.
    - Evaluations go to ``work_dir/evaluations.jsonl``, and the scalars of every ``interval``-th iteration to
      ``work_dir/log.jsonl``, with those that bring gradient norms; after a resume a later line stands for an earlier
      one of the same iteration, and a start from nothing begins both files anew.
    - ``work_dir/progress.json`` says once a second how far the training is, and how long it took with all its starts.

    Args:
        interval: iterations between two lines of the log.

    >>> from mmseg.registry import HOOKS
    >>> import pipa.mmseg
    >>> HOOKS.build(dict(type="RepeatableHook", interval=20)).interval  # in a config: custom_hooks=[dict(...)]
    20
    """

    # After PipaHook, which adds its heads and the teacher's metrics.
    priority = "VERY_LOW"

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._earlier, self._started, self._told = 0.0, time.monotonic(), 0.0

    def before_run(self, runner: Runner) -> None:
        if is_training(runner):
            seed_all(runner.seed, get_rank(), -1)

    def before_train(self, runner: Runner) -> None:
        self._earlier = read_progress(Path(runner.work_dir))["seconds"]
        self._started = time.monotonic()
        loop = runner.train_loop
        if runner.iter == 0:
            self._begin_diaries(runner)
        if runner.iter == 0 or runner.val_loop is None or runner.iter < loop.val_begin:
            return
        update_val_interval(loop)
        due = runner.iter % loop.val_interval == 0 or runner.iter == runner.max_iters
        if due and runner.iter not in {line["iteration"] for line in read_lines(Path(runner.work_dir) / EVALUATIONS)}:
            runner.val_loop.run()

    def _begin_diaries(self, runner: Runner) -> None:
        """A start from nothing: lines of a training that was killed before its first checkpoint are not this one's."""
        for path in (Path(runner.work_dir) / name for name in (EVALUATIONS, LOG)):
            if is_main_process() and path.exists():
                runner.logger.warning(f"{path}: is of an earlier training that this one does not go on from; removed")
                path.unlink()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_all(runner.seed, get_rank(), runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        done = runner.iter + 1
        # Gradient norms come at an interval of their own, and are rare enough for a line each.
        due = done % self.interval == 0 or any("grad_norm" in name for name in outputs or ())
        if due and outputs and is_main_process():
            scalars = {name: float(value) for name, value in outputs.items()}
            append(Path(runner.work_dir) / LOG, {"iteration": done, **scalars})
        self._tell(runner, done)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if metrics is not None and is_main_process():
            values = {name: float(value) for name, value in metrics.items()}
            append(Path(runner.work_dir) / EVALUATIONS, {"iteration": runner.iter, **values})
        self._tell(runner, runner.iter, at_once=True)

    def _tell(self, runner: Runner, iteration: int, at_once: bool = False) -> None:
        now = time.monotonic()
        if not is_main_process() or (now - self._told < 1 and not at_once):
            return
        self._told = now
        content = {
            "iteration": iteration,
            "iterations": runner.max_iters,
            "seconds": round(self._earlier + now - self._started, 2),
        }
        path = Path(runner.work_dir) / PROGRESS
        # Renamed, so that nobody reads half of it; not synced: the next second brings another one.
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content))
        part.replace(path)


def read_progress(folder: Path) -> dict[str, Any]:
    """Iteration, iterations (0 where the training has not told yet) and seconds of a training so far."""
    try:
        return json.loads((folder / PROGRESS).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {"iteration": 0, "iterations": 0, "seconds": 0.0}


def seed_all(seed: int, rank: int, iteration: int) -> None:
    """Seed Python's, NumPy's and torch's global generators from a seed, a rank and an iteration (-1: the start)."""
    words = np.random.SeedSequence((seed, rank, iteration + 1, 1)).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  (third-party layers draw from the global generator)
    torch.manual_seed(torch_seed(words))


def append(path: Path, line: dict[str, Any]) -> None:
    """A line of JSON at the end of a file, on its own line even after a half-written one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a diary in the order of the iterations; a later line stands for an earlier one."""
    if not path.is_file():
        return []
    found: dict[int, dict[str, Any]] = {}
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the kill came while it was written
            continue
        found[line["iteration"]] = line
    return [found[key] for key in sorted(found)]
