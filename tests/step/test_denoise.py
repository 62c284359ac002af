"""ProDA's pieces and the distribution contrast inside the iteration, each against its equation in plain PyTorch."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipa import PipaStep
from pipa import functional as F
from small_nets import CLASSES, OFF, SIDE, SmallNet, small_batch, small_step

STAGE1: dict[str, Any] = {
    **OFF,
    "label_network": "initial",
    "label_weight": "confident",
    "threshold": 0.0,
    "prototype_labels": True,
    "target_weight": 1.0,
    "structure_weight": 10.0,
    "regularizer_weight": 0.1,
}
STAGE2: dict[str, Any] = {
    **OFF,
    "label_network": "initial",
    "label_weight": "confident",
    "threshold": 0.3,
    "target_weight": 1.0,
    "target_ce": 1.0,
    "target_rce": 0.0,
    "distillation_weight": 1.0,
}
EVERYTHING: dict[str, Any] = {
    **STAGE1,
    "mix_weight": 1.0,
    "distillation_weight": 0.5,
    "distribution_weight": 0.1,
    "distribution_target": True,
    "prototype_min_pixels": 1,
}
PLAIN: dict[str, Any] = {"classes": [[0, 1], [2, 3]]}  # no jitter, no blur: the strong view is the weak one


def ran(
    settings: dict[str, Any], student: nn.Module | None = None, **options: Any
) -> tuple[dict[str, Tensor], PipaStep]:
    _, step = small_step(student, **{"pixel_weight": 0, **settings}, **options)
    log = step(*small_batch(), draws=PLAIN)
    return {name: value.double() for name, value in log.items()}, step


def outputs(net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    logits, features = copy.deepcopy(net).train()(image)
    return logits.detach(), features[-1].detach()


def full(map_bkhw: Tensor) -> Tensor:
    return nn.functional.interpolate(map_bkhw, (SIDE, SIDE), mode="bilinear", align_corners=False)


def test_rectified_labels_and_terms_of_stage_one() -> None:
    """Teacher and start network are the student here, at iteration 0."""
    torch.manual_seed(3)
    net, start = SmallNet(), SmallNet()
    proto = torch.randn(CLASSES, 8)
    _, step = small_step(net, **STAGE1, initial=start)
    step._native.prototypes = (proto, torch.full((CLASSES,), 5))
    target = small_batch()[2]
    logits, feat = outputs(net, target)
    with torch.no_grad():
        first = full(copy.deepcopy(start).eval()(target)[0])
    log = step(*small_batch(), draws=PLAIN)

    weight = F.prototype_weights(feat, proto)
    label, _ = F.rectified_label(first.softmax(1), full(weight.log()).exp())
    assert step.last is not None
    assert torch.equal(step.last["pseudo_label"], label)
    assert (label != first.argmax(1)).any()  # the prototypes did correct something
    expected = F.symmetric_cross_entropy(full(logits), label)
    torch.testing.assert_close(log["loss_target"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log["loss_regularizer"], -0.1 * logits.log_softmax(1).mean(), rtol=1e-4, atol=1e-6)
    assert abs(log["loss_structure"].item()) < 1e-4  # one network, one view

    # After all terms the prototypes have moved by the teacher's own labels on the features' grid.
    moved = F.prototype_update(proto, feat, logits.argmax(1), momentum=1 - 1 / 6)
    torch.testing.assert_close(step._native.prototypes[0], moved, rtol=1e-4, atol=1e-5)


def test_structure_pulls_the_strong_view_to_the_weak_one() -> None:
    _, step = small_step(**{**OFF, "structure_weight": 1.0})
    step._native.prototypes = (torch.randn(CLASSES, 8), torch.ones(CLASSES, dtype=torch.long))
    student = step._networks._student
    source, label, target = small_batch()
    log = step(source, label, target)  # jitter and blur drawn
    assert log["loss_structure"] > 0
    before = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    assert before["backbone.1.weight"].abs().max() > 0
    assert set(log) == {"loss_source", "acc_source", "pseudo_weight", "loss_structure", "loss"}


def test_terms_of_stage_two() -> None:
    torch.manual_seed(3)
    net, start = SmallNet(), SmallNet()
    log, step = ran(STAGE2, net, initial=start)
    target = small_batch()[2]
    net, start = SmallNet(), SmallNet()
    torch.manual_seed(3)
    net, start = SmallNet(), SmallNet()
    logits, _ = outputs(net, target)
    with torch.no_grad():
        first = start.eval()(target)[0]
    probability = full(first).softmax(1)
    confidence, label = probability.max(1)
    label = label.where(confidence >= 0.3, 255)
    assert 0 < (label == 255).float().mean() < 1
    expected = nn.functional.cross_entropy(full(logits), label, ignore_index=255)
    torch.testing.assert_close(log["loss_target"], expected.double(), rtol=1e-4, atol=1e-5)
    p, q = logits.log_softmax(1), first.log_softmax(1)
    distance = (q.exp() * (q - p)).sum(1).mean()
    torch.testing.assert_close(log["loss_distillation"], distance.double(), rtol=1e-4, atol=1e-6)
    assert step.initial is not None
    assert all(p.grad is None for p in step.initial.parameters())


def test_prototypes_rectify_what_mix_and_masks_learn_from() -> None:
    """`pipa_proda`: the labels of PiPa's own terms are the corrected ones."""
    torch.manual_seed(3)
    proto = torch.randn(CLASSES, 8) * 3
    labels = []
    for on in (False, True):
        _, step = small_step(prototype_labels=on)
        step._native.prototypes = (proto, torch.ones(CLASSES, dtype=torch.long)) if on else None
        step(*small_batch(), draws={**PLAIN, "mask": None, "patches": None})
        assert step.last is not None
        labels.append((step.last["pseudo_label"], step.last["mixed_label"]))
    assert not torch.equal(labels[0][0], labels[1][0])
    assert not torch.equal(labels[0][1], labels[1][1])


