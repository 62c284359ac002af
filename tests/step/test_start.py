"""What a step finds out by itself: terms that stay 0, the scale of images, noise in the teacher; copies of a step."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipa import PipaStep
from pipa.step import default_settings
from pipa.step_checks import LATE, SOON, SilentTerms, pixel_values
from small_nets import CLASSES, OFF, SIDE, SmallNet, small_batch, small_step

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def warned(step: PipaStep, iterations: int, batch: tuple[Tensor, Tensor, Tensor] | None = None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(iterations):
            step(*(batch or small_batch(i)))
    return [str(w.message) for w in caught]


@pytest.mark.parametrize(
    ("settings", "ignored", "words"),
    [
        (dict(pixel_min_pixels=500), False, "loss_pixel has been 0 for 3 .* pixel_min_pixels=500 pixels"),
        (dict(feature_distance_classes=[3], feature_distance_min_ratio=1.0), True, r"loss_feature_distance .*=\[3\]"),
        (dict(pixel_weight=0, feature_distance_weight=0), True, "loss_source has been 0 .* every pixel"),
    ],
)
def test_a_term_that_stays_zero_says_why_once(settings: dict[str, Any], ignored: bool, words: str) -> None:
    _, step = small_step(**settings)
    source, label, target = small_batch()
    batch = (source, torch.full_like(label, 255) if ignored else label, target)
    assert warned(step, 2, batch) == []
    told = warned(step, 4, batch)
    assert any(re.search(words, text) for text in told)
    assert len(told) == len({text.split()[0] for text in told})
    assert warned(step, 4, batch) == []


def test_an_ordinary_training_is_not_told_about_zeros() -> None:
    _, step = small_step()
    assert warned(step, 5) == []


def test_pseudo_labels_may_take_their_time() -> None:
    _, step = small_step(**{**OFF, "mask_weight": 1.0}, threshold=0.9999)
    assert warned(step, 98) == []
    (told,) = warned(step, 3)
    assert "loss_mask has been 0 for 100 iterations: no target pixel is surer than threshold=0.9999" in told


def every_term(**settings: Any) -> PipaStep:
    """A step with every weight that there is above 0."""
    defaults = default_settings()
    weights = {name: 1.0 for name, value in defaults.items() if name.endswith("_weight") and not isinstance(value, str)}
    both_domains = {name: True for name in defaults if name.endswith("_target")}
    return small_step(initial=SmallNet().requires_grad_(False), **{**weights, **both_domains, **settings})[1]


def test_every_term_that_stays_zero_says_why() -> None:
    """Labels and target pixels that never count silence all terms but the patch contrast, which needs no label."""
    step = every_term(feature_distance_classes=[1])
    source, label, target = small_batch()
    log = step(source, torch.full_like(label, 255), target, valid_mask=torch.zeros(2, SIDE, SIDE))
    terms = {name for name in log if name.startswith("loss_")}
    assert terms == set(SilentTerms.reasons(step.settings))
    silent = SilentTerms()
    told = [[text.split()[0] for text in silent.look(log, lambda: step.settings)] for _ in range(LATE + 1)]
    assert sorted(name for names in told for name in names) == sorted(terms - {"loss_patch"})
    assert {"loss_source", "loss_pixel", "loss_distribution", "loss_mix", "loss_regularizer"} < set(told[SOON - 1])
    assert {"loss_feature_distance_target", "loss_structure", "loss_distillation"} < set(told[LATE - 1])


@pytest.mark.parametrize(
    "given",
    [dict(mean="abc", std=STD), dict(mean=0.5, std=0.2), dict(mean=MEAN, std=["a", 1, 2]), dict(mean=None, std=None)],
)
def test_mean_and_std_that_are_no_numbers_are_named_by_the_settings(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(mean|std): expected"):
        PipaStep(SmallNet(), num_classes=CLASSES, **{**OFF, **given})


def test_the_scale_of_images_comes_from_mean_and_std_together() -> None:
    assert pixel_values(dict(mean=MEAN, std=STD), None)["mean"] == [255 * m for m in MEAN]
    assert pixel_values(dict(mean=[0.0] * 3), None) == dict(mean=[0.0] * 3)  # mean alone says nothing of the scale
    assert pixel_values(dict(mean=[0.0] * 3, std=[1.0] * 3), 255) == dict(mean=[0.0] * 3, std=[1.0] * 3)
    with pytest.raises(ValueError, match="image_max must be positive"):
        pixel_values(dict(mean=MEAN, std=STD), 0)


def test_mixed_images_have_the_range_of_the_source() -> None:
    """Means like 0.485 and means like 123.675 are one normalisation: the same mixed image, bit for bit nearly."""
    pixels = torch.rand(2, 2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    shape = (1, 3, 1, 1)
    source, target = (pixels - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    label = small_batch()[1]
    mixed = []
    for scale in (1, 255):
        settings = dict(mean=[m * scale for m in MEAN], std=[s * scale for s in STD], jitter_probability=1.0)
        _, step = small_step(**settings, blur_probability=1.0)
        step(source, label, target)
        assert step.last is not None
        mixed.append(step.last["mixed_image"])
    assert torch.allclose(mixed[0], mixed[1], atol=1e-5)
    low, high = float(source.min()), float(source.max())
    assert low - 0.1 <= float(mixed[0].min())
    assert float(mixed[0].max()) <= high + 0.1


@pytest.mark.parametrize(
    ("images", "settings", "words"),
    [
        (torch.rand(2, 3, SIDE, SIDE) * 255, dict(), "would have values of"),
        (torch.rand(2, 3, SIDE, SIDE), dict(), None),
        (torch.rand(2, 3, SIDE, SIDE) * 255, dict(mean=[0.0] * 3, std=[1.0] * 3), "would have values of"),
    ],
)
def test_images_that_were_not_normalised_so_are_found(
    images: Tensor, settings: dict[str, Any], words: str | None
) -> None:
    _, step = small_step(**settings)
    label = small_batch()[1]
    if words is None:
        with pytest.warns(UserWarning, match="were not those of its normalisation"):
            step(images, label, images)
    else:
        with pytest.raises(ValueError, match=words):
            step(images, label, images)


class Strided(nn.Module):
    """Takes multiples of its stride alone, as a ViT of that patch does."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.encoder = nn.ModuleList([nn.Conv2d(3, 8, stride, stride)])
        self.classifier = nn.Conv2d(8, CLASSES, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        if image.shape[2] % self.stride or image.shape[3] % self.stride:
            raise ValueError(f"expected a multiple of {self.stride}")
        feat = self.encoder[0](image)
        return self.classifier(feat), [feat]


@pytest.mark.parametrize(("stride", "side", "patch"), [(14, 112, 70), (16, 128, 80), (32, 192, 128)])
def test_patches_follow_the_stride_of_the_encoder(stride: int, side: int, patch: int) -> None:
    settings = {**OFF, "patch_weight": 0.1, "patch_warmup": 0, "patch_source": "target", "patch_size": [patch, patch]}
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, side, side, generator=generator)
    label = torch.zeros(2, side, side, dtype=torch.long)
    step = PipaStep(Strided(stride).train(), num_classes=CLASSES, patch_dim=8, projection_hidden=8, **settings)
    assert step.settings["patch_align"] % stride == 0
    assert float(step(image, label, image)["loss_patch"]) > 0
    settings["patch_size"] = [patch + 2, patch + 2]
    with pytest.raises(ValueError, match=rf"patch_size \[{patch + 2}, {patch + 2}\]"):
        PipaStep(Strided(stride).train(), num_classes=CLASSES, patch_dim=8, projection_hidden=8, **settings)


