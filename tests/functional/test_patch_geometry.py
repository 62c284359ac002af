"""Paired feature cells look at the same scene pixels: proved by painting pixel coordinates into the image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipa import functional as F

Box = tuple[int, int, int, int]


def painted(height: int, width: int) -> Tensor:
    """[1,2,H,W] whose two channels are the pixel's own y and x."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x])[None].double()


def cells(patch: Tensor, stride: int) -> Tensor:
    """Feature map whose cell holds the coordinates of all its pixels, [H', W', stride * stride, 2].

    A padded backbone (as MiT, ResNet): ceil(size / stride) cells; what lies beyond the patch is NaN.
    """
    _, _, h, w = patch.shape
    high, wide = -(-h // stride) * stride, -(-w // stride) * stride
    full = torch.nn.functional.pad(patch, (0, wide - w, 0, high - h), value=float("nan"))
    tiles = full[0].unfold(1, stride, stride).unfold(2, stride, stride)
    return tiles.permute(1, 2, 3, 4, 0).flatten(2, 3)


def check_pairs(image: Tensor, pair: tuple[Box, Box, bool, bool], stride: int) -> int:
    """Number of paired cells, each of which saw exactly the pixels of its partner."""
    box1, box2, flip1, flip2 = pair
    patches = F.crop_patches(image, box1, box2, flip1, flip2)
    maps = [cells(patch, stride) for patch in patches]
    high, wide = maps[0].shape[:2]
    one, two = F.patch_overlap(box1, box2, (high, wide), flip1, flip2)
    seen1 = maps[0][one[0] : one[2], one[1] : one[3]]
    seen2 = maps[1][two[0] : two[2], two[1] : two[3]]
    if flip1 != flip2:
        seen2 = seen2.flip(1)
    assert seen1.numel() > 0
    for y in range(seen1.shape[0]):
        for x in range(seen1.shape[1]):
            pixels1 = {tuple(p) for p in seen1[y, x].tolist()}
            pixels2 = {tuple(p) for p in seen2[y, x].tolist()}
            assert len(pixels1) == stride * stride
            assert pixels1 == pixels2
    return seen1.shape[0] * seen1.shape[1]


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("size", [(64, 96), (65, 99), (97, 71), (70, 64)])
def test_paired_cells_see_the_same_pixels(size: tuple[int, int], stride: int, flips: tuple[bool, bool]) -> None:
    height, width = 203, 277
    image = painted(height, width)
    found, seed = 0, 0
    while found < 3:
        seed += 1
        pair = F.draw_patches(height, width, size, min_iou=0.1, max_iou=0.8, flip=True, align=stride, seed=seed)
        if pair[2:] == flips:
            check_pairs(image, pair, stride)
            found += 1


def test_no_shared_cell_is_missed() -> None:
    """Crops 16 px apart at stride 8: all cells of the overlap pair up, none is left out."""
    pair = ((0, 0, 64, 64), (16, 24, 80, 88), False, False)
    assert check_pairs(painted(100, 100), pair, 8) == 6 * 5
    pair = ((0, 0, 64, 64), (16, 24, 80, 88), True, False)
    assert check_pairs(painted(100, 100), pair, 8) == 6 * 5


def test_the_loss_pairs_what_the_geometry_says() -> None:
    """A feature map of coordinates, looked up in a table of random directions: every positive is an exact copy."""
    torch.manual_seed(1)
    table = torch.randn(120, 120, 32, dtype=torch.float64)
    image = painted(120, 120)
    for seed in range(12):
        pair = F.draw_patches(120, 120, (65, 65), min_iou=0.2, max_iou=0.7, flip=True, align=8, seed=seed)
        box1, box2, flip1, flip2 = pair
        maps = []
        for patch in F.crop_patches(image, *pair):
            centre = cells(patch, 8).amin(2).nan_to_num(0).long()
            maps.append(table[centre[..., 0], centre[..., 1]].permute(2, 0, 1)[None])
        overlaps = F.patch_overlap(box1, box2, tuple(maps[0].shape[2:]), flip1, flip2)
        assert F.patch_contrast(*maps, *overlaps, flip1, flip2, temperature=0.01) < 1e-6
        assert F.patch_contrast(*maps, *overlaps, flip1, not flip2, temperature=0.01) > 1


@pytest.mark.parametrize(("low", "high"), [(0.1, 1.0), (0.1, 0.2), (0.45, 0.55), (0.9, 1.0), (1.0, 1.0)])
def test_iou_stays_in_range(low: float, high: float) -> None:
    for seed in range(50):
        one, two, _, _ = F.draw_patches(512, 1024, (360, 360), min_iou=low, max_iou=high, align=8, seed=seed)
        tall = min(one[2], two[2]) - max(one[0], two[0])
        wide = min(one[3], two[3]) - max(one[1], two[1])
        iou = tall * wide / (2 * 360 * 360 - tall * wide)
        assert low - 1e-9 <= iou <= high + 1e-9
        for box in (one, two):
            assert 0 <= box[0] < box[2] <= 512
            assert 0 <= box[1] < box[3] <= 1024
            assert box[0] % 8 == box[1] % 8 == 0


def test_impossible_requests_are_errors() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        F.draw_patches(100, 100, (101, 50))
    with pytest.raises(ValueError, match=r"reach IoU 0\.[5-9]"):
        F.draw_patches(100, 100, (90, 90), min_iou=0.1, max_iou=0.2, align=4)
    with pytest.raises(ValueError, match="min_iou <= max_iou"):
        F.draw_patches(100, 100, (50, 50), min_iou=0.9, max_iou=0.1)
    with pytest.raises(ValueError, match="align"):
        F.draw_patches(100, 100, (50, 50), align=0)
    with pytest.raises(ValueError, match="multiple of the stride 8"):
        F.patch_overlap((0, 0, 64, 64), (4, 0, 68, 64), (8, 8))
    with pytest.raises(ValueError, match="share no whole cell"):
        F.patch_overlap((0, 0, 64, 64), (64, 0, 128, 64), (8, 8))
    with pytest.raises(ValueError, match="one size"):
        F.patch_overlap((0, 0, 64, 64), (0, 0, 64, 72), (8, 8))
    with pytest.raises(ValueError, match="feature_w"):
        F.patch_overlap((0, 0, 64, 64), (0, 0, 64, 64), (8, 7))
    with pytest.raises(ValueError, match="box2"):
        F.crop_patches(torch.zeros(1, 1, 64, 64), (0, 0, 8, 8), (60, 0, 68, 8))
