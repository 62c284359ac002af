"""Kernels beside plain-PyTorch twins that do the work in the way research code does it: same process, same inputs,
results checked equal. Prints a Markdown table: best times, ratio, and extra memory at its peak (Linux).

    python benchmarks/kernels.py [--rounds 5] [--only NAME]
"""

from __future__ import annotations

import argparse
import math
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from measure import best, first_run
from pipa import PixelContrastLoss, _core, toy
from pipa import functional as F
from pipa.files.label_tables import CITYSCAPES_IDS
from twins import (
    MEAN,
    STD,
    C,
    twin_blur,
    twin_class_counts,
    twin_confusion,
    twin_convert,
    twin_cross_entropy,
    twin_distribution,
    twin_downscale,
    twin_ema,
    twin_mix_and_augment,
    twin_patch_gated,
    twin_pixel_contrast,
    twin_prototype_weights,
    twin_pseudo_label,
    twin_sample,
)

B, H, W = 2, 1024, 1024
# Of the encoder's map that is contrasted, and [overlap, bank] of the patch contrast.
FEATURES = (2, 256, 128, 128)
OVERLAPS = ((2000, 9600), (8100, 16384))
PARAMETERS = 85_000_000
SCENE = (1024, 2048)


@dataclass
class Case:
    """`tolerance`: of the largest difference, for integers of the share of values that differ; None: not comparable."""

    name: str
    ours: Callable[[], Any]
    twin: Callable[[], Any]
    tolerance: float | None


