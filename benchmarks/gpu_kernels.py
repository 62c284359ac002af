"""Sections of benchmarks/gpu.py on kernels: each beside its twin; the exact contrast against the card's own rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import twins
from gpu_timing import Device, Row, beside, judged, with_gradient
from kernels import guess, scene
from pipa import PixelContrastLoss
from pipa import functional as F

Case = tuple[str, Callable[[], Row]]
CLASSES, BATCH = 19, 2


def kernels(device: Device) -> Iterator[Case]:
    """Each kernel beside its twin at the published sizes."""
    yield from supervision(device)
    yield from contrasts(device)


def supervision(device: Device) -> Iterator[Case]:
    size = device.pick(1024, 128)
    logits = 4 * torch.randn(BATCH, CLASSES, size, size)
    yield (
        "pseudo-labels",
        lambda: beside(device, lambda: F.pseudo_label(logits), lambda: twins.twin_pseudo_label(logits)),
    )
    image, other = torch.rand(2, BATCH, 3, size, size)
    label = scene(BATCH, 1, size, size)
    yield (
        "Gaussian blur",
        lambda: beside(
            device,
            lambda: F.gaussian_blur(image, 1.0, F.blur_kernel_size(size, size)),
            lambda: twins.twin_blur(image, 1.0),
        ),
    )
    source, target = ((x * 255 - twins.MEAN) / twins.STD for x in (image, other))
    augment = F.draw_augment(BATCH, seed=1, jitter_probability=1.0, blur_probability=1.0)
    chosen = F.draw_classes(label, CLASSES, seed=2)
    yield (
        "class mix, jitter, blur",
        lambda: beside(
            device,
            lambda: F.strong_augment(F.class_mix(F.class_mask(label, chosen), source, target), augment),
            lambda: twins.twin_mix_and_augment(label, chosen, source, target, augment),
        ),
    )
    yield "class draw on the device", lambda: beside(device, lambda: F.draw_class_mask(label, CLASSES, seed=2))
    scale = device.pick(32, 8)
    yield (
        f"label downscale by {scale}",
        lambda: beside(
            device,
            lambda: F.downscale_label(label, scale, 0.75, CLASSES),
            lambda: twins.twin_downscale(label, scale, 0.75),
        ),
    )
    quarter = (4 * torch.randn(BATCH, CLASSES, size // 4, size // 4)).requires_grad_()
    weight = torch.rand(BATCH, size, size)
    yield (
        "cross entropy from quarter size, with gradient",
        lambda: beside(
            device,
            lambda: with_gradient(lambda: F.cross_entropy(quarter, label[:, 0], weight), quarter),
            lambda: twins.twin_cross_entropy(quarter, label[:, 0], weight),
        ),
    )
    teacher, student = ([torch.randn(device.pick(1_000_000, 1000)) for _ in range(85)] for _ in range(2))
    yield (
        "teacher update, 85 M parameters",
        lambda: beside(
            device,
            lambda: F.ema_update(teacher, student, 5000),
            lambda: twins.twin_ema(teacher, student, 5000, 0.999),
        ),
    )


def contrasts(device: Device) -> Iterator[Case]:
    side, views = device.pick(128, 16), device.pick(100, 4)
    feat = torch.randn(2, 256, side, side).requires_grad_()
    label = scene(2, side, side, block=device.pick(8, 4))
    prediction, loss = guess(label, 0.3), PixelContrastLoss(max_per_class=views, seed=0)

    def sampled_twin() -> Tensor:
        return twins.twin_pixel_contrast(*twins.twin_sample(feat, label, prediction, 1024, views))

    yield (
        "pixel contrast with sampling, with gradient",
        lambda: beside(
            device,
            lambda: with_gradient(lambda: loss(feat, label, prediction), feat),
            lambda: with_gradient(sampled_twin, feat),
        ),
    )
    mean, var = torch.nn.functional.normalize(torch.randn(CLASSES, 256), dim=1), torch.rand(CLASSES, 256) / 256
    yield (
        "distribution contrast, all pixels, with gradient",
        lambda: beside(
            device,
            lambda: with_gradient(lambda: F.distribution_contrast(feat, label, mean, var), feat),
            lambda: with_gradient(lambda: twins.twin_distribution(feat, label, mean, var, 0.1), feat),
        ),
    )
    yield (
        "prototype weights",
        lambda: beside(
            device,
            lambda: F.prototype_weights(feat.detach(), mean),
            lambda: twins.twin_prototype_weights(feat.detach(), mean),
        ),
    )
    n, m = device.pick((8100, 16384), (40, 96))
    pair = [torch.nn.functional.normalize(torch.randn(n, 128), dim=1).requires_grad_() for _ in range(2)]
    bank, bank_label = torch.nn.functional.normalize(torch.randn(m, 128), dim=1), torch.randint(0, CLASSES, (m,))
    labels = [torch.randint(0, CLASSES, (n,)) for _ in range(2)]
    conf = [0.8 + 0.2 * torch.rand(n) for _ in range(2)]
    yield (
        f"patch contrast, released form, overlap {n}, bank {m}, with gradient",
        lambda: beside(
            device,
            lambda: with_gradient(lambda: list(F.patch_contrast_gated(*pair, bank, bank_label, *labels, *conf)), *pair),
            lambda: with_gradient(lambda: twins.twin_patch_gated(pair, bank, bank_label, labels, conf), *pair),
        ),
    )


def contrast(device: Device) -> Iterator[Case]:
    """Exact class contrast with gradient: time, memory, and the share of the rate of a plain matrix product."""
    rates: dict[torch.dtype, float] = {}

    def rate(dtype: torch.dtype) -> float:
        """Floating point operations per millisecond of a large product."""
        side = device.pick(8192, 256)
        a, b = (torch.randn(side, side, dtype=dtype) for _ in range(2))
        rates[dtype] = 2 * side**3 / device.measure(lambda: a @ b)[0]
        return rates[dtype]

    def exact(n: int, dtype: torch.dtype) -> Row:
        embedding, label = torch.randn(n, 256, dtype=dtype).requires_grad_(), torch.randint(0, CLASSES, (n,))

        def run() -> Any:
            return with_gradient(lambda: F.contrast(embedding, embedding, (label, label), exclude_self=True), embedding)

        row = beside(device, run)
        # While one tile holds a row's scores (to half a million keys) they are made once: one product, and one for
        # each of the two gradients.
        done = 3 * 2 * n * n * 256 / row["ours_ms"]
        return (
            row | {"tflops": done / 1e9} | judged("share_of_matrix_rate", done / (rates.get(dtype) or rate(dtype)), 0.5)
        )

    for dtype in (torch.float32, torch.bfloat16):
        short = str(dtype).removeprefix("torch.")
        yield f"matrix product, {short}", lambda dtype=dtype: {"tflops": rate(dtype) / 1e9}
        for n in device.pick((16_384, 65_536, 262_144), (512,)):
            yield f"exact contrast, N = {n}, {short}", lambda n=n, dtype=dtype: exact(n, dtype)
