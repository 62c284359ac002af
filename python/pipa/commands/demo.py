"""`pipa demo`: adapt a small network on the embedded domain pair and write a report."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table

from pipa import toy, viz
from pipa.commands.demo_training import METHODS, SAMPLES, Outcome, images, quiet_config, run_all
from pipa.environment import require_packages
from pipa.files.atomic import refuse_other, write_text
from pipa.files.images import read_image, read_label
from pipa.viz.report.page import refuse_foreign

RESULTS, REPORT = "results.json", "report.html"
TRAIN_IMAGES, VAL_IMAGES = 300, 60
# What adapting brings, and what the two contrasts add to it.
COMPARED = (("self-training (teacher)", "source-only"), ("PiPa (teacher)", "self-training (teacher)"))
LONGEST = ("PiPa", "self-training", "source-only", "target oracle")


def demo(out: Path, seeds: Sequence[int] = (0,), iterations: int | None = None, oracle: bool = False) -> Path:
    """Train every method for every seed, print one table, write ``report.html`` and ``results.json`` into ``out``.

    Trainings run side by side, one CPU thread each. A finished training (same settings) is not repeated.

    Returns:
        Path of the report.

    Raises:
        ValueError: no iteration, a seed below 0 or one twice, or a folder with finished trainings of other settings.
        FileExistsError: report or results would replace a file that no demo has written.
    """
    if iterations is not None and iterations < 1:
        raise ValueError(f"--iterations: expected 1 or more, got {iterations}")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds: expected numbers of 0 or more, each once, got {list(seeds)}")
    require_packages()  # before anything is drawn
    refuse_other(out / RESULTS, is_results, "result of a demo")
    refuse_foreign(out / REPORT)
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
    write_text(out / RESULTS, json.dumps([summary(o) for o in outcomes], indent=1) + "\n")
    return write_report(out, data, outcomes, methods, list(seeds))


def is_results(path: Path) -> bool:
    """Whether a file holds the numbers that an earlier demo has written; those of a study are another matter."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, list) and all(isinstance(run, dict) and "method" in run for run in content)


def samples() -> list[tuple[np.ndarray, np.ndarray]]:
    """The validation images that the report shows, RGB, and their labels."""
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
    """Classes down, methods across; headers break into lines, so that all of it fits 80 columns."""
    entries = rows(outcomes, methods)
    heads = [name.replace("-", "-\n").replace(" ", "\n") for name, _, _ in entries]
    columns = [Column(head, justify="right", no_wrap=True) for head in heads]
    table = Table("IoU, %", *columns, title="embedded domain pair, validation images of the target")
    for class_name in toy.CLASSES:
        cells = [f"{mean(runs, f'{prefix}IoU.{class_name}')[0]:.1f}" for _, prefix, runs in entries]
        table.add_row(class_name, *cells)
    table.add_section()
    totals = []
    for _, prefix, runs in entries:
        middle, spread = mean(runs, f"{prefix}mIoU")
        totals.append(f"{middle:.1f}" + (f"\n± {spread:.1f}" if len(runs) > 1 else ""))
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
        out / REPORT,
        title="PiPa on the embedded domain pair",
        classes=toy.CLASSES,
        palette=toy.PALETTE,
        runs=runs,
        compare=[pair for pair in COMPARED if set(pair) <= {run.name for run in runs}],
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
