"""The whole step at run time: determinism, exact continuation, mixed precision, host reads."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipa import Group, PipaStep
from small_nets import OFF, TERMS, SmallNet, small_batch, small_step

BANK = {"pixel_memory_bank": 8}


def make(seed: int = 7) -> tuple[nn.Module, PipaStep, torch.optim.Optimizer]:
    student, step = small_step(seed=seed, **BANK)
    return student, step, torch.optim.SGD([*student.parameters(), *step.head_parameters()], lr=0.05, momentum=0.9)


def train(step: PipaStep, optimizer: torch.optim.Optimizer, iterations: range) -> list[dict[str, float]]:
    logs = []
    for t in iterations:
        optimizer.zero_grad()
        log = step(*small_batch(seed=t))
        optimizer.step()
        logs.append({name: float(value) for name, value in log.items()})
    return logs


def weights(student: nn.Module, step: PipaStep) -> dict[str, Tensor]:
    parts = {"student": student, "teacher": step.teacher, "heads": step.heads}
    return {f"{name}.{k}": v.clone() for name, part in parts.items() for k, v in part.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_same_seed_same_weights(path: str) -> None:
    runs = []
    for seed in (7, 7, 8):
        student, step, optimizer = make(seed)
        runs.append((train(step, optimizer, range(3)), weights(student, step)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])
    assert not same(runs[0][1], runs[2][1])


def test_a_saved_step_continues_exactly(path: str) -> None:
    """Through a file, into objects made with another seed; teacher, heads, bank, draws and counter all come along."""
    student, step, optimizer = make()
    train(step, optimizer, range(2))
    buffer = io.BytesIO()
    torch.save({"student": student.state_dict(), "step": step.state_dict(), "opt": optimizer.state_dict()}, buffer)
    expected = train(step, optimizer, range(2, 4)), weights(student, step)

    student, step, optimizer = make(seed=99)
    train(step, optimizer, range(1))  # a state to be overwritten
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    student.load_state_dict(saved["student"])
    step.load_state_dict(saved["step"])
    optimizer.load_state_dict(saved["opt"])
    assert step.iteration == 2
    logs = train(step, optimizer, range(2, 4))
    assert logs == expected[0]
    assert same(weights(student, step), expected[1])


def test_the_saved_state_does_not_move_on() -> None:
    """The bank changes in place; what was saved must not."""
    _, step, optimizer = make()
    train(step, optimizer, range(1))
    saved = step.state_dict()["_extra_state"]
    bank = [tensor.clone() for tensor in saved["bank"]]
    train(step, optimizer, range(1, 3))
    assert all(torch.equal(a, b) for a, b in zip(saved["bank"], bank, strict=True))
    assert not torch.equal(step.get_extra_state()["bank"][0], bank[0])
    # A restored bank is the step's own memory too.
    step.set_extra_state(saved)
    train(step, optimizer, range(3, 4))
    assert all(torch.equal(a, b) for a, b in zip(saved["bank"], bank, strict=True))


def test_a_state_without_bank_empties_the_bank() -> None:
    _, step, optimizer = make()
    fresh = step.get_extra_state()
    train(step, optimizer, range(1))
    assert "bank" in step.get_extra_state()
    step.set_extra_state(fresh)
    assert "bank" not in step.get_extra_state()


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for an accelerator: reads of values, and shapes that depend on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.NAMES:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def test_the_counter_sees_reads_of_the_native_side() -> None:
    _, step = small_step(**OFF)
    with Reads() as reads:
        step(*small_batch())
    assert reads.seen["_local_scalar_dense"] >= 1  # the finite check of the source loss


@pytest.mark.parametrize(
    "settings",
    [
        {},
        BANK,
        {"mix_classes": "batch"},
        {"loss_average": "valid"},
        {"patch_source": "target"},
        {"patch_negatives": "other_classes"},
        {"jitter_probability": 1},
    ],
    ids=str,
)
def test_one_read_per_loss_term_and_no_other(settings: dict[str, Any]) -> None:
    """On the libtorch path, which accelerators take. The reads are the finite checks: always made on the CPU, on an
    accelerator only with ``check_finite``."""
    from pipa import _core

    before = _core._set_fused(False)
    try:
        _, step = small_step(**settings)
        step(*small_batch())
        with Reads() as reads:
            log = step(*small_batch())
    finally:
        _core._set_fused(before)
    terms = [name for name in log if name.startswith("loss_")]
    assert len(terms) == len(TERMS) + 1
    assert dict(reads.seen) == {"_local_scalar_dense": len(terms)}


class Mirror:
    """A group of two processes with equal slices, without the other process."""

    rank, world = 1, 2

    def __init__(self) -> None:
        self.places: list[str] = []

    def sum(self, tensor: Tensor) -> Tensor:
        self.places.append("sum")
        assert not tensor.requires_grad
        return tensor + tensor

    def gather(self, tensor: Tensor) -> Tensor:
        self.places.append("gather")
        return torch.cat([tensor, tensor])

    def meet(self, place: str, facts: list[tuple[str, int]]) -> None:
        self.places.append(place)


@pytest.mark.parametrize("settings", [BANK, {"mix_classes": "batch", "loss_average": "valid"}], ids=str)
def test_a_group_costs_no_read(settings: dict[str, Any]) -> None:
    from pipa import _core

    before = _core._set_fused(False)
    try:
        _, step = small_step(**settings, group=Mirror())
        step(*small_batch())
        step.group.places.clear()
        with Reads() as reads:
            log = step(*small_batch())
    finally:
        _core._set_fused(before)
    assert dict(reads.seen) == {"_local_scalar_dense": len(TERMS) + 1}
    assert len([name for name in log if name.startswith("loss_")]) == len(TERMS) + 1
    places = step.group.places
    assert (places[0], places[-1]) == ("begin", "end")
    assert {"sum", "gather"} == set(places[1:-1])
    assert len(places) <= 12


def test_a_group_that_makes_no_sense_is_refused() -> None:
    group = Mirror()
    group.rank = 2
    group.fail = lambda error: None
    _, step = small_step(group=group)
    with pytest.raises(ValueError, match=r"group: expected rank in 0\.\.world, got rank 2 of 2"):
        step(*small_batch())
    with pytest.raises(ValueError, match=r"Group: call torch\.distributed\.init_process_group first"):
        Group()


def test_autocast_runs_and_stays_close() -> None:
    _, step = small_step()
    exact = step(*small_batch())
    student, step = small_step()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log = step(*small_batch())
    assert log.keys() == exact.keys()
    for name in exact:
        assert torch.isfinite(log[name]), name
        if name.startswith("loss_"):
            assert log[name].dtype == torch.float32, name
    for name in ("loss_source", "loss_pixel", "loss_patch"):
        assert float(log[name]) == pytest.approx(float(exact[name]), rel=0.05), name
    gradients = [p.grad for p in [*student.parameters(), *step.head_parameters()]]
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    _, step = small_step(SmallNet().to(dtype), imagenet=SmallNet().to(dtype))
    step.to(dtype)
    source, label, target = small_batch()
    log = step(source.to(dtype), label, target.to(dtype))
    assert all(torch.isfinite(value) for value in log.values())


def test_logging_gradient_norms_changes_no_gradient() -> None:
    gradients = []
    for wanted in (False, True):
        student, step = small_step()
        log = step(*small_batch(), log_gradients=wanted)
        gradients.append([p.grad.clone() for p in student.parameters()])
        assert {f"grad_norm_{term}" for term in ("source", *TERMS)} <= set(log) or not wanted
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_own_backward_gets_every_loss() -> None:
    """A gradient scaler, for example: gradients come out scaled, and nothing else changes."""
    student, step = small_step()
    step(*small_batch())
    plain = [p.grad.clone() for p in student.parameters()]
    student, step = small_step(backward=lambda loss: (loss * 4).backward())
    step(*small_batch())
    for a, p in zip(plain, student.parameters(), strict=True):
        torch.testing.assert_close(p.grad, 4 * a, rtol=1e-5, atol=1e-6)


def test_teacher_has_no_dropout_and_the_student_has() -> None:
    student, step = small_step(SmallNet(dropout=0.5))
    step(*small_batch())
    assert student.dropout.training
    assert not step.teacher.dropout.training
    assert step.teacher.norm.training


def test_buffers_of_the_teacher_are_its_own() -> None:
    student, step = small_step()
    step(*small_batch())
    torch.testing.assert_close(step.teacher.classifier.weight, student.classifier.weight)
    assert not torch.equal(step.teacher.norm.running_mean, student.norm.running_mean)


def test_valid_mask_and_ignored_rows_take_weight_away() -> None:
    source, label, target = small_batch()
    mask = torch.ones(2, 32, 32)
    mask[:, :, :8] = 0
    _, step = small_step(ignore_top=3, ignore_bottom=5)
    step(source, label, target, valid_mask=mask)
    assert step.last is not None
    weight = step.last["pseudo_weight"]
    assert weight[:, :3].abs().max() == 0
    assert weight[:, -5:].abs().max() == 0
    assert weight[:, :, :8].abs().max() == 0
    assert weight[:, 3:-5, 8:].min() > 0
