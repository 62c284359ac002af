"""Invariances and limits of the contrastive losses, and their behaviour at the edges of their domain."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pipa
from pipa import PatchContrastLoss, PixelContrastLoss
from pipa import functional as F

BOXES = ((0, 1, 4, 4), (1, 0, 5, 3))


def value_and_grad(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    loss = function(x)
    (grad,) = torch.autograd.grad(loss, x)
    return loss.detach(), grad


def within(x: Tensor, label: Tensor, **settings: float) -> Tensor:
    return F.contrast(x, x, (label, label), exclude_self=True, **settings)


@pytest.fixture
def feat() -> Tensor:
    return torch.randn(40, 8, dtype=torch.float64)


@pytest.fixture
def label() -> Tensor:
    return torch.arange(40) % 4


def test_order_of_pixels_does_not_matter(feat: Tensor, label: Tensor) -> None:
    order = torch.randperm(40)
    loss, grad = value_and_grad(lambda x: within(x, label), feat)
    shuffled, shuffled_grad = value_and_grad(lambda x: within(x, label[order]), feat[order])
    torch.testing.assert_close(shuffled, loss)
    torch.testing.assert_close(shuffled_grad, grad[order])


def test_common_rotation_changes_nothing(feat: Tensor, label: Tensor) -> None:
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    loss, grad = value_and_grad(lambda x: within(x, label), feat)
    turned, turned_grad = value_and_grad(lambda x: within(x, label), feat @ rotation)
    torch.testing.assert_close(turned, loss)
    torch.testing.assert_close(turned_grad, grad @ rotation)


def test_length_of_features_does_not_matter(feat: Tensor, label: Tensor) -> None:
    length = torch.rand(40, 1, dtype=torch.float64) * 5 + 0.1
    loss, grad = value_and_grad(lambda x: within(x, label), feat)
    scaled, scaled_grad = value_and_grad(lambda x: within(x, label), feat * length)
    torch.testing.assert_close(scaled, loss)
    torch.testing.assert_close(scaled_grad * length, grad)
    torch.testing.assert_close((grad * feat).sum(1), torch.zeros(40, dtype=torch.float64), atol=1e-12, rtol=0)


def test_names_of_classes_do_not_matter(feat: Tensor, label: Tensor) -> None:
    names = torch.tensor([255, -1, 2**40, -(2**50)])
    assert within(feat, names[label]) == within(feat, label)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert within(feat, label.to(dtype)) == within(feat, label)


def test_hot_limit_is_uniform(feat: Tensor, label: Tensor) -> None:
    """tau to infinity: every key is alike, so the loss is the logarithm of their number."""
    assert within(feat, label, temperature=1e9).item() == pytest.approx(math.log(39), abs=1e-7)


def test_cold_limit_is_a_hinge(feat: Tensor, label: Tensor) -> None:
    """tau to zero: tau times the loss is the gap between the nearest key and the mean positive."""
    unit = torch.nn.functional.normalize(feat, dim=1)
    cosine = unit @ unit.T
    others = ~torch.eye(40, dtype=torch.bool)
    positive = (label[:, None] == label) & others
    nearest = cosine.masked_fill(~others, -2).amax(1)
    gap = nearest - (cosine * positive).sum(1) / positive.sum(1)
    loss, grad = value_and_grad(lambda x: within(x, label, temperature=1e-6), feat)
    assert loss.item() * 1e-6 == pytest.approx(gap.mean().item(), rel=1e-6)
    assert grad.isfinite().all()


def test_float32_survives_low_temperatures(label: Tensor) -> None:
    feat = torch.randn(40, 8)
    for temperature in (1e-4, 1e-2, 1e4):
        loss, grad = value_and_grad(lambda x, t=temperature: within(x, label, temperature=t), feat)  # type: ignore[misc]
        exact, _ = value_and_grad(
            lambda x, t=temperature: within(x, label, temperature=t),  # type: ignore[misc]
            feat.double(),
        )
        assert grad.isfinite().all()
        torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-5)


def test_duplicates_share_one_gradient(feat: Tensor, label: Tensor) -> None:
    twice = torch.cat([feat, feat[:1]])
    ids = torch.cat([label, label[:1]])
    _, grad = value_and_grad(lambda x: within(x, ids), twice)
    torch.testing.assert_close(grad[0], grad[40])


def test_identical_features_give_the_uniform_loss() -> None:
    loss, grad = value_and_grad(lambda x: within(x, torch.zeros(10, dtype=torch.int64)), torch.ones(10, 4))
    assert loss.item() == pytest.approx(math.log(9), rel=1e-6)
    assert grad.abs().max() < 1e-6


def test_one_class_still_pulls_together(feat: Tensor) -> None:
    _, grad = value_and_grad(lambda x: within(x, torch.zeros(40, dtype=torch.int64)), feat)
    assert grad.abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nothing_valid_is_a_zero_on_the_graph(dtype: torch.dtype) -> None:
    for x, label in (
        (torch.randn(5, 3, dtype=dtype), torch.arange(5)),
        (torch.randn(1, 3, dtype=dtype), torch.zeros(1, dtype=torch.int64)),
        (torch.randn(0, 3, dtype=dtype), torch.zeros(0, dtype=torch.int64)),
    ):
        loss, grad = value_and_grad(lambda f, ids=label: within(f, ids), x)  # type: ignore[misc]
        assert loss == 0
        assert (grad == 0).all()
    x = torch.randn(3, 4, dtype=dtype, requires_grad=True)
    loss = F.contrast(x, torch.randn(6, 4, dtype=dtype), torch.full((3,), -1))
    loss.backward()
    assert loss == 0
    assert (x.grad == 0).all()


def test_zero_rows_get_zero_gradient_and_hurt_nobody(feat: Tensor, label: Tensor) -> None:
    feat[::7] = 0
    loss, grad = value_and_grad(lambda x: within(x, label), feat)
    assert loss.isfinite()
    assert (grad[::7] == 0).all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("magnitude", [1e-38, 1e-25, 1e30, 3e38])
def test_magnitudes(magnitude: float, dtype: torch.dtype, label: Tensor) -> None:
    """Norms that overflow or vanish in float32 squares change nothing; below 1e-30 a float32 row counts as zero."""
    base = torch.nn.functional.normalize(torch.randn(40, 8, dtype=dtype), dim=1)
    loss, grad = value_and_grad(lambda x: within(x, label), base * magnitude)
    assert loss.isfinite()
    assert grad.isfinite().all()
    if dtype == torch.float64 or magnitude > 1e-30:
        torch.testing.assert_close(loss, within(base, label), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    label = torch.arange(600) % 3
    feat = torch.randn(600, 32).to(dtype)
    loss, grad = value_and_grad(lambda x: within(x, label), feat)
    full, full_grad = value_and_grad(lambda x: within(x, label), feat.float())
    assert loss.dtype == torch.float32
    assert loss == full
    assert grad.dtype == dtype
    torch.testing.assert_close(grad, full_grad.to(dtype))


def test_layout_of_tensors_does_not_matter() -> None:
    label = torch.randint(0, 3, (2, 5, 6))
    plain = torch.randn(2, 8, 5, 6)
    expected, expected_grad = value_and_grad(lambda x: PixelContrastLoss(sampling="all")(x, label), plain)
    wide = torch.randn(2, 5, 12, 8)
    wide[:, :, ::2] = plain.permute(0, 2, 3, 1)
    for x in (plain.to(memory_format=torch.channels_last), wide[:, :, ::2].permute(0, 3, 1, 2)):
        assert not x.is_contiguous()
        loss, grad = value_and_grad(lambda f: PixelContrastLoss(sampling="all")(f, label), x)
        assert loss == expected
        torch.testing.assert_close(grad, expected_grad)
    strided = torch.stack([label, label], -1)[..., 0]
    assert PixelContrastLoss(sampling="all")(plain, strided) == expected


@pytest.mark.parametrize("sampling", ["all", "balanced"])
def test_ignored_pixels_have_no_influence(sampling: str) -> None:
    label = torch.randint(0, 3, (2, 6, 5))
    label[0, :2] = 255
    embedding = torch.randn(2, 8, 6, 5)
    loss, grad = value_and_grad(lambda x: PixelContrastLoss(sampling=sampling, seed=1)(x, label), embedding)
    assert (grad[0, :, :2] == 0).all()
    assert (grad[0, :, 2:].abs().sum(0) > 0).all()
    embedding[0, :, :2] = 1e20
    assert PixelContrastLoss(sampling=sampling, seed=1)(embedding, label) == loss
    everything = torch.full_like(label, 255)
    loss, grad = value_and_grad(lambda x: PixelContrastLoss(sampling=sampling)(x, everything), embedding)
    assert loss == 0
    assert (grad == 0).all()


def test_batch_of_one_and_bigger_labels() -> None:
    embedding = torch.randn(1, 4, 5, 7)
    label = torch.randint(0, 3, (1, 5, 7))
    big = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    loss = PixelContrastLoss(sampling="all")
    assert loss(embedding, big) == loss(embedding, label)
    odd = torch.randint(0, 3, (1, 37, 50))
    resized = torch.nn.functional.interpolate(odd[:, None].float(), size=(5, 7), mode="nearest")[:, 0].long()
    assert loss(embedding, odd) == loss(embedding, resized)


def test_autocast_and_no_grad_behave_as_torch_losses_do(feat: Tensor, label: Tensor) -> None:
    x = feat.float()
    expected, expected_grad = value_and_grad(lambda f: within(f, label), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, grad = value_and_grad(lambda f: within(f, label), x)
    assert loss.dtype == torch.float32
    assert loss == expected
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=0)
    official = F.pixel_contrast(x.reshape(10, 4, 8), torch.arange(10) % 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.pixel_contrast(x.reshape(10, 4, 8), torch.arange(10) % 3) == official
    bank, ids, sure = torch.randn(30, 8), torch.arange(30) % 3, torch.full((40,), 0.95)
    gated = F.patch_contrast_gated(x, x.flip(0), bank, ids, label, label, sure - 0.1, sure)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = F.patch_contrast_gated(x, x.flip(0), bank, ids, label, label, sure - 0.1, sure)
    assert half == gated
    assert gated[0] > 0
    maps = torch.randn(2, 1, 4, 6, 5)
    patch = PatchContrastLoss()(*maps, *BOXES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PatchContrastLoss()(*maps, *BOXES) == patch
    x.requires_grad_()
    for guard in (torch.no_grad(), torch.inference_mode()):
        with guard:
            loss = within(x, label)
        assert not loss.requires_grad
        assert loss == expected


def test_one_graph_node_serves_scaling_and_accumulation(feat: Tensor, label: Tensor) -> None:
    _, grad = value_and_grad(lambda x: within(x, label), feat)
    _, scaled = value_and_grad(lambda x: 3 * within(x, label) + x.sum(), feat)
    torch.testing.assert_close(scaled, 3 * grad + 1)


def test_inputs_are_left_alone(feat: Tensor, label: Tensor) -> None:
    feat_before, label_before = feat.clone(), label.clone()
    value_and_grad(lambda x: within(x, label), feat)
    assert torch.equal(feat, feat_before)
    assert torch.equal(label, label_before)


def test_patch_pairs_of_one_view_are_nearest() -> None:
    """Equal maps and boxes: each position's positive is its exact copy, so a sharp temperature leaves no loss."""
    patch = torch.randn(1, 16, 6, 6, dtype=torch.float64)
    box = (1, 1, 5, 5)
    assert PatchContrastLoss(temperature=1e-3)(patch, patch, box, box) < 1e-9
    flipped = patch.flip(3)
    assert PatchContrastLoss(temperature=1e-3)(patch, flipped, box, (1, 1, 5, 5), False, True) < 1e-9
    assert PatchContrastLoss(temperature=1e-3)(patch, flipped, box, (1, 1, 5, 5), False, False) > 1


