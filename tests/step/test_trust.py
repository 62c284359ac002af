"""What each loss term reaches and looks at: the faults of the released research code cannot come back unseen."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipa import PipaStep
from pipa.networks import Networks, Outputs
from pipa.step import default_settings
from small_nets import ALL_TERMS, CLASSES, OFF, SIDE, TERMS, SmallNet, small_batch, small_step

TAU = 0.1


def only(term: str) -> dict[str, Any]:
    """Settings with one term on, at its default weight."""
    weight = {**default_settings(), **ALL_TERMS}[f"{term}_weight"]
    return {**OFF, f"{term}_weight": weight}


def backbone_gradient(student: nn.Module) -> float:
    grads = [p.grad for p in student.backbone.parameters()]
    return sum(float(g.abs().sum()) for g in grads if g is not None)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_reaches_the_backbone(term: str) -> None:
    """Fault 1: the released patch term ran through the teacher and gave the student nothing."""
    source, label, target = small_batch()
    if term in ("pixel", "feature_distance"):
        # They need source labels: cut the classifier off instead, so that the source cross entropy gives nothing.
        net = SmallNet(detached=True)
    else:
        net, label = SmallNet(), torch.full_like(label, 255)
    student, silent = small_step(net, **OFF)
    silent(source, label, target)
    assert backbone_gradient(student) == 0.0

    student, step = small_step(net, **only(term))
    log = step(source, label, target)
    assert f"loss_{term}" in log
    assert float(log[f"loss_{term}"]) > 0
    assert backbone_gradient(student) > 0


@pytest.mark.parametrize("term", ["pixel", "patch"])
def test_projection_heads_get_gradient(term: str) -> None:
    _, step = small_step(**only(term))
    step(*small_batch())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in step.head_parameters() if p.ndim > 1)


def test_teacher_and_imagenet_model_get_no_gradient() -> None:
    """Even when somebody unfreezes them."""
    imagenet = SmallNet()
    _, step = small_step(imagenet=imagenet)
    step.teacher.requires_grad_(True)
    imagenet.requires_grad_(True)
    for _ in range(2):
        step(*small_batch())
    for frozen in (step.teacher, imagenet):
        assert all(p.grad is None for p in frozen.parameters())


def test_imagenet_model_never_changes() -> None:
    imagenet = SmallNet().requires_grad_(False)
    before = {k: v.clone() for k, v in imagenet.state_dict().items()}
    _, step = small_step(imagenet=imagenet)
    step(*small_batch())
    for key, value in imagenet.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_teacher_sees_the_target_only_and_the_patch_term_only_the_student() -> None:
    """Fault 1 again, by counting: one teacher pass, on target images; patches go through the student."""
    student, step = small_step()
    seen: list[tuple[str, Tensor]] = []
    for name, module in (("teacher", step.teacher), ("student", student)):
        module.register_forward_pre_hook(lambda _m, args, name=name: seen.append((name, args[0])))
    source, label, target = small_batch()
    step(source, label, target)
    teacher = [image for name, image in seen if name == "teacher"]
    assert len(teacher) == 1
    assert torch.equal(teacher[0], target)
    sizes = [tuple(image.shape) for name, image in seen if name == "student"]
    # Source, mixed, both patches of both images in one pass, masked.
    assert sizes == [(2, 3, SIDE, SIDE), (2, 3, SIDE, SIDE), (4, 3, 16, 16), (2, 3, SIDE, SIDE)]


def test_target_labels_do_not_exist_for_the_step() -> None:
    """Fault 7: the released code opened the target's labels. Here there is no way to hand them over."""
    names = list(inspect.signature(PipaStep.forward).parameters)
    assert names[1:4] == ["source", "source_label", "target"]
    assert [name for name in names if "label" in name] == ["source_label"]


def test_ignored_source_pixels_get_no_gradient() -> None:
    """Fault 3 in the whole step: the ignored id is no class of anchors or keys."""
    source, label, target = small_batch()
    label[:, : SIDE // 2] = 255
    for sampling in ("all", "balanced"):
        _, step = small_step(**only("pixel"), pixel_sampling=sampling)
        seen: list[Tensor] = []
        step.heads["pixel_head"].register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out))
        gradients: list[Tensor] = []
        step._networks._backward = lambda loss, s=seen, g=gradients: g.append(torch.autograd.grad(loss, s[0])[0])
        step(source, label, target)
        ignored, labelled = gradients[0].chunk(2, dim=2)
        assert ignored.abs().max() == 0
        assert labelled.abs().max() > 0


# --- geometry through the whole step ---


