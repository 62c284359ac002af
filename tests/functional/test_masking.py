"""Block masks of MIC."""

from __future__ import annotations

import pytest
import torch

from pipa import functional as F


@pytest.mark.parametrize("name", ["sq", "half", "tinyblock", "real64"])
def test_recorded(case, name):
    data = case(f"masking/mask_{name}")
    uniform, mask = data["uniform"], data["mask"]
    height, width = mask.shape[2:]
    assert F.mask_grid(height, width, int(data["block"])) == tuple(uniform.shape[2:])
    ours = F.block_mask(uniform, float(data["ratio"]), height, width)
    assert ours.dtype == uniform.dtype
    assert torch.equal(ours, mask.to(ours.dtype))
    if "x" in data:
        torch.testing.assert_close(data["x"].float() * ours, data["masked"], rtol=0, atol=0)
