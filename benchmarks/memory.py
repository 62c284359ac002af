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

from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS  # noqa: E402

import tiny  # noqa: E402

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
    """The two curves as a small SVG."""
    width, height, left, right, bottom = 660, 260, 60, 30, 40
    top_value = max(max(a, b) for _, a, b in rows) * 1.1
    last = rows[-1][0] or 1

    def place(iteration: int, value: float) -> tuple[float, float]:
        x = left + iteration / last * (width - left - right)
        return x, height - bottom - value / top_value * (height - bottom - 10)

    def points(column: int) -> str:
        return " ".join("{:.1f},{:.1f}".format(*place(row[0], row[column])) for row in rows)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left} 10V{height - bottom}H{width - right}" fill="none" stroke="#888"/>',
    ]
    for share in (0, 0.5, 1):
        y = height - bottom - share / 1.1 * (height - bottom - 10)
        lines.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{share * top_value / 1.1:.0f}</text>')
        x = left + share * (width - left - right)
        lines.append(f'<text x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{share * last:.0f}</text>')
    lines += [
        f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">iteration</text>',
        '<text x="66" y="20">resident memory in MiB: training (blue), loader workers (orange)</text>',
        f'<polyline fill="none" stroke="#1f6fb4" stroke-width="2" points="{points(1)}"/>',
        f'<polyline fill="none" stroke="#e07b16" stroke-width="2" points="{points(2)}"/>',
        "</svg>",
    ]
    path.write_text("\n".join(lines) + "\n")


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
    out.parent.mkdir(parents=True, exist_ok=True)
    plot(rows, out)
    settled = [row for row in rows if row[0] >= iterations // 10]
    half = len(settled) // 2
    first, second = (sum(row[1] for row in part) / len(part) for part in (settled[:half], settled[half:]))
    report = dict(iterations=iterations, first_mib=round(first, 1), second_mib=round(second, 1), last_mib=rows[-1][1])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
