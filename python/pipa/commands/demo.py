"""`pipa demo`: adapt a small network on the embedded domain pair and write a report."""

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
from rich.table import Table

from pipa import toy, viz
from pipa.environment import hide_remarks
from pipa.files.images import read_image, read_label

TRAIN_IMAGES, VAL_IMAGES = 300, 60
SAMPLES = 4  # validation images shown in the report
# Self-training is trained too, so that nobody credits the contrasts with what it does.
METHODS = {
    "source-only": "toy_source_only",
    "self-training": "toy_self_training",
    "PiPa": "toy_pipa",
    "target oracle": "toy_oracle",
}
LONGEST = ("PiPa", "self-training", "source-only", "target oracle")


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


def demo(out: Path, seeds: Sequence[int] = (0,), iterations: int | None = None, oracle: bool = False) -> Path:
    """Train every method for every seed, print one table, write ``report.html`` and ``results.json`` into ``out``.

    Trainings run side by side, one CPU thread each. A finished training (same settings) is not repeated.

    Returns:
        Path of the report.
    """
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    data = out / "data"
    with Progress(TextColumn("drawing the domain pair"), BarColumn(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task("draw", total=None)
        toy.write(data, TRAIN_IMAGES, VAL_IMAGES, progress=lambda n, total: bar.update(task, completed=n, total=total))
    methods = [name for name in METHODS if oracle or name != "target oracle"]
    # The longest trainings first, so that the processes end together.
    jobs = sorted(((m, s) for s in seeds for m in methods), key=lambda job: LONGEST.index(job[0]))
    outcomes = run_all(jobs, out, data, iterations, console)
    print_table(outcomes, methods, console)
    (out / "results.json").write_text(json.dumps([summary(o) for o in outcomes], indent=1) + "\n")
    return write_report(out, data, outcomes, methods, list(seeds))


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
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / "plan.json").write_text(json.dumps({"iterations": config.train_cfg.max_iters}))
    started = time.monotonic()
    runner = train(config, threads=1, overwrite=True)
    seconds = time.monotonic() - started
    if runner.iter < runner.max_iters:
        # A signal ends a training cleanly; its numbers must not pass for those of a whole one.
        raise RuntimeError(f"{work_dir}: the training was stopped after {runner.iter} of {runner.max_iters} iterations")
    save_panels(runner, work_dir)
    final, curves = read_curves(scalars(work_dir))
    done.write_text(json.dumps({"settings": settings, "seconds": seconds, "final": final, "curves": curves}))
    return Outcome(method, seed, work_dir, seconds, final, curves)


def quiet_config(name: str, options: Sequence[str] = (), work_dir: str | None = None) -> Any:
    """A shipped config, without mmengine's remarks: they would tear the bars apart."""
    from pipa.mmseg.run.train import hush, load_config

    hide_remarks()
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
    np.savez_compressed(work_dir / "panels.npz", **arrays)


def images() -> list[Path]:
    """The validation images that the report shows."""
    return sorted((Path(os.environ["PIPA_DATA"]) / "target/leftImg8bit/val").rglob("*_leftImg8bit.png"))[:SAMPLES]


def samples() -> list[tuple[np.ndarray, np.ndarray]]:
    """Those images, RGB, and their labels."""
    labels = sorted((Path(os.environ["PIPA_DATA"]) / "target/gtFine/val").rglob("*_labelTrainIds.png"))[:SAMPLES]
    pictures = [np.ascontiguousarray(read_image(path)[..., ::-1]) for path in images()]  # read as BGR
    return list(zip(pictures, map(read_label, labels), strict=True))


def losses(outcome: Outcome) -> dict[str, list[tuple[float, float]]]:
    return {name: curve for name, curve in outcome.curves.items() if name.startswith("loss")}


def mean(outcomes: Sequence[Outcome], key: str) -> tuple[float, float]:
    """Mean and sample deviation over seeds."""
    values = np.array([o.final[key] for o in outcomes])
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def rows(outcomes: Sequence[Outcome], methods: Sequence[str]) -> list[tuple[str, str, list[Outcome]]]:
    """(row name, metric prefix, runs) of the table; an adapted method also has a teacher."""
    table = []
    for method in methods:
        runs = [o for o in outcomes if o.method == method]
        table.append((method, "", runs))
        if all("teacher/mIoU" in o.final for o in runs):
            table.append((f"{method} (teacher)", "teacher/", runs))
    return table


def print_table(outcomes: Sequence[Outcome], methods: Sequence[str], console: Console) -> None:
    table = Table("IoU on target val, %", title="embedded domain pair")
    entries = rows(outcomes, methods)
    for name, _, _ in entries:
        table.add_column(name, justify="right")
    for class_name in toy.CLASSES:
        cells = [f"{mean(runs, f'{prefix}IoU.{class_name}')[0]:.1f}" for _, prefix, runs in entries]
        table.add_row(class_name, *cells)
    table.add_section()
    totals = []
    for _, prefix, runs in entries:
        middle, spread = mean(runs, f"{prefix}mIoU")
        totals.append(f"{middle:.1f}" + (f" ± {spread:.1f}" if len(runs) > 1 else ""))
    table.add_row("mIoU", *totals)
    console.print(table)


def summary(outcome: Outcome) -> dict[str, Any]:
    return {"method": outcome.method, "seed": outcome.seed, "seconds": round(outcome.seconds, 1), **outcome.final}


def write_report(
    out: Path, data: Path, outcomes: Sequence[Outcome], methods: Sequence[str], seeds: Sequence[int]
) -> Path:
    """One HTML file: table, curves, panels of an iteration, predictions before and after."""
    os.environ["PIPA_DATA"] = str(data.resolve())
    first = {m: next(o for o in outcomes if o.method == m and o.seed == seeds[0]) for m in methods}
    runs = []
    for m, o in first.items():
        runs.append(viz.Run(m, o.iou(), o.curves.get("mIoU", []), losses(o), o.seconds, note=f"seed {seeds[0]}"))
        if "teacher/mIoU" in o.final:
            runs.append(viz.Run(f"{m} (teacher)", o.iou("teacher/"), o.curves.get("teacher/mIoU", [])))
    panels = {m: np.load(o.work_dir / "panels.npz") for m, o in first.items()}
    step = {k: panels["PiPa"][k] for k in panels["PiPa"].files if not k.startswith("prediction_")}
    if "patch_boxes" in step:
        step["patch_boxes"] = [tuple(int(v) for v in box) for box in step["patch_boxes"]]
    pictures = []
    for i, (image, label) in enumerate(samples()):
        predictions = {m: panels[m][f"prediction_{i}"] for m in methods}
        pictures.append({"image": image, "ground truth": label, **predictions})
    table = None
    if len(seeds) > 1:
        miou = {m: [o.final["mIoU"] for s in seeds for o in outcomes if (o.method, o.seed) == (m, s)] for m in methods}
        table = viz.SeedTable([str(s) for s in seeds], miou)
    return viz.write_report(
        out / "report.html",
        title="PiPa on the embedded domain pair",
        classes=toy.CLASSES,
        palette=toy.PALETTE,
        runs=runs,
        settings=shown_settings(),
        sections=[
            viz.step_panels(step, toy.PALETTE, "The last training iteration of PiPa"),
            viz.prediction_panels(pictures, toy.PALETTE),
        ],
        seeds=table,
    )


def shown_settings() -> dict[str, Any]:
    """The settings of the PiPa run that explain its numbers."""
    config = quiet_config("toy_pipa")
    hook = next(h for h in config.custom_hooks if h.type == "PipaHook")
    chosen = {k: v for k, v in {**config.pipa, **hook}.items() if k not in ("type", "target_dataloader")}
    return {
        "iterations": config.train_cfg.max_iters,
        "crop": config.crop_size,
        "batch": f"{config.train_dataloader.batch_size} + {config.target_dataloader.batch_size}",
        "learning rate": config.optim_wrapper.optimizer.lr,
        **chosen,
    }
