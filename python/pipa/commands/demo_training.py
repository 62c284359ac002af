"""The trainings of `pipa demo`: side by side, one process and one thread each, with a bar that follows the log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipa import toy, viz
from pipa.environment import hide_remarks
from pipa.files.atomic import write, write_text

SAMPLES = 4  # validation images shown in the report
# Self-training is trained too, so that nobody credits the contrasts with what it does.
METHODS = {
    "source-only": "toy_source_only",
    "self-training": "toy_self_training",
    "PiPa": "toy_pipa",
    "target oracle": "toy_oracle",
}


@dataclass
class Outcome:
    """What one training left behind."""

    method: str
    seed: int
    work_dir: Path
    seconds: float
    final: dict[str, float]
    curves: dict[str, list[tuple[float, float]]]

    def iou(self, prefix: str = "") -> list[float | None]:
        return [self.final.get(f"{prefix}IoU.{name}") for name in toy.CLASSES]


def run_all(
    jobs: Sequence[tuple[str, int]], out: Path, data: Path, iterations: int | None, console: Console
) -> list[Outcome]:
    """Train all jobs in processes of one thread each, with one bar per job."""
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console
    )
    # spawn: a forked child of a process that has used torch's thread pool hangs
    with bars, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: dict[Future[Outcome], tuple[Any, Path]] = {}
        for method, seed in jobs:
            work_dir = out / f"{method.replace(' ', '_')}_seed{seed}"
            task = bars.add_task(f"{method:<13} seed {seed}", total=None, note="")
            running[pool.submit(train_one, method, seed, work_dir, data, iterations)] = (task, work_dir)
        try:
            while not all(future.done() for future in running):
                for task, work_dir in running.values():
                    show(bars, task, work_dir)
                for future in running:
                    if future.done():
                        future.result()  # an error in one training ends the demo at once
                time.sleep(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        outcomes = [future.result() for future in running]
        for task, work_dir in running.values():
            show(bars, task, work_dir)
    return outcomes


def show(bars: Progress, task: Any, work_dir: Path) -> None:
    """Move a bar to where the training's own log says it is."""
    plan = work_dir / "plan.json"
    if not plan.is_file():
        return
    lines = scalars(work_dir)
    train = [line for line in lines if "loss" in line]
    val = [line for line in lines if "mIoU" in line]
    note = f"mIoU {val[-1]['mIoU']:.1f}" if val else ""
    done = train[-1]["step"] if train else 0
    bars.update(task, total=json.loads(plan.read_text())["iterations"], completed=done, note=note)


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    """The training's scalars so far, oldest first."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    if not files:
        return []
    lines = files[-1].read_text().splitlines()
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:  # the last line may be half written while the training runs
            break
    return parsed


def train_one(method: str, seed: int, work_dir: Path, data: Path, iterations: int | None) -> Outcome:
    """Train one method in this process and keep what the report needs."""
    os.environ["PIPA_DATA"] = str(data.resolve())
    os.environ["OMP_NUM_THREADS"] = "1"
    config = quiet_config(METHODS[method], [f"randomness.seed={seed}"], str(work_dir))
    from pipa.mmseg.run.train import train

    config.log_level = "ERROR"  # the bars show what matters; scalars.json and the log file hold the rest
    if iterations is not None:
        set_iterations(config, iterations)
    settings = {"config": config.pretty_text}
    done = work_dir / "outcome.json"
    if done.is_file():
        kept = json.loads(done.read_text())
        if kept["settings"] == settings:
            return Outcome(method, seed, work_dir, kept["seconds"], kept["final"], kept["curves"])
        length = json.loads((work_dir / "plan.json").read_text())["iterations"]
        raise ValueError(
            f"{work_dir}: holds a finished training of other settings ({length} iterations, where "
            f"{config.train_cfg.max_iters} are asked for); choose another --out, or remove it"
        )
    work_dir.mkdir(parents=True, exist_ok=True)
    write_text(work_dir / "plan.json", json.dumps({"iterations": config.train_cfg.max_iters}))
    started = time.monotonic()
    runner = train(config, threads=1, overwrite=True)
    seconds = time.monotonic() - started
    if runner.iter < runner.max_iters:
        # A signal ends a training cleanly; its numbers must not pass for those of a whole one.
        raise RuntimeError(f"{work_dir}: the training was stopped after {runner.iter} of {runner.max_iters} iterations")
    save_panels(runner, work_dir)
    final, curves = read_curves(scalars(work_dir))
    write_text(done, json.dumps({"settings": settings, "seconds": seconds, "final": final, "curves": curves}))
    return Outcome(method, seed, work_dir, seconds, final, curves)


def quiet_config(name: str, options: Sequence[str] = (), work_dir: str | None = None) -> Any:
    """A shipped config, without mmengine's remarks: they would tear the bars apart."""
    hide_remarks()  # before the import, which makes the first of them

    from pipa.mmseg.run.train import hush, load_config

    hush()
    return load_config(name, options, work_dir)


