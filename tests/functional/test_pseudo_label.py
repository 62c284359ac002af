"""Pseudo-labels of the released code."""

from __future__ import annotations

import pytest
import torch

from pipa import functional as F

CASES = ["plain", "low", "top_bottom", "valid_mask_f32"]


@pytest.mark.parametrize("name", CASES)
def test_recorded(case, name, path):
    data = case(f"pseudo_label/{name}")
    label, weight = F.pseudo_label(
        data["logits"],
        ignore_top=int(data["ignore_top"]),
        ignore_bottom=int(data["ignore_bottom"]),
        valid_mask=data.get("valid_pseudo_mask"),
    )
    assert torch.equal(label, data["pseudo_label"])
    assert torch.equal(weight, data["pseudo_weight"])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_follow_a_plain_twin(case, name, dtype, path):
    logits = case(f"pseudo_label/{name}")["logits"].to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    confidence, expected = logits.to(wide).softmax(1).max(1)
    label, weight = F.pseudo_label(logits, threshold=0.9)
    assert weight.dtype == wide
    assert torch.equal(label, expected)
    share = (confidence >= 0.9).double().mean()
    torch.testing.assert_close(
        weight.double(), share.expand(weight.shape), rtol=1e-9 if wide == torch.float64 else 1e-6, atol=0
    )
