"""Logits of -inf say that a class cannot be; NaN at a pixel that does not count says nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from pipa import functional as F

INF = math.inf


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64)
    logits[:, 4] = -INF
    logits[0, 2, 1:3, 4] = -INF
    label = torch.randint(0, 4, (2, 6, 7), generator=generator)
    label[0, 1:3, 4], label[:, 5] = 1, 255
    return logits.to(dtype), label


def oracle(logits: Tensor, label: Tensor) -> Tensor:
    return torch_functional.cross_entropy(logits.double(), label, ignore_index=255, reduction="sum") / label.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_cross_entropy_passes_over_an_impossible_class(dtype: torch.dtype) -> None:
    logits, label = batch(dtype)
    logits.requires_grad_()
    loss = F.cross_entropy(logits, label)
    expected = oracle(logits, label)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=0)
    (grad,) = torch.autograd.grad(loss, logits)
    (wanted,) = torch.autograd.grad(expected, logits)
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(dtype, 1e-5)
    torch.testing.assert_close(grad, wanted, rtol=tolerance, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(F.cross_entropy(logits, label).double(), expected, rtol=2e-6, atol=0)


def test_resized_cross_entropy_passes_over_an_impossible_class() -> None:
    """As without the class, and its gradient is 0."""
    logits, _ = batch()
    label = torch.randint(0, 2, (2, 24, 28), generator=torch.Generator().manual_seed(1))
    logits = logits[:, [0, 1, 4]].requires_grad_()
    rest = logits.detach()[:, :2].clone().requires_grad_()
    loss, expected = F.cross_entropy(logits, label), F.cross_entropy(rest, label)
    assert torch.equal(loss, expected)
    (grad,), (wanted,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, rest)
    assert torch.equal(grad[:, :2], wanted)
    assert not grad[:, 2].any()


def test_a_label_that_cannot_be_has_an_infinite_loss() -> None:
    logits, label = batch()
    label[0, 0, 0] = 4
    assert float(F.cross_entropy(logits, label)) == INF == float(oracle(logits, label))


def test_nan_at_ignored_pixels_does_not_count() -> None:
    logits, label = batch()
    logits[:, :, 5] = math.nan  # the row below counts nowhere
    loss = F.cross_entropy(logits, label)
    torch.testing.assert_close(loss.double(), oracle(logits.nan_to_num(0.0, neginf=-INF), label), rtol=2e-6, atol=0)
    logits[0, 0, 0, 0] = math.nan
    assert F.cross_entropy(logits, label).isnan()


def test_symmetric_cross_entropy_passes_over_an_impossible_class() -> None:
    logits, label = batch()
    logits.requires_grad_()
    wide = logits.detach().double().requires_grad_()
    loss, expected = F.symmetric_cross_entropy(logits, label), F.symmetric_cross_entropy(wide, label)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=0)
    (grad,), (wanted,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, wide)
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-5, atol=1e-7)
