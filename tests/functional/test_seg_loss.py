"""Cross entropy and accuracy of the released code."""

from __future__ import annotations

import pytest
import torch

from pipa import functional as F

CASES = ["plain", "weight", "all_ignored", "weight_zero_rows", "noresize"]


@pytest.mark.parametrize("name", CASES)
def test_recorded(case, name, path):
    data = case(f"seg_loss/{name}")
    logits = data["logits"].requires_grad_()
    loss = F.cross_entropy(logits, data["label"], data.get("weight"))
    loss.backward()
    torch.testing.assert_close(loss.detach(), data["loss"], rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(logits.grad, data["grad"], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(F.accuracy(logits, data["label"])[None], data["acc"], rtol=1e-5, atol=0)
    full = torch.nn.functional.interpolate(logits, data["label"].shape[2:], mode="bilinear", align_corners=False)
    assert torch.equal(F.accuracy(full, data["label"]), F.accuracy(logits, data["label"]))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("average", ["all", "valid"])
def test_float64_twin(case, name, average, path):
    data = case(f"seg_loss/{name}")
    label = data["label"][:, 0].long()
    grads, losses = [], []
    for ours in (True, False):
        logits = data["logits"].double().requires_grad_()
        weight = data.get("weight")
        if ours:
            loss = F.cross_entropy(logits, label, weight, average=average)
        else:
            full = torch.nn.functional.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
            each = torch.nn.functional.cross_entropy(full, label, ignore_index=255, reduction="none")
            each = each if weight is None else each * weight
            loss = each.mean() if average == "all" else each.sum() / max(1, int((label != 255).sum()))
        loss.backward()
        grads.append(logits.grad)
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-15)


def test_the_two_averages_differ_by_the_ignored_share(case, path):
    data = case("seg_loss/plain")
    valid = (data["label"] != 255).double().mean()
    assert valid < 1
    both = [F.cross_entropy(data["logits"].double(), data["label"], average=a) for a in ("all", "valid")]
    torch.testing.assert_close(both[0] / both[1], valid, rtol=1e-9, atol=0)
