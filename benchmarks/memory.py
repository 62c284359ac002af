"""Resident memory of a training over many iterations: `python benchmarks/memory.py 2000 docs/memory.svg`.

Tiny networks, so that the minutes go into iterations: a leak per iteration shows whatever the size of the network.
Every term is on, the memory bank too; one loader worker per domain; a checkpoint every 20 iterations.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from matplotlib.figure import Figure  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS  # noqa: E402

import tiny  # noqa: E402
from pipa.files.atomic import write_text  # noqa: E402
from pipa.viz.svg import svg_of  # noqa: E402

EVERY = 20


def resident(pid: int) -> float:
    """Resident set of a process in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Rss")


@HOOKS.register_module()
class MemoryHook(Hook):
    rows: list[tuple[int, float, float]] = []  # noqa: RUF012  (read by main)

    def after_train_iter(self, runner: Any, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        if batch_idx % EVERY == 0:
            me = os.getpid()
            children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
            self.rows.append((batch_idx, resident(me), sum(resident(int(c)) for c in children)))


def plot(rows: list[tuple[int, float, float]], path: Path) -> None:
    """The two curves as SVG."""
    iterations, training, workers = zip(*rows, strict=True)
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(iterations, training, label="training")
    axes.plot(iterations, workers, label="loader workers")
    axes.set(title="resident memory, MiB", xlabel="iteration")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    write_text(path, svg_of(figure))


def main() -> None:
    iterations, out = int(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        root = tiny.data(Path(folder) / "data")
        cfg = tiny.config(root, Path(folder) / "work", iterations=iterations, workers=1, pixel_memory_bank=64)
        cfg["default_hooks"]["checkpoint"].update(interval=20, max_keep_ckpts=2)
        cfg["param_scheduler"][1]["end"] = iterations
        cfg["custom_hooks"].append(dict(type="MemoryHook"))
        tiny.train(cfg)
    rows = MemoryHook.rows
    plot(rows, out)
    settled = [row for row in rows if row[0] >= iterations // 10]
    half = len(settled) // 2
    first, second = (sum(row[1] for row in part) / len(part) for part in (settled[:half], settled[half:]))
    report = dict(iterations=iterations, first_mib=round(first, 1), second_mib=round(second, 1), last_mib=rows[-1][1])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