def test_patch_swap_and_images() -> None:
    one, two = torch.randn(3, 4, 6, 5, dtype=torch.float64), torch.randn(3, 4, 6, 5, dtype=torch.float64)
    loss = PatchContrastLoss()
    both = loss(one, two, *BOXES, True, False)
    torch.testing.assert_close(loss(two, one, BOXES[1], BOXES[0], False, True), both)
    each = torch.stack([loss(one[i : i + 1], two[i : i + 1], *BOXES, True, False) for i in range(3)])
    torch.testing.assert_close(each.mean(), both)


def test_patch_gradient_reaches_both_patches_everywhere() -> None:
    """Features outside the overlap are negatives, so they are pushed too."""
    one = torch.randn(1, 4, 6, 5, requires_grad=True)
    two = torch.randn(1, 4, 6, 5, requires_grad=True)
    PatchContrastLoss()(one, two, *BOXES).backward()
    for x in (one, two):
        assert x.grad is not None
        assert (x.grad.abs().sum(1) > 0).all()


def test_errors_name_the_argument() -> None:
    x, y = torch.randn(4, 3), torch.randn(5, 3)
    ids4, ids5 = torch.zeros(4, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    maps, label = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    patch, two = PatchContrastLoss(), (maps, maps, (0, 0, 1, 1), (0, 0, 1, 1))
    rows: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: F.contrast(x[0], y, ids4), pipa.ShapeError, "anchor_nd"),
        (lambda: F.contrast(x, torch.randn(5, 2), ids4), pipa.ShapeError, "key_md"),
        (lambda: F.contrast(x, y.double(), ids4), pipa.DTypeError, "key_md"),
        (lambda: F.contrast(x.long(), y, ids4), pipa.DTypeError, "anchor_nd"),
        (lambda: F.contrast(x, y, (ids5, ids5)), pipa.ShapeError, "anchor_label_n"),
        (lambda: F.contrast(x, y, (ids4, ids4)), pipa.ShapeError, "key_label_m"),
        (lambda: F.contrast(x, y, (ids4, ids5.float())), pipa.DTypeError, "key_label_m"),
        (lambda: F.contrast(x, y, ids4 + 5), ValueError, "index_n"),
        (lambda: F.contrast(x, y, ids4, temperature=0.0), ValueError, "temperature"),
        (lambda: F.contrast(x, y, ids4, temperature=float("nan")), ValueError, "temperature"),
        (lambda: F.contrast(y, x, ids5, exclude_self=True), pipa.ShapeError, "exclude_self"),
        (lambda: F.contrast(x, y, ids4, tile=(0, 4)), ValueError, "tile"),
        (lambda: F.contrast(x, y, "labels"), TypeError, "positive"),  # type: ignore[arg-type]
        (lambda: F.contrast(x.to("meta"), y, ids4), pipa.DeviceError, "key_md"),
        (lambda: F.pixel_contrast(x, ids4), pipa.ShapeError, "feat_avd"),
        (lambda: F.pixel_contrast(x[:, None], ids5), pipa.ShapeError, "label_a"),
        (lambda: F.pixel_contrast(x[:, None], ids4, formulation="other"), ValueError, "formulation"),
        (lambda: PixelContrastLoss(sampling="some"), ValueError, "sampling"),
        (lambda: PixelContrastLoss(memory_bank=4), ValueError, "num_classes"),
        (lambda: PixelContrastLoss(max_per_class=1)(maps, label), ValueError, "max_per_class"),
        (lambda: PixelContrastLoss()(maps[0], label), pipa.ShapeError, "embedding_bdhw"),
        (lambda: PixelContrastLoss()(maps, label.float()), pipa.DTypeError, "label_bhw"),
        (lambda: PixelContrastLoss()(maps, label[0]), pipa.ShapeError, "label_bhw"),
        (lambda: PixelContrastLoss()(maps, label.expand(2, 4, 4)), pipa.ShapeError, "label_bhw"),
        (lambda: PixelContrastLoss()(maps, label, label.float()), pipa.DTypeError, "prediction_bhw"),
        (lambda: patch(maps, maps[:, :, 1:], (0, 0, 1, 1), (0, 0, 1, 1)), pipa.ShapeError, "patch2_bdhw"),
        (lambda: patch(maps, maps, (0, 0, 5, 1), (0, 0, 1, 1)), ValueError, "overlap1"),
        (lambda: patch(maps, maps, (0, 0, 1, 1), (0, 2, 1, 2)), ValueError, "overlap2"),
        (lambda: patch(maps, maps, (0, 0, 2, 2), (0, 0, 2, 3)), ValueError, "overlap2"),
        (lambda: patch(maps, maps, (-1, 0, 2, 2), (0, 0, 3, 2)), ValueError, "overlap1"),
        (lambda: patch(maps[:0], maps[:0], (0, 0, 1, 1), (0, 0, 1, 1)), pipa.ShapeError, "patch1_bdhw"),
        (lambda: patch(*two, labels=(label[0], label)), pipa.ShapeError, "label1_bhw"),
        (lambda: patch(*two, labels=(label, label.expand(2, 4, 4))), pipa.ShapeError, "label2_bhw: expected batch 1"),
        (lambda: patch(*two, labels=(label.float(), label)), pipa.DTypeError, "label1_bhw"),
    ]
    for call, kind, name in rows:
        with pytest.raises(kind, match=name):
            call()


def test_devices_are_named_as_torch_names_them() -> None:
    """tch knows no meta device and calls it MPS."""
    x = torch.randn(4, 3)
    meta, ids = x.to("meta"), torch.arange(4)
    with pytest.raises(pipa.DeviceError, match=r"key_md is on cpu but anchor_nd is on meta: move them to one device"):
        F.contrast(meta, x, ids)
    with pytest.raises(pipa.DeviceError, match=r"key_md is on meta but anchor_nd is on cpu"):
        F.contrast(x, meta, ids)