def set_iterations(config: Any, iterations: int) -> None:
    """Shorten or lengthen a toy training; schedules and warm-ups scale with it."""
    scale = iterations / config.train_cfg.max_iters
    config.train_cfg.max_iters = iterations
    config.train_cfg.val_interval = max(1, iterations // 3)
    config.default_hooks.checkpoint.interval = iterations
    config.default_hooks.logger.interval = min(config.default_hooks.logger.interval, max(1, iterations // 4))
    for schedule in config.param_scheduler:
        schedule.begin, schedule.end = round(schedule.begin * scale), max(1, round(schedule.end * scale))
    for hook in config.get("custom_hooks") or []:
        if hook.type == "PipaHook":
            hook.patch_warmup = round(hook.patch_warmup * scale)


def read_curves(lines: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, list[tuple[float, float]]]]:
    """Last validation, and every scalar over the iterations."""
    final: dict[str, float] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        validation = "mIoU" in line
        if validation:
            final = {k: v for k, v in line.items() if isinstance(v, (int, float)) and v == v}
        for key, value in line.items():
            wanted = key in ("mIoU", "teacher/mIoU") if validation else key.startswith(("loss", "pseudo", "grad"))
            if wanted and isinstance(value, (int, float)):
                curves.setdefault(key, []).append((line["step"], value))
    return final, curves


def save_panels(runner: Any, work_dir: Path) -> None:
    """Arrays of the last iteration and predictions on a few validation images."""
    from pipa.inference import Segmenter
    from pipa.mmseg.checkpoints.description import describe
    from pipa.mmseg.engine.pipa_hook import PipaHook
    from pipa.mmseg.run.network import SegmentorNetwork

    segmenter = Segmenter(SegmentorNetwork(runner.model.eval(), describe(runner.cfg)))
    arrays: dict[str, Any] = {f"prediction_{i}": segmenter.predict(image).label_hw for i, image in enumerate(images())}
    hook = next((hook for hook in runner.hooks if isinstance(hook, PipaHook)), None)
    if hook is not None and hook.pipa is not None and hook.pipa.last is not None:
        last, mean, std = hook.pipa.last, hook.pipa.settings["mean"], hook.pipa.settings["std"]
        for name in ("source_image", "target_image", "mixed_image"):
            arrays[name] = viz.denormalize(last[name][0], mean, std)
        for name in ("source_label", "pseudo_label", "mixed_label", "pseudo_weight", "mixed_weight"):
            arrays[name] = last[name][0].squeeze().numpy()
        if last.get("patches") is not None:
            arrays["patch_boxes"] = np.array(last["patches"][:2])
    write(work_dir / "panels.npz", lambda file: np.savez_compressed(file, **arrays))


def images() -> list[Path]:
    """The validation images that the report shows."""
    return sorted((Path(os.environ["PIPA_DATA"]) / "target/leftImg8bit/val").rglob("*_leftImg8bit.png"))[:SAMPLES]
