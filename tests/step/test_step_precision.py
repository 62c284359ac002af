"""Autocast, gradient scalers and the device of what the step remembers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipa.networks import PlainNetworks
from pipa.step import MEMORIES
from small_nets import SmallNet, small_batch, small_step

MEMORY = {"pixel_memory_bank": 4, "distribution_weight": 0.1, "prototype_labels": True, "prototype_min_pixels": 1}
PASSES = (
    "student",
    "student_features",
    "student_maps",
    "teacher",
    "teacher_features",
    "imagenet",
    "pixel_embedding",
    "patch_embedding",
)


class Watched(PlainNetworks):
    """Notes under which autocast it is called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: dict[str, set[bool]] = {}

    def __getattribute__(self, name: str) -> Any:
        if name in (*PASSES, "backward", "gradient_norms", "parameters"):
            self.seen.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
        return super().__getattribute__(name)


def watched(**settings: Any) -> Any:
    make: list[Watched] = []

    def adapter(*args: Any) -> Watched:
        make.append(Watched(*args, features=None, num_classes=4))
        return make[0]

    _, step = small_step(adapter=adapter, **settings)
    make[0].seen.clear()
    return step, make[0]


def test_networks_run_under_the_callers_autocast_and_backward_passes_do_not() -> None:
    step, networks = watched(prototype_labels=True, prototype_min_pixels=1, feature_distance_target=True)
    for half in (False, True):
        networks.seen.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            step(*small_batch(), log_gradients=True)
            assert torch.is_autocast_enabled("cpu") is half
        assert {name: networks.seen[name] for name in PASSES} == {name: {half} for name in PASSES}
        assert networks.seen["backward"] == networks.seen["gradient_norms"] == {False}


def test_an_error_of_a_network_leaves_autocast_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    step, networks = watched()

    def broken(image: Tensor) -> Any:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(networks, "imagenet", broken)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ZeroDivisionError, match="broken"):
            step(*small_batch())
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def trained(scaler: torch.amp.GradScaler | None, device: str = "cpu", dtype: torch.dtype | None = None) -> list[Tensor]:
    """Gradients of one iteration of several backward passes, scaled and scaled back."""
    torch.manual_seed(0)
    scaled: dict[str, Any] = {} if scaler is None else {"backward": lambda loss: scaler.scale(loss).backward()}
    student, step = small_step(SmallNet().to(device), imagenet=SmallNet().requires_grad_(False).to(device), **scaled)
    step.to(device)
    optimizer = torch.optim.SGD([*student.parameters(), *step.head_parameters()], lr=0.1)
    with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        step(*(tensor.to(device) for tensor in small_batch()))
    if scaler is not None:
        scaler.unscale_(optimizer)
    grads = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    return grads


def test_a_gradient_scaler_serves_all_backward_passes() -> None:
    plain = trained(None)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for a, b in zip(trained(scaler), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert scaler.get_scale() == 1024.0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_on_a_gpu(dtype: torch.dtype) -> None:
    """Gradients of a scaled iteration point where those of float32 do."""
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, enabled=dtype == torch.float16)
    half, full = (torch.cat([g.flatten() for g in trained(s, "cuda", d)]) for s, d in ((scaler, dtype), (None, None)))
    assert bool(half.isfinite().all())
    assert torch.nn.functional.cosine_similarity(half, full, dim=0) > 0.9


def places(step: nn.Module) -> set[str]:
    state = step.get_extra_state()
    return {tensor.device.type for name in MEMORIES for tensor in state[name]}


def test_memories_follow_the_step_to_another_device() -> None:
    """ "meta" stands for a GPU: it has devices, and no values."""
    _, step = small_step(**MEMORY)
    step(*small_batch())
    saved = step.state_dict()
    assert places(step) == {"cpu"}
    step.to("meta")
    assert places(step) == {"meta"}
    _, other = small_step(**MEMORY)
    other.to("meta")
    other.set_extra_state(saved["_extra_state"])  # as a file is that was read onto the host
    assert places(other) == {"meta"}
    _, other = small_step(**MEMORY)
    other.load_state_dict(saved)
    other.half()
    assert {t.dtype for t in other.get_extra_state()["prototypes"]} == {torch.float32, torch.int64}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_state_that_was_read_onto_the_host_goes_on_on_a_gpu() -> None:
    torch.manual_seed(0)
    batch = [tensor.cuda() for tensor in small_batch()]
    logs = []
    for resumed in (False, True):
        student, step = small_step(SmallNet().cuda(), imagenet=SmallNet().requires_grad_(False).cuda(), **MEMORY)
        step.cuda()
        step(*batch)
        if resumed:
            state = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in step.state_dict().items()}
            extra = state["_extra_state"]
            state["_extra_state"] = {k: [t.cpu() for t in v] if k in MEMORIES else v for k, v in extra.items()}
            _, step = small_step(student, imagenet=SmallNet().requires_grad_(False).cuda(), **MEMORY)
            step.cuda()
            step.load_state_dict(state)
        logs.append(step(*batch))
    assert set(logs[0]) == set(logs[1])
    assert all(bool(value.isfinite()) for value in logs[1].values())