def test_unseen_prototypes_change_nothing() -> None:
    """At the first iteration there are none: the labels are the network's own."""
    labels = []
    for on in (False, True):
        _, step = ran({**OFF, "mix_weight": 1.0, "prototype_labels": on})
        assert step.last is not None
        labels.append(step.last["pseudo_label"])
    assert torch.equal(*labels)


def test_masked_pixels_of_the_target_reach_no_term_and_no_prototype() -> None:
    source, label, target = small_batch()
    valid = torch.ones(2, SIDE, SIDE)
    valid[:, :, : SIDE // 2] = 0
    moved = []
    for junk in (0.0, 1.0):
        torch.manual_seed(3)
        _, step = small_step(ConvNet(), **{**STAGE1, "prototype_min_pixels": 1})
        step._native.prototypes = (torch.linspace(-1, 1, CLASSES * 8).view(CLASSES, 8), torch.ones(CLASSES).long())
        changed = target.clone()
        changed[:, :, :, : SIDE // 2 - 8] += junk * torch.randn(2, 3, SIDE, SIDE // 2 - 8)
        log = step(source, label, changed, valid_mask=valid, draws=PLAIN)
        moved.append((*(log[f"loss_{n}"] for n in ("target", "structure", "regularizer")), step._native.prototypes[0]))
    for first, second in zip(*moved, strict=True):
        torch.testing.assert_close(first, second)


class ConvNet(SmallNet):
    """Without batch statistics: pixels far from each other do not meet."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()


def test_distribution_contrast_counts_all_labelled_pixels() -> None:
    _, step = small_step(ConvNet(), **{**OFF, "distribution_weight": 0.5})
    source, label, target = small_batch()
    with torch.no_grad():
        features = step._networks._student(source)[1]
        embedding = copy.deepcopy(step.heads)["pixel_head"](features)
    log = step(source, label, target)
    small = label[:, :: SIDE // embedding.shape[2], :: SIDE // embedding.shape[3]]
    e = nn.functional.normalize(embedding, dim=1).permute(0, 2, 3, 1)
    mean = torch.stack([e[small == k].mean(0) for k in range(CLASSES)])
    var = torch.stack([e[small == k].var(0, unbiased=False) for k in range(CLASSES)])
    found = step._native.distribution
    torch.testing.assert_close(found[0], mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1], var, rtol=1e-3, atol=1e-6)
    expected = 0.5 * F.distribution_contrast(embedding, small, mean, var)
    torch.testing.assert_close(log["loss_distribution"], expected, rtol=1e-4, atol=1e-6)


def test_running_moments_are_those_of_the_mixture() -> None:
    """Two batches, momentum low enough to matter, against the weighted moments of all pixels."""
    _, step = small_step(ConvNet(), **{**OFF, "distribution_weight": 0.5, "distribution_momentum": 0.3})
    rows = []
    for t in range(2):
        source, label, target = small_batch(t)
        with torch.no_grad():
            embedding = step.heads["pixel_head"](step._networks._student(source)[1])
        step.heads["pixel_head"].project[1].eval()  # as in the pass that follows: statistics stay
        step.heads["pixel_head"].project[1].momentum = 0.0
        with torch.no_grad():
            embedding = step.heads["pixel_head"](step._networks._student(source)[1])
        step(source, label, target)
        small = label[:, ::2, ::2]
        rows.append(nn.functional.normalize(embedding, dim=1).permute(0, 2, 3, 1)[small == 1].double())
    a, b = rows
    mean = 0.3 * a.mean(0) + 0.7 * b.mean(0)
    square = 0.3 * a.square().mean(0) + 0.7 * b.square().mean(0)
    found = step._native.distribution
    torch.testing.assert_close(found[0][1].double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1][1].double(), square - mean.square(), rtol=1e-3, atol=1e-6)


def test_first_prototypes_are_class_means_in_evaluation_mode() -> None:
    net = SmallNet(dropout=0.5)
    _, step = small_step(net, **{**STAGE1, "prototype_min_pixels": 4})
    images = [small_batch(t)[2] for t in range(3)]
    step.start_prototypes(iter(images))
    assert step.initial is not None
    assert net.training
    rows, labels = [], []
    with torch.no_grad():
        for image in images:
            logits, features = copy.deepcopy(net).eval()(image)
            rows.append(features[-1].permute(0, 2, 3, 1).reshape(-1, 8))
            labels.append(logits.argmax(1).flatten())
    feat, label = torch.cat(rows), torch.cat(labels)
    proto, updates = step._native.prototypes
    for k in range(CLASSES):
        if (label == k).sum() >= 4:
            torch.testing.assert_close(proto[k], feat[label == k].mean(0), rtol=1e-4, atol=1e-6)
            assert updates[k] == 10_000
        else:
            assert updates[k] == 0
    step(*small_batch())
    with pytest.raises(ValueError, match="iteration 0, got 1"):
        step.start_prototypes(images)
    _, step = small_step(net, **STAGE1)
    with pytest.raises(ValueError, match="at least one batch"):
        step.start_prototypes([])


def test_a_saved_step_continues_exactly(path: str) -> None:
    """Prototypes, distributions and the start network come along."""

    def train(student: nn.Module, step: PipaStep, first: int, last: int) -> list[dict[str, float]]:
        optimizer = torch.optim.SGD([*student.parameters(), *step.head_parameters()], lr=0.05)
        logs = []
        for t in range(first, last):
            optimizer.zero_grad()
            logs.append({name: float(v) for name, v in step(*small_batch(seed=t)).items()})
            optimizer.step()
        return logs

    student, step = small_step(seed=7, **EVERYTHING)
    train(student, step, 0, 2)
    buffer = io.BytesIO()
    torch.save({"student": student.state_dict(), "step": step.state_dict()}, buffer)
    expected = train(student, step, 2, 4)
    student, step = small_step(seed=9, **EVERYTHING)
    train(student, step, 5, 6)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    student.load_state_dict(saved["student"])
    step.load_state_dict(saved["step"])
    assert train(student, step, 2, 4) == expected


def test_a_failed_iteration_leaves_the_memories() -> None:
    _student, step = small_step(**EVERYTHING)
    step(*small_batch())
    before = [t.clone() for t in (*step._native.prototypes, *step._native.distribution)]
    source, label, target = small_batch(2)
    with pytest.raises(ArithmeticError):
        step(source, label, target * float("nan"))
    after = [*step._native.prototypes, *step._native.distribution]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_cannot_be_honoured_is_named() -> None:
    with pytest.raises(ValueError, match="prototype_layer: expected one of the 2 maps of the encoder, got 5"):
        ran({**STAGE1, "prototype_layer": 5})
    with pytest.raises(ValueError, match="prototype_temperature"):
        ran({**STAGE1, "prototype_temperature": 0})
    with pytest.raises(ValueError, match="label_network"):
        ran({**STAGE1, "label_network": "student"})
    _, step = small_step(**STAGE1)
    step._native.prototypes = (torch.zeros(CLASSES, 5), torch.zeros(CLASSES).long())
    with pytest.raises(ValueError, match="prototypes"):
        step(*small_batch())
