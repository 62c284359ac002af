"""Label downscaling and feature distance of the released code."""

from __future__ import annotations

import pytest
import torch

from pipa import functional as F

THINGS = [6, 7, 11, 12, 13, 14, 15, 16, 17, 18]


@pytest.mark.parametrize("name", ["s8", "s32", "ratio05", "tie"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32])
def test_downscale(case, name, dtype, path):
    data = case(f"feat_dist/downscale_{name}")
    small = F.downscale_label(data["label"].to(dtype), int(data["scale_factor"]), float(data["min_ratio"]), 19, 255)
    assert torch.equal(small, data["out"])


@pytest.mark.parametrize("name", ["empty_mask", "no_classes"])
def test_distance(case, name, path):
    data = case(f"feat_dist/featdist_{name}")
    classes = None if name == "no_classes" else THINGS
    for dtype, rtol in ((torch.float32, 1e-6), (torch.float64, 1e-6)):
        feat = data["feat"].clone().to(dtype).requires_grad_()
        loss = F.feature_distance(feat, data["feat_imnet"].to(dtype), data["label"], classes, num_classes=19)
        loss.backward()
        # Where nothing counts the released code logs NaN and has a zero gradient; ours is a zero.
        expected = data["loss"].nan_to_num(0.0).to(dtype)
        torch.testing.assert_close(loss.detach(), expected, rtol=rtol, atol=0)
        torch.testing.assert_close(feat.grad, data["grad"].to(dtype), rtol=1e-5, atol=1e-9)
    if name == "empty_mask":
        assert data["loss"].isnan()


def test_float64_twin(case, path):
    data = case("feat_dist/featdist_no_classes")
    feat, other = data["feat"].double(), data["feat_imnet"].double()
    label = F.downscale_label(data["label"], 16, 0.75, 19)[:, 0]
    mask = torch.isin(label, torch.tensor(THINGS))
    twin = 0.005 * (feat - other).norm(dim=1)[mask].mean()
    ours = F.feature_distance(feat, other, data["label"], THINGS, num_classes=19)
    torch.testing.assert_close(ours, twin, rtol=1e-9, atol=0)
