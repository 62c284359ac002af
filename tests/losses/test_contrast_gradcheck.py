"""torch.autograd.gradcheck in float64 of every contrastive loss. Second derivatives are not provided (documented)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from pipa import PatchContrastLoss, PixelContrastLoss
from pipa import functional as F


def leaf(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("tile", [None, (2, 3)])
def test_contrast(tile: tuple[int, int] | None) -> None:
    label_n, label_m = torch.randint(0, 3, (6,)), torch.randint(0, 3, (8,))
    index = torch.tensor([0, 7, 3, -1, 4, 2])
    for positive in ((label_n, label_m), index):
        for exclude_self in (False, True):

            def loss(a: Tensor, k: Tensor, p=positive, e: bool = exclude_self) -> Tensor:
                return F.contrast(a, k, p, temperature=0.3, exclude_self=e, tile=tile)

            assert gradcheck(loss, (leaf(6, 4), leaf(8, 4)))
    label = torch.randint(0, 3, (8,))
    assert gradcheck(lambda x: F.contrast(x, x, (label, label), exclude_self=True, tile=tile), (leaf(8, 4),))


@pytest.mark.parametrize("formulation", ["official", "paper"])
def test_pixel_contrast(formulation: str) -> None:
    label = torch.tensor([0, 1, 0])
    assert gradcheck(lambda x: F.pixel_contrast(x, label, temperature=0.5, formulation=formulation), (leaf(3, 3, 4),))


@pytest.mark.parametrize("sampling", ["all", "balanced"])
def test_pixel_module(sampling: str) -> None:
    label = torch.randint(0, 2, (2, 3, 3))
    label[0, 0, 0] = 255

    def loss(x: Tensor) -> Tensor:
        return PixelContrastLoss(sampling=sampling, seed=1, max_per_class=4)(x, label)

    assert gradcheck(loss, (leaf(2, 3, 3, 3),))


@pytest.mark.parametrize("labelled", [False, True])
def test_patch_module(labelled: bool) -> None:
    labels = tuple(torch.randint(0, 3, (2, 3, 3)) for _ in range(2)) if labelled else None

    def loss(one: Tensor, two: Tensor) -> Tensor:
        return PatchContrastLoss(0.4)(one, two, (0, 0, 2, 2), (1, 1, 3, 3), True, False, labels)

    assert gradcheck(loss, (leaf(2, 3, 3, 3), leaf(2, 3, 3, 3)))


@pytest.mark.parametrize("chunk", [3, 100])
def test_patch_contrast_gated(chunk: int) -> None:
    bank, bank_label = torch.randn(10, 4, dtype=torch.float64), torch.randint(0, 3, (10,))
    label1, label2 = torch.randint(0, 3, (6,)), torch.randint(0, 3, (6,))
    conf1, conf2 = torch.rand(6), 0.9 + 0.1 * torch.rand(6)
    other = torch.randn(6, 4, dtype=torch.float64)

    def first(x: Tensor) -> Tensor:
        return F.patch_contrast_gated(
            x, other, bank, bank_label, label1, label2, conf1, conf2, temperature=0.5, chunk=chunk
        )[0]

    def second(x: Tensor) -> Tensor:
        return F.patch_contrast_gated(
            other, x, bank, bank_label, label1, label2, conf2, conf1, temperature=0.5, chunk=chunk
        )[1]

    assert gradcheck(first, (leaf(6, 4),))
    assert gradcheck(second, (leaf(6, 4),))


def test_the_gradient_is_a_constant() -> None:
    """Documented limit: first order only, so the gradient carries no graph of its own."""
    x, label = leaf(6, 3), torch.arange(6) % 2
    (grad,) = torch.autograd.grad(F.contrast(x, x, (label, label), exclude_self=True), x, create_graph=True)
    assert grad.abs().sum() > 0
    assert not grad.requires_grad
