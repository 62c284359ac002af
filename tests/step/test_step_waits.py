"""Nothing in an iteration makes the host wait for an accelerator.

Without one: tensors that claim to lie on a GPU and hold no data (torch's fake tensors) take the code path of a GPU, and
whatever would need a value on the host raises. With one: torch's own debug mode raises.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipa import PipaStep, _core
from pipa.networks.projection import ProjectionHead
from small_nets import SIDE, TERMS, SmallNet, small_batch, small_step

# Deterministic matrix products; cuBLAS looks at it when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

SETTINGS: list[dict[str, Any]] = [
    {},
    {"pixel_memory_bank": 8},
    {"pixel_sampling": "all"},
    {"mix_classes": "batch"},
    {"loss_average": "valid"},
    {"patch_source": "target"},
    {"patch_negatives": "other_classes"},
    {"jitter_probability": 1, "blur_probability": 1},
    {"feature_distance_classes": [1, 2]},
    {"ignore_top": 2, "ignore_bottom": 3},
    {"distribution_weight": 0.1, "distribution_target": True},
    {"prototype_labels": True, "structure_weight": 0.1, "prototype_min_pixels": 1, "label_weight": "confident"},
    {"target_weight": 0.5, "regularizer_weight": 0.1, "distillation_weight": 0.1},
]


# torch 2.13 crashes when fake tensors that native code has held are freed: they stay until the process ends.
KEPT: list[Any] = []


class PretendedGpu(TorchDispatchMode):
    """Operations on "cuda" give tensors without data; those on the CPU are real. Counts copies between the two that do
    not say ``non_blocking``: each would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.blocking: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        on_gpu = any(isinstance(x, FakeTensor) or (isinstance(x, torch.device) and x.type == "cuda") for x in leaves)
        if not on_gpu:
            return func(*args, **kwargs)
        with self.fake:
            out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            free = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if not free and source.device.type != out.device.type:
                self.blocking[f"{source.device.type} to {out.device.type}, {tuple(out.shape)}"] += 1
        return out


def no_backward(_loss: Tensor) -> None:
    """Backward passes are torch's own, and its engine starts threads for devices, which must exist."""


def pretended(gpu: PretendedGpu, **settings: Any) -> tuple[PipaStep, list[Tensor]]:
    """A step and a batch on a GPU that is not there."""
    with gpu.fake, torch.device("cuda"):
        imagenet = SmallNet().requires_grad_(False)
        heads = nn.ModuleDict({f"{name}_head": ProjectionHead(14, 8, 8) for name in ("pixel", "patch")})
        _, step = small_step(SmallNet(), imagenet=imagenet, heads=heads, backward=no_backward, **settings)
        source, target = torch.randn(2, 2, 3, SIDE, SIDE)
        batch = [source, torch.zeros(2, SIDE, SIDE, dtype=torch.long), target]
    KEPT.append((gpu, step, batch))
    gpu.blocking.clear()  # networks may be built on the host
    return step, batch


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_value_is_asked_for(settings: dict[str, Any]) -> None:
    gpu = PretendedGpu()
    step, batch = pretended(gpu, **settings)
    with gpu:
        for _ in range(2):
            log = step(*batch, valid_mask=batch[1])
            KEPT.append((log, step.last))
    assert {f"loss_{term}" for term in TERMS} <= set(log)
    assert all(value.device.type == "cuda" for value in log.values())
    assert not gpu.blocking


def test_recorded_draws_ask_for_no_value() -> None:
    draws = {
        "classes": [[0, 2], [1]],
        "augment": [{"jitter": None, "sigma": 0.5}] * 2,
        "patches": ((0, 0, 16, 16), (4, 8, 20, 24), False, False),
        "mask": [[0.1] * 16] * 2,
        "mask_augment": [{"jitter": None, "sigma": None}] * 2,
    }
    gpu = PretendedGpu()
    step, batch = pretended(gpu)
    with gpu:
        KEPT.append((step(*batch, draws=draws), step.last))
    assert not gpu.blocking


@pytest.mark.parametrize("read", [Tensor.item, Tensor.nonzero, lambda x: x[x > 0]], ids=["item", "nonzero", "mask"])
def test_a_read_is_found(read: Any) -> None:
    """What the tests above rely on. (That reads of native code reach such modes is tested in test_step.py.)"""
    gpu = PretendedGpu()
    with gpu.fake:
        value = torch.ones(1, device="cuda")
    with gpu, pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        read(value)


def test_a_blocking_copy_is_found() -> None:
    with PretendedGpu() as gpu:
        for non_blocking in (False, True):
            moved = torch.ops.aten._to_copy(torch.ones(3), device=torch.device("cuda"), non_blocking=non_blocking)
            moved.copy_(torch.ones(3), non_blocking)
        moved.copy_(moved)
    assert sum(gpu.blocking.values()) == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_wait_on_a_gpu(settings: dict[str, Any]) -> None:
    _, step = small_step(SmallNet().cuda(), imagenet=SmallNet().requires_grad_(False).cuda(), **settings)
    step.cuda()
    batch = [tensor.cuda() for tensor in small_batch()]
    step(*batch)  # libraries may wait while they start
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        log = step(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(value) for value in log.values())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_deterministic_iterations_on_a_gpu() -> None:
    """Operations without a deterministic form raise; two runs give equal gradients."""
    torch.use_deterministic_algorithms(True)
    try:
        grads = []
        for _ in range(2):
            torch.manual_seed(0)
            student, step = small_step(SmallNet().cuda(), imagenet=SmallNet().requires_grad_(False).cuda())
            step.cuda()
            step(*(tensor.cuda() for tensor in small_batch()))
            grads.append([p.grad.clone() for p in student.parameters() if p.grad is not None])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_deterministic_algorithms_give_the_same_iteration() -> None:
    """The deterministic forms are other operations with the same result (the libtorch path, which a GPU takes)."""
    before = _core._set_fused(False)
    logs = []
    try:
        for on in (False, True):
            torch.use_deterministic_algorithms(on)
            torch.manual_seed(0)
            _, step = small_step(SmallNet(), imagenet=SmallNet().requires_grad_(False))
            logs.append(step(*small_batch()))
    finally:
        torch.use_deterministic_algorithms(False)
        _core._set_fused(before)
    for name, value in logs[0].items():
        torch.testing.assert_close(logs[1][name], value, rtol=1e-5, atol=1e-6)


def test_an_id_outside_the_classes_is_not_a_number_on_the_path_of_a_gpu() -> None:
    """There an index assert would stop the process; the check for losses that are not finite finds a NaN."""
    before = _core._set_fused(False)
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    try:
        logits = torch.randn(1, 3, 4, 4, requires_grad=True)
        good = _core.cross_entropy(logits, label, None, 255, "all")
        expected = torch.nn.functional.cross_entropy(logits, label)
        torch.testing.assert_close(good, expected)
        torch.testing.assert_close(torch.autograd.grad(good, logits)[0], torch.autograd.grad(expected, logits)[0])
    finally:
        _core._set_fused(before)
    with PretendedGpu() as gpu, gpu.fake:
        wrong = _core.cross_entropy(
            torch.zeros(1, 3, 4, 4, device="cuda"), torch.full((1, 4, 4), 77, device="cuda"), None, 255, "all"
        )
        KEPT.append(wrong)
    assert wrong.device.type == "cuda"