def test_patches_of_one_cell_are_told_about() -> None:
    settings = {**OFF, "patch_weight": 0.1, "patch_warmup": 0, "patch_size": [16, 16], "patch_iou": [1.0, 1.0]}
    step = PipaStep(Strided(16).train(), num_classes=CLASSES, patch_dim=8, projection_hidden=8, **settings)
    (told,) = warned(step, 4, (torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64).long(), torch.randn(1, 3, 64, 64)))
    assert re.search("loss_patch has been 0 for 3 iterations: .* patch_size", told)


class MyDropout(nn.Dropout):
    """A dropout under another name."""


class SegformerDropPath(nn.Module):
    """As transformers has it: decides with its own `training`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(x.shape[0], 1, 1, 1) > 0.5
        return x * keep / 0.5


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, training=self.training)


class Nested(nn.Module):
    """Noise two levels down, beside a norm that goes on counting."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Sequential(nn.AlphaDropout(0.5)), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    "layer", [MyDropout(0.5), SegformerDropPath(), nn.FeatureAlphaDropout(0.5), Functional(), Nested(), nn.RReLU()]
)
def test_the_teacher_is_quiet_whatever_the_layer(layer: nn.Module) -> None:
    student = SmallNet()
    student.dropout = layer
    _, step = small_step(student)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(*small_batch())
    seen: list[Tensor] = []
    step.teacher.classifier.register_forward_hook(lambda _m, _a, out: seen.append(out))
    target = small_batch()[2]
    state = copy.deepcopy(step.teacher.state_dict())
    for seed in range(2):
        torch.manual_seed(seed)
        step.teacher.load_state_dict(state)
        with torch.no_grad():
            step.networks.logits(step.teacher, target)
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_heads_have_the_dtype_of_the_student(dtype: torch.dtype) -> None:
    student, step = small_step(SmallNet().to(dtype), imagenet=SmallNet().to(dtype))
    assert {p.dtype for p in step.head_parameters()} == {dtype}
    source, label, target = small_batch()
    step(source.to(dtype), label, target.to(dtype))
    assert all(p.grad is not None and p.grad.dtype == dtype for p in step.head_parameters())
    assert all(p.grad is None or p.grad.dtype == dtype for p in student.parameters())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda step: pickle.loads(pickle.dumps(step))], ids=["copy", "pickle"])
def test_a_copy_of_a_step_goes_on_alone_and_alike(how: Any) -> None:
    _, step = small_step(pixel_memory_bank=4)
    for i in range(2):
        step(*small_batch(i))
    other = how(step)
    assert other.iteration == 2
    assert other.settings == step.settings
    logs = []
    for one in (step, other):
        torch.manual_seed(5)
        logs.append(one(*small_batch(7)))
        student = one.networks._student
        assert all(p.grad is not None for p in student.backbone.parameters())
    assert {k: float(v) for k, v in logs[0].items()} == {k: float(v) for k, v in logs[1].items()}
    assert (step.iteration, other.iteration) == (3, 3)
    pairs = zip(step.teacher.parameters(), other.teacher.parameters(), strict=True)
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)
    other(*small_batch(8))
    assert step.iteration == 3
