"""Networks and tensors handed to a step that fit badly, and what a state brings along."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipa
from pipa import PipaStep, PixelContrastLoss
from pipa import functional as F
from small_nets import ALL_TERMS, CLASSES, OFF, SIDE, SmallNet, small_batch, small_step

LABELS = {"prototype_labels": False, "label_network": "initial"}


@pytest.mark.parametrize("name", ["teacher", "imagenet", "initial"])
def test_a_second_network_must_be_one_of_its_own(name: str) -> None:
    student = SmallNet().train()
    with pytest.raises(ValueError, match=f"^{name}: expected a network of its own.*copy.deepcopy"):
        small_step(student, label_network="initial", **{name: student})
    with pytest.raises(ValueError, match=f"^{name}: expected a network of its own"):
        small_step(student, label_network="initial", **{name: nn.Sequential(student)})
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    small_step(student, label_network="initial", **{name: copy.deepcopy(student)})[1](*small_batch())


def trained(step: PipaStep, student: nn.Module, seed: int) -> dict[str, Tensor]:
    log = step(*small_batch(seed))
    with torch.no_grad():
        for p in student.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
                p.grad = None
    return log


def test_a_state_holds_the_imagenet_model() -> None:
    """The step is made again around the trained student, as a script that goes on does."""
    student, step = small_step(imagenet=None)
    for seed in (1, 2):
        trained(step, student, seed)
    saved = copy.deepcopy(step.state_dict())
    again = copy.deepcopy(student)
    resumed = PipaStep(again, **{**options(), "seed": 9})
    resumed.load_state_dict(saved)
    for seed in (3, 4):
        one, two = trained(step, student, seed), trained(resumed, again, seed)
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert float(one["loss_feature_distance"]) > 0


def options(**settings: Any) -> dict[str, Any]:
    return {"pixel_dim": 8, "patch_dim": 8, "projection_hidden": 8, **ALL_TERMS, **settings}


def test_an_older_state_without_imagenet_model_is_told() -> None:
    _, step = small_step()
    state = {key: value for key, value in step.state_dict().items() if not key.startswith("imagenet.")}
    with pytest.warns(UserWarning, match="the state holds no ImageNet model"):
        step.load_state_dict(state)
    _, without = small_step(imagenet=None, feature_distance_weight=0)
    without.load_state_dict(step.state_dict())


def test_a_memory_bank_of_a_state_follows_the_setting() -> None:
    _, step = small_step(pixel_memory_bank=4)
    step(*small_batch())
    state = step.state_dict()
    _, other = small_step(pixel_memory_bank=8)
    with pytest.raises(ValueError, match=r"^pixel_memory_bank: expected 4, the features per class of the state, got 8"):
        other.load_state_dict(state)
    _, none = small_step()
    none.load_state_dict(state)
    assert "bank" not in none.get_extra_state()


def test_a_memory_bank_of_a_loss_follows_its_argument() -> None:
    banked = PixelContrastLoss(seed=0, memory_bank=4, num_classes=3)
    banked(torch.randn(1, 8, 6, 6), torch.randint(0, 3, (1, 6, 6)))
    state = banked.state_dict()
    with pytest.raises(ValueError, match=r"^memory_bank: expected 4, the features per class of the state, got 2"):
        PixelContrastLoss(memory_bank=2, num_classes=3).load_state_dict(state)
    plain = PixelContrastLoss()
    plain.load_state_dict(state)
    assert plain.get_extra_state()["bank"] is None
    with pytest.raises(pipa.ShapeError, match=r"^embedding_bdhw: expected the 8 channels of the memory bank, got 5"):
        banked(torch.randn(1, 5, 6, 6), torch.randint(0, 3, (1, 6, 6)))
    with pytest.raises(ValueError, match=r"^label_bhw: id 3 is neither"):
        banked(torch.randn(1, 8, 6, 6), torch.full((1, 6, 6), 3))


def test_images_that_are_no_tensors() -> None:
    _, step = small_step()
    source, label, target = small_batch()
    with pytest.raises(TypeError, match=r"^source image: expected a torch.Tensor \(B, 3, H, W\), got ndarray"):
        step(source.numpy(), label, target)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^target image: expected a torch.Tensor.*got list"):
        step(source, label, target.tolist())  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_call_that_can_train_nothing(mode: Any) -> None:
    student, step = small_step()
    with mode(), pytest.raises(RuntimeError, match="expected gradients to be on"):
        step(*small_batch())
    assert step.iteration == 0
    student.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^student: expected parameters to train"):
        step(*small_batch())


@pytest.mark.parametrize("mask", [torch.uint8, torch.bool, torch.int64])
def test_every_value_but_0_of_a_valid_mask_counts_in_full(mask: torch.dtype) -> None:
    logs = []
    valid = torch.zeros(2, SIDE, SIDE)
    valid[:, : SIDE // 2] = 1
    for values in (valid, (255 * valid).to(mask)):
        _, step = small_step()
        logs.append(step(*small_batch(), valid_mask=values))
        assert set(step.last["pseudo_weight"].unique().tolist()) == {0.0, float(step.last["pseudo_weight"].max())}
        assert step.last["pseudo_weight"].max() <= 1
    assert all(torch.equal(logs[0][name], logs[1][name]) for name in logs[0])


@pytest.mark.parametrize("value", [255.0, -0.5, math.nan])
def test_fractions_of_a_valid_mask_are_shares(value: float) -> None:
    _, step = small_step(threshold=0.0)
    half = torch.full((2, SIDE, SIDE), 0.5)
    step(*small_batch(), valid_mask=half)
    assert step.last["pseudo_weight"].unique().tolist() == [0.5]
    half[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"^valid mask: expected bool, integers, or fractions of 0 to 1, got values"):
        step(*small_batch(), valid_mask=half)


def stored(**settings: Any) -> PipaStep:
    return small_step(initial="stored", **settings)[1]


@pytest.mark.parametrize("terms", [LABELS, {"distillation_weight": 1.0}])
@pytest.mark.parametrize(
    "shape", [(1, CLASSES, 8, 8), (3, CLASSES, 8, 8), (2, 1, 8, 8), (2, CLASSES + 1, 8, 8), (2, 8, 8)]
)
def test_stored_logits_must_be_of_this_batch(terms: dict[str, Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(pipa.ShapeError, match=rf"^initial_logits .*: expected \[2, {CLASSES}, h, w\], got"):
        stored(**terms)(*small_batch(), initial_logits=torch.zeros(shape))


def test_an_initial_network_of_other_classes_is_told() -> None:
    other = SmallNet()
    other.classifier = nn.Conv2d(8, CLASSES + 1, 1)
    _, step = small_step(initial=other, label_network="initial")
    with pytest.raises(pipa.ShapeError, match=rf"the logits of initial\): expected \[2, {CLASSES}, h, w\]"):
        step(*small_batch())


def test_a_stored_probability_of_0() -> None:
    """Its class adds nothing to KL(q || p), as with a logit so low that it rounds to 0, and is no label."""
    sure = torch.randn(2, CLASSES, 8, 8, generator=torch.Generator().manual_seed(0))
    sure[:, 1] = -math.inf
    logs = []
    for said in (sure, sure.clamp_min(-1e4)):
        _, step = small_step(initial="stored", distillation_weight=1.0, **OFF)
        logs.append(step(*small_batch(), initial_logits=said))
    assert float(logs[0]["loss_distillation"]) > 0
    assert all(torch.equal(logs[0][name], logs[1][name]) for name in logs[0])
    _, step = small_step(initial="stored", **LABELS)
    step(*small_batch(), initial_logits=sure)
    assert not bool((step.last["pseudo_label"] == 1).any())
    assert math.isfinite(float(step(*small_batch(), initial_logits=sure)["loss_mix"]))


class Masked(SmallNet):
    """Knows only some of the classes."""

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, maps = super().forward(image)
        return logits.index_fill(1, torch.tensor([3]), -math.inf), maps


def test_a_student_without_one_of_the_classes_trains() -> None:
    student, step = small_step(Masked())
    source, label, target = small_batch()
    label[label == 3] = 255
    log = step(source, label, target)
    assert all(torch.isfinite(value) for value in log.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
    assert not bool((step.last["pseudo_label"] == 3).any())


def losses() -> dict[str, Any]:
    label = torch.randint(0, 3, (2, 6, 6))
    points = torch.randint(0, 3, (72,))

    def contrast(x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2).reshape(72, 4)
        return F.contrast(rows, rows, (points, points), exclude_self=True)

    return {
        "cross_entropy": lambda x: F.cross_entropy(x, label),
        "symmetric": lambda x: F.symmetric_cross_entropy(x, label),
        "contrast": contrast,
        "pixel": lambda x: PixelContrastLoss(sampling="all")(x, label),
    }


@pytest.mark.parametrize("name", losses())
@pytest.mark.parametrize("reentrant", [False, True])
def test_losses_inside_an_activation_checkpoint(name: str, reentrant: bool) -> None:
    """torch ends the second pass by an exception from a hook, which must come through native code as it is."""
    torch.manual_seed(0)
    loss = losses()[name]
    one = torch.randn(2, 4, 6, 6, requires_grad=True)
    two = one.detach().clone().requires_grad_()
    value = torch.utils.checkpoint.checkpoint(loss, one, use_reentrant=reentrant)
    value.backward()
    plain = loss(two)
    plain.backward()
    assert torch.equal(value, plain)
    assert torch.equal(one.grad, two.grad)


def test_what_a_hook_raises_comes_through() -> None:
    class Own(Exception):
        pass

    def refuse(tensor: Tensor) -> Tensor:
        raise Own("not kept")

    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(refuse, lambda t: t), pytest.raises(Own, match=r"^not kept$"):
        F.cross_entropy(x, torch.zeros(2, 6, 6, dtype=torch.int64))
    assert F.cross_entropy(x, torch.zeros(2, 6, 6, dtype=torch.int64)).isfinite()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "x"])
def test_seeds_that_are_none(seed: Any) -> None:
    said = r"^seed: expected a whole number.*, got "
    label = torch.zeros(1, 1, 8, 8, dtype=torch.int64)
    for call in (
        lambda: small_step(seed=seed),
        lambda: PixelContrastLoss(seed=seed),
        lambda: F.draw_classes(label, 2, seed=seed),
        lambda: F.draw_augment(1, seed=seed),
        lambda: F.draw_patches(64, 64, (32, 32), seed=seed),
        lambda: pipa.toy.draw("source", 0, seed=seed),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            call()


def test_fractions_are_refused_not_cut() -> None:
    label = torch.zeros(1, 1, 8, 8, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"^scale: expected a whole number, got 2.5"):
        F.downscale_label(label, 2.5, 0.5, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^num_classes: expected a whole number, got 2.5"):
        F.confusion_matrix(label[0, 0], label[0, 0], 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^classes: expected ids from 0 to 1, got \[7\]"):
        F.feature_distance(torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), label, [7], num_classes=2)
    assert F.downscale_label(label, 2.0, 0.5, 2).shape == (1, 1, 4, 4)  # type: ignore[arg-type]
