"""What trainings of foundation encoders add to the iteration, each against its equation written out in PyTorch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipa import PipaStep
from pipa import functional as F
from small_nets import CLASSES, OFF, SIDE, SmallNet, small_batch, small_step

PLAIN: dict[str, Any] = {"classes": [[0, 1], [2, 3]]}  # no jitter, no blur


def slow_cosine(feat: Tensor, reference: Tensor) -> Tensor:
    """(B, h, w): 0.9 (1 - cos) + 0.1 of the mean over channels of smooth L1, position by position."""
    out = torch.zeros(feat.shape[0], *feat.shape[2:], dtype=torch.float64)
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in out.shape)).tolist():
        f, g = feat[b, :, y, x].double(), reference[b, :, y, x].double()
        cosine = (f @ g) / max(float(f.norm() * g.norm()), 1e-8)
        smooth = [0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in (f - g).tolist()]
        out[b, y, x] = 0.9 * (1 - cosine) + 0.1 * sum(smooth) / len(smooth)
    return out


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_cosine_form_as_a_function(scale: float) -> None:
    torch.manual_seed(1)
    feat, reference = scale * torch.randn(2, 5, 3, 4), scale * torch.randn(2, 5, 3, 4)
    label = torch.randint(0, 3, (2, 1, 6, 8))
    settings: dict[str, Any] = dict(num_classes=3, weight=0.7, form="cosine", min_ratio=0.4)
    expected = slow_cosine(feat, reference)
    found = F.feature_distance(feat, reference, label, None, **settings)
    torch.testing.assert_close(found.double(), 0.7 * expected.mean(), rtol=1e-5, atol=1e-6)
    small = F.downscale_label(label, 2, 0.4, 3)[:, 0]
    found = F.feature_distance(feat, reference, label, [1], **settings)
    torch.testing.assert_close(found.double(), 0.7 * expected[small == 1].mean(), rtol=1e-5, atol=1e-6)
    assert float(F.feature_distance(feat, feat, label, None, **settings)) == pytest.approx(0, abs=1e-6)
    wide, other = feat.double().requires_grad_(), reference.double()
    assert torch.autograd.gradcheck(lambda f: F.feature_distance(f, other, label, None, **settings), (wide,))
    with pytest.raises(ValueError, match='form: expected "euclidean" or "cosine", got "angle"'):
        F.feature_distance(feat, reference, label, None, num_classes=3, form="angle")


@pytest.mark.parametrize("form", ["euclidean", "cosine"])
@pytest.mark.parametrize("margin", [0, 16])
def test_distance_on_source_and_target(form: str, margin: int) -> None:
    settings = {**OFF, "feature_distance_weight": 0.1, "feature_distance_form": form, "feature_distance_target": True}
    student, step = small_step(**settings)
    frozen = step.networks._imagenet
    source, label, target = small_batch()
    mask = torch.ones(len(target), SIDE, SIDE)
    mask[:, :margin] = 0
    assert frozen is not None

    def costs(image: Tensor) -> Tensor:
        with torch.no_grad():
            feat, reference = copy.deepcopy(student)(image)[1][-1], frozen.eval()(image)[1][-1]
        return slow_cosine(feat, reference) if form == "cosine" else (feat - reference).double().norm(dim=1)

    expected = costs(source).mean(), costs(target)[:, margin // 4 :].mean()
    log = step(source, label, target, draws=PLAIN, valid_mask=mask)
    for name, value in zip(("loss_feature_distance", "loss_feature_distance_target"), expected, strict=True):
        torch.testing.assert_close(log[name].double(), 0.1 * value, rtol=1e-4, atol=1e-6)
    assert {"loss_source", "loss"} < set(log)


def test_distance_on_the_target_adds_its_own_gradient() -> None:
    """The student's gradient with the target's term, less that without it, is the gradient of the equation."""
    grads = []
    for target_too in (False, True):
        settings = {
            "feature_distance_weight": 0.1,
            "feature_distance_form": "cosine",
            "feature_distance_target": target_too,
        }
        student, step = small_step(**{**OFF, **settings})
        twin, frozen = copy.deepcopy(student), step.networks._imagenet
        step(*small_batch(), draws=PLAIN)
        grads.append([p.grad.clone() for p in student.backbone.parameters()])
    target = small_batch()[2]
    with torch.no_grad():
        reference = frozen.eval()(target)[1][-1]
    feat = twin(target)[1][-1]
    cosine = 1 - nn.functional.cosine_similarity(feat, reference, dim=1)
    smooth = nn.functional.smooth_l1_loss(feat, reference, reduction="none").mean(dim=1)
    (0.1 * (0.9 * cosine + 0.1 * smooth).mean()).backward()
    for without, with_it, parameter in zip(*grads, twin.backbone.parameters(), strict=True):
        torch.testing.assert_close(with_it - without, parameter.grad, rtol=1e-3, atol=1e-6)
        assert parameter.grad.any()


def test_labels_of_image_and_mirror_image() -> None:
    torch.manual_seed(2)
    student, step = small_step(**{**OFF, "mix_weight": 1.0, "label_flip": True, "threshold": 0.3})
    source, label, target = small_batch()
    net = copy.deepcopy(student)  # the teacher of iteration 0; norms use the statistics of the batch
    with torch.no_grad():
        logits = (net(target)[0] + net(target.flip(3))[0].flip(3)) / 2
    logits = nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
    step(source, label, target, draws=PLAIN)
    assert step.last is not None
    expected, weight = F.pseudo_label(logits, threshold=0.3)
    assert torch.equal(step.last["pseudo_label"], expected)
    torch.testing.assert_close(step.last["pseudo_weight"], weight)
    with torch.no_grad():
        straight = nn.functional.interpolate(net(target)[0], (SIDE, SIDE), mode="bilinear", align_corners=False)
    assert (straight.argmax(1) != expected).any()


class TokenNet(nn.Module):
    """Patches of 8 pixels become embeddings; what is hidden becomes a learned one."""

    hidden_tokens: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.randn(8))
        self.classifier = nn.Conv2d(8, CLASSES, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.embed(image)
        if self.hidden_tokens is not None:
            hidden = self.hidden_tokens[:, :, 4::8, 4::8]
            x = torch.where(hidden, self.token[None, :, None, None], x)
        return self.classifier(x), [x]


def test_hidden_tokens_against_hidden_embeddings() -> None:
    settings = {**OFF, "mask_weight": 0.5, "mask_kind": "tokens", "mask_block": 16, "mask_augment": False}
    torch.manual_seed(4)
    net = TokenNet()
    student, step = small_step(net, **settings, threshold=0.0, loss_average="valid")
    source, label, target = small_batch()
    uniform = torch.rand(len(target), 4)
    hidden = (uniform <= 0.7).view(-1, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)  # (B, 1, 4, 4)
    assert hidden.any()
    assert not hidden.all()
    twin = copy.deepcopy(student)
    x = twin.embed(target)
    logits = twin.classifier(torch.where(hidden, twin.token[None, :, None, None], x))
    pseudo = nn.functional.interpolate(twin.classifier(x), (SIDE, SIDE), mode="bilinear", align_corners=False).argmax(1)
    logits = nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
    expected = 0.5 * nn.functional.cross_entropy(logits, pseudo)
    expected.backward()
    log = step(source, label, target, draws={**PLAIN, "mask": uniform.tolist()})
    torch.testing.assert_close(log["loss_mask"], expected.detach(), rtol=1e-4, atol=1e-6)
    # Nothing but this term sees the mask token.
    torch.testing.assert_close(student.token.grad, twin.token.grad, rtol=1e-4, atol=1e-6)
    assert student.hidden_tokens is None


def test_a_network_without_tokens_is_refused() -> None:
    _, step = small_step(**{**OFF, "mask_weight": 1.0, "mask_kind": "tokens"})
    with pytest.raises(ValueError, match=r"mask_kind='tokens' needs a transformer .* which SmallNet has not"):
        step(*small_batch())


def test_stored_answers_stand_for_the_start_network() -> None:
    """The same iteration by a frozen copy, and by what that copy said."""
    settings = {**OFF, "label_network": "initial", "mix_weight": 1.0, "distillation_weight": 1.0, "threshold": 0.3}
    torch.manual_seed(3)
    net, start = SmallNet(), SmallNet()
    batch = small_batch()
    with torch.no_grad():
        said = start.eval()(batch[2])[0]
    logs = []
    for options, call in (({"initial": start}, {}), ({"initial": "stored"}, {"initial_logits": said})):
        _, step = small_step(copy.deepcopy(net), **settings, **options)
        logs.append(step(*batch, draws=PLAIN, **call))
    assert logs[0].keys() == logs[1].keys()
    assert all(torch.equal(logs[0][name], logs[1][name]) for name in logs[0])
    assert step.initial is None
    assert not [name for name in step.state_dict() if name.startswith("initial")]
    with pytest.raises(ValueError, match="initial_logits= in each call"):
        step(*batch)
    for unread in ({"initial": start}, {}):  # an answer that nobody reads, beside a network or without one
        other = {} if unread else {**settings, "label_network": "teacher", "distillation_weight": 0.0}
        _, step = small_step(copy.deepcopy(net), **{**settings, **other}, **unread)
        with pytest.raises(ValueError, match="initial_logits: expected initial='stored' at the making of the step"):
            step(*batch, initial_logits=said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": "stored"}, "initial='stored': expected label_network='initial' or distillation_weight above 0"),
        ({"initial": SmallNet()}, "initial: expected label_network='initial' or distillation_weight above 0 beside it"),
        ({"initial": "kept", "label_network": "initial"}, "initial: expected a network or 'stored', got 'kept'"),
    ],
)
def test_stored_answers_nobody_asks_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PipaStep(SmallNet(), **{"num_classes": CLASSES, **OFF, **options})


def test_frozen_parameters_are_left_out_of_the_average() -> None:
    net = SmallNet()
    net.backbone.requires_grad_(False)
    student, step = small_step(net, **{**OFF, "mix_weight": 1.0})
    teacher, ours = step.networks.parameters()
    assert {id(p) for p in ours} == {id(p) for p in student.parameters() if p.requires_grad}
    assert len(teacher) == len(ours)
    other = SmallNet()  # a teacher of its own is brought to the student, frozen or not
    _, step = small_step(net, **{**OFF, "mix_weight": 1.0}, teacher=other)
    assert len(step.networks.parameters()[0]) == len(list(net.parameters()))