def scene(*shape: int, block: int = 32) -> Tensor:
    """A label map of blocks, with ignored ones."""
    ids = torch.randint(0, C + 1, (*shape[:-2], shape[-2] // block, shape[-1] // block))
    return ids.where(ids < C, 255).repeat_interleave(block, -2).repeat_interleave(block, -1)


def guess(label: Tensor, wrong: float) -> Tensor:
    """A prediction: the label's areas, moved a little, with single wrong pixels and no ignored ones."""
    moved = label.roll((3, 2), (-2, -1))
    noise = torch.randint(0, C, label.shape)
    return moved.where((moved < C) & (torch.rand(label.shape) > wrong), noise)


def with_gradient(loss: Callable[[], Tensor | list[Tensor]], *inputs: Tensor) -> tuple[Tensor, ...]:
    found = loss()
    total = found if isinstance(found, Tensor) else sum(found[1:], start=found[0])
    return (total.detach(), *torch.autograd.grad(total, inputs))


def supervision() -> Iterator[Case]:
    logits = 4 * torch.randn(B, C, H, W)
    yield Case(
        f"pseudo-labels {B}x{C}x{H}x{W}", lambda: F.pseudo_label(logits), lambda: twin_pseudo_label(logits), 1e-5
    )
    image, other, label = torch.rand(B, 3, H, W), torch.rand(B, 3, H, W), scene(B, 1, H, W)
    yield Case(
        f"blur 103x103 of {B}x3x{H}x{W}",
        lambda: F.gaussian_blur(image, 1.0, (103, 103)),
        lambda: twin_blur(image, 1.0),
        2e-6,
    )
    normalised, normalised2 = (image * 255 - MEAN) / STD, (other * 255 - MEAN) / STD
    draws = F.draw_augment(B, seed=1, jitter_probability=1.0, blur_probability=1.0)
    classes = F.draw_classes(label, C, seed=2)
    yield Case(
        "class mix + jitter + blur",
        lambda: F.strong_augment(F.class_mix(F.class_mask(label, classes), normalised, normalised2), draws),
        lambda: twin_mix_and_augment(label, classes, normalised, normalised2, draws),
        2e-4,
    )
    yield Case(
        f"label downscale by 32, {B}x1x{H}x{W}",
        lambda: F.downscale_label(label, 32, 0.75, C),
        lambda: twin_downscale(label, 32, 0.75),
        0.0,
    )
    small, weight = (4 * torch.randn(B, C, H // 4, W // 4)).requires_grad_(), torch.rand(B, H, W)
    yield Case(
        "cross entropy from 1/4 size, forward + backward",
        lambda: with_gradient(lambda: F.cross_entropy(small, label[:, 0], weight), small),
        lambda: twin_cross_entropy(small, label[:, 0], weight),
        1e-6,
    )


def teacher() -> Iterator[Case]:
    each = PARAMETERS // 85
    student = [torch.randn(each) for _ in range(85)]
    ours, theirs = ([torch.zeros(each) for _ in range(85)] for _ in range(2))

    def run(update: Callable[..., None], teacher: list[Tensor]) -> Tensor:
        update(teacher, student, 5000, 0.999)
        return teacher[3]

    def copy() -> None:
        for t, s in zip(theirs, student, strict=True):
            t.copy_(s)

    yield Case(
        f"EMA of {PARAMETERS / 1e6:g} M parameters",
        lambda: run(F.ema_update, ours),
        lambda: run(twin_ema, theirs),
        1e-6,
    )
    yield Case("EMA beside a copy of the same bytes", lambda: run(F.ema_update, ours), copy, None)


def contrast() -> Iterator[Case]:
    (batch, channels, height, width), size = FEATURES, "x".join(map(str, FEATURES))
    feat = torch.nn.functional.normalize(torch.randn(FEATURES), dim=1).requires_grad_()
    label = scene(batch, height, width, block=8)
    prediction = guess(label, 0.3)
    ours = PixelContrastLoss(seed=0)

    def theirs() -> Tensor:
        return twin_pixel_contrast(*twin_sample(feat, label, prediction, 1024, 100))

    # Other anchors are drawn, and the paper's formulation is not the released one: only work is compared here.
    yield Case(
        f"pixel contrast from {size}, sampling, forward + backward",
        lambda: with_gradient(lambda: ours(feat, label, prediction), feat),
        lambda: with_gradient(theirs, feat),
        None,
    )
    mean, var = torch.nn.functional.normalize(torch.randn(C, channels), dim=1), torch.rand(C, channels) / channels
    yield Case(
        f"distribution contrast from {size}x{C}, all pixels, forward + backward",
        lambda: with_gradient(lambda: F.distribution_contrast(feat, label, mean, var), feat),
        lambda: with_gradient(lambda: twin_distribution(feat, label, mean, var, 0.1), feat),
        2e-6,
    )
    yield Case(
        "the same beside the sampled pixel contrast",
        lambda: with_gradient(lambda: F.distribution_contrast(feat, label, mean, var), feat),
        lambda: with_gradient(lambda: ours(feat, label, prediction), feat),
        None,
    )
    yield Case(
        f"prototype weights of {size}x{C}",
        lambda: F.prototype_weights(feat.detach(), mean),
        lambda: twin_prototype_weights(feat.detach(), mean),
        1e-5,
    )
    anchors, ids = twin_sample(feat.detach(), label, prediction, 1024, 100)
    anchors.requires_grad_()
    yield Case(
        f"its loss alone, released form, {anchors.shape[0] * anchors.shape[1]} anchors",
        lambda: with_gradient(lambda: F.pixel_contrast(anchors, ids), anchors),
        lambda: with_gradient(lambda: twin_pixel_contrast(anchors, ids), anchors),
        2e-5,
    )
    for n, m in OVERLAPS:
        pair = [torch.nn.functional.normalize(torch.randn(n, 128), dim=1).requires_grad_() for _ in range(2)]
        bank = torch.nn.functional.normalize(torch.randn(m, 128), dim=1)
        bank_label = torch.randint(0, C, (m,))
        labels = [torch.randint(0, C, (n,)) for _ in range(2)]
        conf = [0.8 + 0.2 * torch.rand(n) for _ in range(2)]
        yield Case(
            f"patch contrast, released form, overlap {n}, bank {m} x 128, forward + backward",
            lambda pair=pair, bank=bank, bank_label=bank_label, labels=labels, conf=conf: with_gradient(
                lambda: list(F.patch_contrast_gated(*pair, bank, bank_label, *labels, *conf)), *pair
            ),
            lambda pair=pair, bank=bank, bank_label=bank_label, labels=labels, conf=conf: with_gradient(
                lambda: twin_patch_gated(pair, bank, bank_label, labels, conf), *pair
            ),
            1e-4,
        )


def counting() -> Iterator[Case]:
    (height, width), size = SCENE, "x".join(map(str, SCENE))
    _, drawn = toy.draw("target", 0, height=height, width=width)
    label = torch.from_numpy(drawn).long()
    for name, prediction in (
        ("of a street scene, 0.2 % of pixels noise", guess(label, 0.002)),
        ("noise", torch.randint(0, C, label.shape)),
    ):
        ids, truth = prediction.to(torch.uint8).numpy(), label.to(torch.uint8).numpy()
        yield Case(
            f"confusion matrix {size}, prediction {name} (twin: NumPy)",
            lambda ids=ids, truth=truth: F.confusion_matrix(ids, truth, C),
            lambda ids=ids, truth=truth: torch.from_numpy(twin_confusion(ids, truth)),
            0.0,
        )
    truth = label.to(torch.uint8).numpy()
    yield Case(
        f"pixels per class {size} (twin: NumPy)",
        lambda: {c: n for c, n in enumerate(F.class_counts(truth, C).tolist()) if n},
        lambda: twin_class_counts(truth),
        0.0,
    )
    raw = torch.tensor([*CITYSCAPES_IDS, 0])[label.where(label < C, C)].to(torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path, table = Path(folder) / "raw.png", list(CITYSCAPES_IDS.items())
        Image.fromarray(raw.numpy()).save(path)
        yield Case(
            f"ids of a {size} label file: decode, map, count, write (twin: Pillow, NumPy)",
            lambda: {c: n for c, n in _core.label_convert(path, path.with_name("a.png"), table)[2] if c != 255},
            lambda: twin_convert(path, path.with_name("b.png"), table),
            0.0,
        )
        yield Case(
            "the same beside decoding alone (Pillow)",
            lambda: _core.label_convert(path, path.with_name("a.png"), table)[2],
            lambda: Image.open(path).load(),
            None,
        )


def difference(ours: Any, twin: Any) -> float:
    """Largest difference; for integers the share of values that differ."""
    if isinstance(ours, tuple):
        return max(difference(a, b) for a, b in zip(ours, twin, strict=True))
    if isinstance(ours, dict):
        return float(ours != twin)
    if not ours.is_floating_point():
        return float((ours != twin).double().mean())
    return float((ours - twin).abs().max())


def measure(case: Case, rounds: int) -> str:
    """One row of the table."""
    (result, first, memory), (expected, twin_first, twin_memory) = first_run(case.ours), first_run(case.twin)
    found = math.nan if case.tolerance is None else difference(result, expected)
    if case.tolerance is not None and found > case.tolerance:
        raise SystemExit(f"{case.name}: results differ by {found}, more than {case.tolerance}")
    del result, expected
    times = best(case.ours, first, rounds), best(case.twin, twin_first, rounds)
    cells = [f"{t * 1e3:.1f}" for t in times] + [f"{times[1] / times[0]:.1f}"]
    cells += [f"{m:.0f}" for m in (memory, twin_memory)] + ["-" if math.isnan(found) else f"{found:.1e}"]
    return f"| {case.name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.manual_seed(0)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| kernel | ours ms | twin ms | ratio | ours extra MB | twin extra MB | difference |")
    print("|---|---|---|---|---|---|---|")
    for group in (supervision, teacher, contrast, counting):
        for case in group():
            if options.only in case.name:
                print(measure(case, options.rounds), flush=True)


if __name__ == "__main__":
    main()