class Fixed(nn.Module):
    """Networks without weights to speak of; one parameter, so that there is something to average and to train."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))


class First(nn.Module):
    """Projection head that hands the first map through."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return features[0]


HEADS = nn.ModuleDict({"pixel_head": First(), "patch_head": First()})


class DetailAdapter(Networks):
    """HRDA's form: context of the whole image, and features of a detail crop that name the class painted there."""

    region = (8, 4, 24, 20)
    shift = (0, 0)

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        top, left, bottom, right = self.region
        dy, dx = self.shift
        logits = torch.zeros(image.shape[0], CLASSES, SIDE, SIDE) + module.bias
        # Channel 0 is painted with class ids (see the test): a one-hot embedding of what the crop really shows.
        crop = image[:, 0, top + dy : bottom + dy, left + dx : right + dx].round().long()
        detail = nn.functional.one_hot(crop, CLASSES).permute(0, 3, 1, 2).float() + module.bias
        context = torch.randn(image.shape[0], CLASSES, SIDE // 4, SIDE // 4) + module.bias
        heads = [(logits, None, 0.9), (logits[:, :, top:bottom, left:right], self.region, 0.1)]
        return heads, [context], ([detail], self.region)


class ShiftedAdapter(DetailAdapter):
    """The same with features from two pixels further: what a wrong crop would look like."""

    shift = (2, 2)


def painted_source() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    label = torch.randint(0, CLASSES, (2, SIDE // 4, SIDE // 4), generator=generator)
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return label.float().unsqueeze(1).repeat(1, 3, 1, 1), label


@pytest.mark.parametrize("sampling", ["all", "balanced"])
def test_pixel_labels_are_those_of_the_detail_crop(sampling: str) -> None:
    """Fault 2: the released HRDA tree paired the crop's features with labels of the whole image."""
    image, label = painted_source()
    settings = {**only("pixel"), "num_classes": CLASSES, "pixel_sampling": sampling, "pixel_weight": 1.0}
    settings["pixel_max_anchors"] = 4096
    settings["pixel_max_per_class"] = 1024

    def loss(adapter: type[Networks]) -> float:
        step = PipaStep(Fixed(), adapter=adapter, heads=HEADS, **settings)
        return float(step(image, label, image)["loss_pixel"])

    top, left, bottom, right = DetailAdapter.region
    seen = label[:, top:bottom, left:right].flatten()
    counts = torch.bincount(seen, minlength=CLASSES).double()
    if sampling == "balanced":
        assert counts.max() < 1024  # nothing is left out
    # Equal embeddings within a class, orthogonal ones between: the loss of a pixel of a class with n members.
    per_class = torch.log((counts - 1) + (len(seen) - counts) * math.exp(-1 / TAU))
    expected = float((per_class * counts).sum() / len(seen))
    assert loss(DetailAdapter) == pytest.approx(expected, rel=1e-5)
    assert loss(ShiftedAdapter) > expected + 0.5


class SceneAdapter(Networks):
    """Features that name the scene cell they look at, whatever crop and flip it was seen through."""

    stride = 4
    table = torch.randn(SIDE, SIDE, 16, generator=torch.Generator().manual_seed(3))

    def cells(self, image: Tensor) -> Tensor:
        """(B, h, w, 2): mean row and column of the pixels of each cell, which are painted into the image."""
        return nn.functional.avg_pool2d(image[:, :2], self.stride).permute(0, 2, 3, 1)

    def features(self, module: nn.Module, image: Tensor) -> list[Tensor]:
        row, column = (self.cells(image) / self.stride).floor().long().unbind(-1)
        return [self.table[row, column].permute(0, 3, 1, 2) + module.bias]

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        logits = torch.zeros(image.shape[0], CLASSES, SIDE, SIDE) + module.bias
        return [(logits, None, 1.0)], [], None

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        return torch.zeros(image.shape[0], CLASSES, SIDE, SIDE)


class Stride2Adapter(SceneAdapter):
    stride = 2


class LabelledScene(SceneAdapter):
    """The same with a teacher that knows a class for each 4 x 4 pixels of the scene."""

    classes = torch.randint(0, CLASSES, (SIDE // 4, SIDE // 4), generator=torch.Generator().manual_seed(9))

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        row, column = (image[:, :2] / 4).floor().long().unbind(1)
        return nn.functional.one_hot(self.classes[row, column], CLASSES).permute(0, 3, 1, 2).float() * 20


def scene_loss(adapter: SceneAdapter, image: Tensor, patches: tuple[Any, ...], classes: Tensor | None = None) -> float:
    """Plain float64 loops: cells that show the same place of the scene are the positive pairs.

    classes: of each 4 x 4 pixels of the scene; cells of one class are no negatives of each other.
    """
    (box1, box2, flip1, flip2), views = patches, []
    for (top, left, bottom, right), flip in ((box1, flip1), (box2, flip2)):
        crop = image[:, :, top:bottom, left:right]
        views.append(adapter.cells(crop.flip(-1) if flip else crop).double())
    total, count = 0.0, 0
    for b in range(image.shape[0]):
        places = [tuple(cell.tolist()) for view in views for cell in view[b].reshape(-1, 2)]
        split = views[0][b].shape[0] * views[0][b].shape[1]
        index = (torch.tensor(places) / adapter.stride).floor().long()
        feat = nn.functional.normalize(adapter.table[index[:, 0], index[:, 1]].double(), dim=1)
        score = feat @ feat.T / TAU
        score.fill_diagonal_(-math.inf)
        of = None if classes is None else [int(classes[int(y) // 4, int(x) // 4]) for y, x in places]
        for i, place in enumerate(places):
            other = range(split, len(places)) if i < split else range(split)
            for j in other:
                if places[j] == place:
                    rest = [k for k in range(len(places)) if k == j or of is None or of[k] != of[i]]
                    total += float(torch.logsumexp(score[i, rest], 0) - score[i, j])
                    count += 1
    return total / count


@pytest.mark.parametrize("adapter", [SceneAdapter, Stride2Adapter])
@pytest.mark.parametrize("seed", range(6))
def test_patch_pairs_show_the_same_scene_pixel(adapter: type[SceneAdapter], seed: int) -> None:
    """Fault 5: the released HRDA tree divided the boxes by 8 on a stride-2 map; pairs lay 252 px apart."""
    grid = torch.arange(SIDE, dtype=torch.float32)
    one = torch.stack([grid.view(-1, 1).expand(SIDE, SIDE), grid.expand(SIDE, SIDE), torch.zeros(SIDE, SIDE)])
    target = one.expand(1, 3, SIDE, SIDE).contiguous()
    settings = {**only("patch"), "num_classes": CLASSES, "patch_warmup": 0, "patch_weight": 1.0}
    settings |= {"patch_size": [16, 20], "patch_align": 4, "patch_source": "target", "patch_iou": [0.1, 0.9]}
    step = PipaStep(Fixed(), adapter=adapter, heads=HEADS, seed=seed, **settings)
    log = step(target, torch.zeros(1, SIDE, SIDE, dtype=torch.long), target)
    assert step.last is not None
    expected = scene_loss(adapter(None, None, None, None, None), target, step.last["patches"])
    assert float(log["loss_patch"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_other_classes_alone_repel_where_asked(seed: int) -> None:
    """`patch_negatives`: the labels are cut and mirrored with the crops, and read where the features look."""
    grid = torch.arange(SIDE, dtype=torch.float32)
    one = torch.stack([grid.view(-1, 1).expand(SIDE, SIDE), grid.expand(SIDE, SIDE), torch.zeros(SIDE, SIDE)])
    target = one.expand(1, 3, SIDE, SIDE).contiguous()
    settings = {**only("patch"), "num_classes": CLASSES, "patch_warmup": 0, "patch_weight": 1.0, "patch_size": [16, 20]}
    settings |= {"patch_align": 4, "patch_source": "target", "patch_negatives": "other_classes"}
    step = PipaStep(Fixed(), adapter=LabelledScene, heads=HEADS, seed=seed, **settings)
    log = step(target, torch.zeros(1, SIDE, SIDE, dtype=torch.long), target)
    assert step.last is not None
    adapter = LabelledScene(None, None, None, None, None)
    few = scene_loss(adapter, target, step.last["patches"], LabelledScene.classes)
    assert float(log["loss_patch"]) == pytest.approx(few, rel=1e-4)
    assert few < 0.95 * scene_loss(adapter, target, step.last["patches"])


def test_patch_pairs_of_the_mixed_image_follow_its_own_pixels() -> None:
    """`patch_source`: "mixed" cuts from what the mixed pass saw, "target" from the target."""
    for source in ("mixed", "target"):
        student, step = small_step(**{**only("patch"), "patch_source": source})
        seen: list[Tensor] = []
        student.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        batch = small_batch()
        step(*batch)
        assert step.last is not None
        image = step.last["mixed_image"] if source == "mixed" else batch[2]
        (top, left, bottom, right), _, flip, _ = step.last["patches"]
        crop = image[:, :, top:bottom, left:right]
        assert torch.equal(seen[-1][:2], crop.flip(-1) if flip else crop)
