"""The operations that a GPU takes: what they give on the host, under autocast, and, where there is a GPU, on it.

``_set_fused(False)`` sends host tensors the way of a GPU. That a GPU gives the same numbers, has deterministic forms
and outlives a wrong label is marked ``cuda``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from pipa import PixelContrastLoss, _core
from pipa import functional as F

# Deterministic matrix products; cuBLAS looks at it when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

CLASSES, SIDE, WIDTH = 5, 24, 16
on_gpu = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def gpu(test: Any) -> Any:
    for mark in on_gpu:
        test = mark(test)
    return test


def maps(device: str, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def labels(device: str, size: int = SIDE) -> Tensor:
    ids = torch.randint(0, CLASSES, (2, size // 4, size // 4), generator=torch.Generator().manual_seed(1))
    label = ids.repeat_interleave(4, 1).repeat_interleave(4, 2)
    label[:, ::5, ::7] = 255
    return label.to(device)


def graded(x: Tensor, loss: Callable[[Tensor], Any]) -> list[Tensor]:
    """Value and gradient; the backward pass runs without autocast, as torch advises."""
    x = x.requires_grad_()
    value = loss(x)
    with torch.autocast(x.device.type, enabled=False):
        return [value.detach(), *torch.autograd.grad(value, x)]


def augmented(device: str) -> list[Tensor]:
    jitter = F.Jitter(brightness=1.1, contrast=0.9, saturation=1.15, hue=-0.12, order=(2, 0, 3, 1))
    draws = [F.Augment(jitter=jitter, sigma=0.7), F.Augment(jitter=None, sigma=1.1)]
    return [F.strong_augment(maps(device, 2, 3, SIDE, SIDE), draws)]


def sampled(device: str) -> list[Tensor]:
    """Two batches, so that the second one meets the memory of the first."""
    loss = PixelContrastLoss(max_per_class=8, seed=0, memory_bank=4, num_classes=CLASSES)
    found = []
    for seed in (0, 1):
        found += graded(maps(device, 2, WIDTH, SIDE, SIDE, seed=seed), lambda x: loss(x, labels(device)))
    return found


def gated(device: str) -> list[Tensor]:
    first, second, bank = (torch.nn.functional.normalize(maps(device, 30, WIDTH, seed=s), dim=1) for s in range(3))
    ids = labels(device).flatten()[:30].clamp(max=CLASSES - 1)
    sure = torch.linspace(0.5, 1, 30).to(device)
    return graded(
        first, lambda x: sum(F.patch_contrast_gated(x, second, bank, ids, ids, ids.flip(0), sure.flip(0) - 0.3, sure))
    )


def followed(device: str) -> list[Tensor]:
    teacher, student = ([maps(device, 3, 4, seed=s), maps(device, 7, seed=s)] for s in (0, 1))
    F.ema_update(teacher, student, 10, 0.9)
    return teacher


def feat(device: str, seed: int = 0) -> Tensor:
    return maps(device, 2, WIDTH, SIDE, SIDE, seed=seed)


def rows(device: str, seed: int = 3) -> Tensor:
    return maps(device, CLASSES, WIDTH, seed=seed)


KERNELS: dict[str, Callable[[str], list[Tensor]]] = {
    "blur": lambda d: [F.gaussian_blur(maps(d, 2, 3, SIDE, SIDE), 1.0, (15, 9))],
    "augment": augmented,
    "mix": lambda d: [
        F.class_mix(F.draw_class_mask(labels(d)[:, None], CLASSES, seed=3), feat(d), feat(d, 1)),
    ],
    "pseudo-labels": lambda d: list(F.pseudo_label(3 * maps(d, 2, CLASSES, SIDE, SIDE), threshold=0.8)),
    "downscale": lambda d: [F.downscale_label(labels(d)[:, None], 4, 0.5, CLASSES)],
    "accuracy": lambda d: [F.accuracy(maps(d, 2, CLASSES, 6, 6), labels(d))],
    "cross entropy": lambda d: graded(maps(d, 2, CLASSES, 6, 6), lambda x: F.cross_entropy(x, labels(d))),
    "symmetric": lambda d: graded(
        maps(d, 2, CLASSES, SIDE, SIDE), lambda x: F.symmetric_cross_entropy(x, labels(d), ce=0.3)
    ),
    "feature distance": lambda d: graded(
        maps(d, 2, WIDTH, 6, 6),
        lambda x: F.feature_distance(x, x.detach() + 1, labels(d)[:, None], [1, 2], num_classes=5),
    ),
    "distribution": lambda d: graded(
        feat(d), lambda x: F.distribution_contrast(x, labels(d), rows(d), rows(d, 4).square() / WIDTH)
    ),
    "prototype weights": lambda d: [F.prototype_weights(feat(d), rows(d))],
    "prototype update": lambda d: [F.prototype_update(rows(d), 100 * feat(d), labels(d), momentum=0.5)],
    "consistency": lambda d: graded(feat(d), lambda x: F.prototype_consistency(x, feat(d, 1), rows(d))),
    "rectified": lambda d: list(F.rectified_label(feat(d).softmax(1), feat(d, 1).softmax(1))),
    "contrast": lambda d: graded(
        maps(d, 60, WIDTH), lambda x: F.contrast(x, x, (labels(d).flatten()[:60],) * 2, exclude_self=True)
    ),
    "patch contrast": lambda d: graded(
        maps(d, 2, WIDTH, 6, 6), lambda x: F.patch_contrast(x, x + 1, (0, 0, 4, 4), (2, 2, 6, 6), False, True)
    ),
    "gated": gated,
    "pixel contrast": sampled,
    "teacher": followed,
}


@contextmanager
def path_of_a_gpu(on: bool = True) -> Iterator[None]:
    before = _core._set_fused(not on)
    try:
        yield
    finally:
        _core._set_fused(before)


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", KERNELS)
def test_both_paths_agree(name: str) -> None:
    host = KERNELS[name]("cpu")
    with path_of_a_gpu():
        close(KERNELS[name]("cpu"), host)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("gpus", [False, True], ids=["fused", "libtorch"])
@pytest.mark.parametrize("name", KERNELS)
def test_autocast_does_not_reach_inside(name: str, gpus: bool, dtype: torch.dtype) -> None:
    """Inputs of float32 are computed in float32: a picture keeps its bits, a sum over many pixels does not overflow."""
    with path_of_a_gpu(gpus):
        expected = KERNELS[name]("cpu")
        with torch.autocast("cpu", dtype=dtype):
            close(KERNELS[name]("cpu"), expected, 1e-6)
            assert torch.is_autocast_enabled("cpu")


def test_labels_of_any_strides() -> None:
    label = labels("cpu", 2 * SIDE)[:, ::2, 1::2]
    assert not label.is_contiguous()
    expected = F.draw_class_mask(label.contiguous()[:, None], CLASSES, seed=3)
    with path_of_a_gpu():
        assert torch.equal(F.draw_class_mask(label[:, None], CLASSES, seed=3), expected)


def test_blur_by_the_whole_window() -> None:
    """Float32 leaves out taps that weigh nothing; float64, and this sum, take them all."""
    image = maps("cpu", 1, 1, 40, 40)
    x = torch.arange(31.0, dtype=torch.float64) - 15
    taps = (-(x**2) / (2 * 0.8**2)).exp()
    taps /= taps.sum()
    padded = torch.nn.functional.pad(image.double(), (15, 15, 15, 15), mode="reflect")
    expected = torch.nn.functional.conv2d(padded, torch.outer(taps, taps)[None, None])
    with path_of_a_gpu():
        close([F.gaussian_blur(image, 0.8, (31, 31)).double()], [expected], 1e-6)


@gpu
@pytest.mark.parametrize("name", KERNELS)
def test_a_gpu_gives_what_the_host_gives(name: str) -> None:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        close(KERNELS[name]("cuda"), KERNELS[name]("cpu"), 1e-4)
    finally:
        torch.backends.cudnn.allow_tf32 = before


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_autocast_does_not_reach_inside_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    expected = KERNELS[name]("cuda")
    with torch.autocast("cuda", dtype=dtype):
        close(KERNELS[name]("cuda"), expected, 1e-5)


@gpu
@pytest.mark.parametrize("name", KERNELS)
def test_deterministic_forms_on_a_gpu(name: str) -> None:
    """An operation without one raises; two runs are equal in every bit."""
    torch.use_deterministic_algorithms(True)
    try:
        first, second = KERNELS[name]("cuda"), KERNELS[name]("cuda")
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@gpu
@pytest.mark.parametrize("name", ["cross entropy", "symmetric", "distribution"])
def test_a_wrong_label_is_not_a_number_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An assert on the device would end the process: afterwards the GPU still computes."""
    good = labels("cuda")
    wrong = good.clone()
    wrong[0, 3, 3] = 77
    monkeypatch.setitem(globals(), "labels", lambda device: wrong)
    value, _ = KERNELS[name]("cuda")
    assert bool(value.isnan())
    monkeypatch.setitem(globals(), "labels", lambda device: good)
    assert bool(KERNELS[name]("cuda")[0].isfinite())


@gpu
def test_large_draws_travel_through_pinned_memory() -> None:
    """More pixels than the driver takes along: the copy must neither block nor read memory that has been given back."""
    label = labels("cuda", 512)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [F.choose_anchors(label, seed=seed) for seed in range(8)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for seed, (index, valid) in enumerate(found):
        expected, _ = F.choose_anchors(label.cpu(), seed=seed)
        assert torch.equal(index[valid].cpu(), expected)
