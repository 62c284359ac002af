"""Cost of the exact contrast against the number of pixels, beside whole matrices in plain PyTorch where they fit:
`python benchmarks/scaling.py docs/scaling.svg`. N anchors are the keys too, 256 channels, forward and backward.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from measure import best, first_run
from pipa import functional as F
from pipa.files.atomic import write_text
from pipa.viz.svg import svg_of

CHANNELS, CLASSES = 256, 19
# The twin holds several N x N matrices; at 16k they take more than 5 GB.
MOST_TWIN = 8192


def ours(feat: Tensor, label: Tensor) -> Tensor:
    loss = F.contrast(feat, feat, (label, label), exclude_self=True)
    return torch.cat([torch.autograd.grad(loss, feat)[0].flatten(), loss.detach()[None]])


def twin(feat: Tensor, label: Tensor) -> Tensor:
    rows = torch.nn.functional.normalize(feat, dim=1)
    scores = rows @ rows.T / 0.1
    itself = torch.eye(len(rows), dtype=torch.bool)
    same = (label[:, None] == label[None]) & ~itself
    log_sum = scores.masked_fill(itself, -torch.inf).logsumexp(1)
    loss = (log_sum - (scores * same).sum(1) / same.sum(1)).mean()
    return torch.cat([torch.autograd.grad(loss, feat)[0].flatten(), loss.detach()[None]])


def plot(rows: list[tuple[int, float, float, float | None, float | None]], path: Path) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    dense = [row for row in rows if row[3] is not None]
    for axis, column, title in ((axes[0], 1, "seconds, forward and backward"), (axes[1], 2, "extra memory, MB")):
        axis.loglog([r[0] for r in rows], [r[column] for r in rows], "o-", label="streamed")
        axis.loglog([r[0] for r in dense], [r[column + 2] for r in dense], "s--", label="whole matrices")
        axis.set(title=title, xlabel="anchors = keys")
        axis.set_xticks([r[0] for r in rows], [f"{r[0] // 1024}k" for r in rows])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    write_text(path, svg_of(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the plot, an SVG file")
    parser.add_argument("--most", type=int, default=65536)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| N | ours s | ours extra MB | twin s | twin extra MB | GFLOP/s of ours |\n|---|---|---|---|---|---|")
    rows = []
    n = 1024
    while n <= options.most:
        feat, label = torch.randn(n, CHANNELS).requires_grad_(), torch.randint(0, CLASSES, (n,))
        found, first, memory = first_run(lambda feat=feat, label=label: ours(feat, label))
        seconds = best(lambda feat=feat, label=label: ours(feat, label), first, 3)
        dense, dense_memory = None, None
        if n <= MOST_TWIN:
            expected, first, dense_memory = first_run(lambda feat=feat, label=label: twin(feat, label))
            dense = best(lambda feat=feat, label=label: twin(feat, label), first, 3)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        rows.append((n, seconds, memory, dense, dense_memory))
        cells = ["-" if x is None else f"{x:.3g}" for x in rows[-1][1:]]
        # Scores, and the two products that make the gradients.
        print(f"| {n} | {' | '.join(cells)} | {3 * 2 * n * n * CHANNELS / seconds / 1e9:.0f} |", flush=True)
        n *= 2
    plot(rows, options.out)


if __name__ == "__main__":
    main()
