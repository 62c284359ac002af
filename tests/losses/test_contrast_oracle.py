"""The contrastive losses against plain loops in float64: values, and gradients by central differences of the loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import brute_force as slow
from pipa import PatchContrastLoss, PixelContrastLoss
from pipa import functional as F

TILES = [None, (1, 1), (3, 4), (4, 100), (100, 5)]


def features(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("exclude_self", [False, True])
def test_class_positives(exclude_self: bool, tile: tuple[int, int] | None) -> None:
    anchor, key = features(9, 5).requires_grad_(), features(13, 5).requires_grad_()
    # Ids are arbitrary integers; -7 and 10**12 have no partner.
    label_n = torch.tensor([3, 3, 0, 255, -7, 3, 0, 255, 40])
    label_m = torch.tensor([3, 0, 0, 255, 10**12, 3, 3, 0, 40, 1, 1, 255, 0])
    own = list(range(9)) if exclude_self else [-1] * 9
    positives = slow.same_class(label_n, label_m)
    loss = F.contrast(anchor, key, (label_n, label_m), temperature=0.2, exclude_self=exclude_self, tile=tile)
    expected, costs = slow.contrast(anchor, key, positives, own, 0.2)
    assert 0 < len(costs) < 9
    torch.testing.assert_close(loss.item(), expected, rtol=1e-12, atol=0)
    loss.backward()
    for x, numeric in (
        (anchor, slow.numeric_gradient(lambda a: slow.contrast(a, key, positives, own, 0.2)[0], anchor)),
        (key, slow.numeric_gradient(lambda k: slow.contrast(anchor, k, positives, own, 0.2)[0], key)),
    ):
        torch.testing.assert_close(x.grad, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("tile", TILES)
def test_position_positives(tile: tuple[int, int] | None) -> None:
    anchor, key = features(6, 4).requires_grad_(), features(8, 4).requires_grad_()
    # Anchor 1 has none; anchor 2's is itself, which does not count either.
    index = torch.tensor([7, -1, 2, 7, 0, 1])
    own = list(range(6))
    positives = [[int(i)] if i >= 0 else [] for i in index]
    loss = F.contrast(anchor, key, index, exclude_self=True, tile=tile)
    expected, costs = slow.contrast(anchor, key, positives, own, 0.1)
    assert len(costs) == 4
    torch.testing.assert_close(loss.item(), expected, rtol=1e-12, atol=0)
    loss.backward()
    numeric = slow.numeric_gradient(lambda k: slow.contrast(anchor, k, positives, own, 0.1)[0], key)
    torch.testing.assert_close(key.grad, numeric, rtol=1e-6, atol=1e-8)
    assert anchor.grad is not None
    assert (anchor.grad[1:3] == 0).all()


@pytest.mark.parametrize("tile", TILES)
def test_a_set_with_itself(tile: tuple[int, int] | None) -> None:
    """One tensor as anchors and keys takes a path of its own; its gradient is the sum of both roles."""
    feat = features(11, 3).requires_grad_()
    label = torch.tensor([0, 1, 2, 0, 1, 0, 9, 2, 2, 0, 1])
    loss = F.contrast(feat, feat, (label, label), exclude_self=True, tile=tile)
    positives, own = slow.same_class(label, label), list(range(11))
    assert loss.item() == pytest.approx(slow.contrast(feat, feat, positives, own, 0.1)[0], rel=1e-12)
    loss.backward()
    numeric = slow.numeric_gradient(lambda x: slow.contrast(x, x, positives, own, 0.1)[0], feat)
    torch.testing.assert_close(feat.grad, numeric, rtol=1e-6, atol=1e-8)
    twin = feat.detach().clone().requires_grad_()
    key = twin * 1.0
    F.contrast(twin, key, (label, label), exclude_self=True, tile=tile).backward()
    torch.testing.assert_close(twin.grad, feat.grad, rtol=1e-10, atol=1e-12)


def test_pixel_module_on_every_pixel() -> None:
    embedding = features(2, 4, 5, 7)
    label = torch.randint(0, 4, (2, 5, 7))
    label[label == 3] = 255
    ours = PixelContrastLoss(sampling="all")(embedding, label)
    assert ours.item() == pytest.approx(slow.pixel_map(embedding, label, 255, 0.1), rel=1e-12)


def test_balanced_sample_of_few_pixels_is_every_pixel() -> None:
    embedding = features(2, 4, 5, 6)
    label = torch.randint(0, 3, (2, 5, 6))
    ours = PixelContrastLoss(temperature=0.3, seed=1)(embedding, label)
    assert ours.item() == pytest.approx(slow.pixel_map(embedding, label, 255, 0.3), rel=1e-12)


@pytest.mark.parametrize(("flip1", "flip2"), [(False, False), (True, False), (False, True), (True, True)])
def test_patch_module(flip1: bool, flip2: bool) -> None:
    one, two = features(2, 3, 4, 5).requires_grad_(), features(2, 3, 4, 5).requires_grad_()
    boxes = ((1, 2, 4, 5), (0, 1, 3, 4))
    loss = PatchContrastLoss(temperature=0.2)(one, two, *boxes, flip1, flip2)
    assert loss.item() == pytest.approx(slow.patch_maps(one, two, *boxes, flip1, flip2, 0.2), rel=1e-12)
    loss.backward()
    for x, numeric in (
        (one, slow.numeric_gradient(lambda x: slow.patch_maps(x, two, *boxes, flip1, flip2, 0.2), one)),
        (two, slow.numeric_gradient(lambda x: slow.patch_maps(one, x, *boxes, flip1, flip2, 0.2), two)),
    ):
        torch.testing.assert_close(x.grad, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_official_pixel_form(scale: float) -> None:
    feat = (features(4, 3, 6) * scale).requires_grad_()
    label = torch.tensor([2, 0, 2, 5])
    loss = F.pixel_contrast(feat, label, temperature=0.2, base_temperature=0.05)
    assert loss.item() == pytest.approx(slow.pixel_official(feat.detach(), label, 0.2, 0.05), rel=1e-11)
    paper = F.pixel_contrast(feat, label, temperature=0.2, formulation="paper")
    rows, ids = feat.detach().reshape(12, 6), label.repeat_interleave(3)
    expected, _ = slow.contrast(rows, rows, slow.same_class(ids, ids), list(range(12)), 0.2)
    assert paper.item() == pytest.approx(expected, rel=1e-12)


def test_memory_bank_keys() -> None:
    """Second batch: its own pixels and the remembered ones are keys, only its own are anchors and get a gradient."""
    loss = PixelContrastLoss(seed=0, memory_bank=6, num_classes=3)
    old, new = features(1, 4, 3, 4), features(1, 4, 3, 4).requires_grad_()
    old_label, new_label = torch.arange(12).reshape(1, 3, 4) % 3, torch.arange(12).reshape(1, 3, 4) % 2
    loss(old, old_label)
    rows = lambda x: x.detach()[0].flatten(1).T  # noqa: E731
    keys = torch.cat([rows(new), rows(old)])
    labels = torch.cat([new_label.reshape(-1), old_label.reshape(-1)])
    positives = slow.same_class(new_label.reshape(-1), labels)
    value = loss(new, new_label)
    assert value.item() == pytest.approx(slow.contrast(rows(new), keys, positives, list(range(12)), 0.1)[0], rel=1e-6)
    value.backward()
    assert new.grad is not None
    assert new.grad.abs().sum() > 0
