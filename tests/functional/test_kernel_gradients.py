"""Gradients of the segmentation losses, the mix and the augmentation."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from pipa import functional as F


def label(shape, classes, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, classes, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < ignored, 255, ids)


@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("size", [(4, 5), (9, 11)])
def test_cross_entropy(average, size):
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    y, weight = label((2, *size), 3), torch.rand(2, *size, dtype=torch.float64)
    assert gradcheck(lambda x: F.cross_entropy(x, y, weight, average=average), logits)


@pytest.mark.parametrize("classes", [1, 7, 8, 19, 40])
@pytest.mark.parametrize("size", [(6, 5), (13, 17), (40, 23)])
@pytest.mark.parametrize("average", ["all", "valid"])
def test_fused_cross_entropy_has_the_gradient_of_float64(classes, size, average):
    """The float32 host kernel against libtorch's graph in float64."""
    logits = 5 * torch.randn(2, classes, 6, 5)
    y, weight = label((2, *size), classes), torch.rand(2, *size)
    results = []
    for dtype in (torch.float32, torch.float64):
        x = logits.clone().to(dtype).requires_grad_()
        loss = F.cross_entropy(x, y, weight, average=average)
        (3 * loss).backward()
        results.append((loss.detach().double(), x.grad.double()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=3e-6, atol=1e-7)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-7)


def test_learnt_weight_keeps_its_graph(path):
    weight = torch.rand(1, 4, 4, requires_grad=True)
    F.cross_entropy(torch.randn(1, 3, 4, 4), label((1, 4, 4), 3, 0.0), weight).backward()
    assert weight.grad.abs().min() > 0


def test_feature_distance():
    feat, other = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64)
    feat.requires_grad_()
    y = torch.randint(0, 3, (2, 1, 12, 12))
    assert gradcheck(lambda x: F.feature_distance(x, other, y, [0, 1], num_classes=3, min_ratio=0.1), feat)
    same = feat.detach().clone().requires_grad_()
    F.feature_distance(same, same.detach(), y, None, num_classes=3).backward()
    assert torch.equal(same.grad, torch.zeros_like(same))


def test_mix_sends_gradients_to_the_parts_taken(path):
    mask = torch.tensor([[[[1, 0], [0, 1]]]])
    source, target = torch.randn(2, 1, 3, 2, 2, requires_grad=True).unbind(0)
    source, target = source.detach().requires_grad_(), target.detach().requires_grad_()
    F.class_mix(mask, source, target).sum().backward()
    assert torch.equal(source.grad, mask.expand(1, 3, 2, 2).float())
    assert torch.equal(target.grad, 1 - mask.expand(1, 3, 2, 2).float())


def test_augmentation():
    jitter = F.Jitter(brightness=1.02, contrast=0.97, saturation=0.9, hue=0.07, order=(3, 0, 2, 1))
    image = (0.1 + 0.8 * torch.rand(1, 3, 7, 6, dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda x: F.gaussian_blur(x, 0.9, (5, 3)), image)
    assert gradcheck(lambda x: F.color_jitter(x, [jitter]), image)
    normalised = torch.randn(1, 3, 7, 6, requires_grad=True)
    jitter = F.Jitter(brightness=1.0, contrast=1.0, saturation=1.1, hue=0.1, order=(0, 1, 2, 3))
    F.strong_augment(normalised, [F.Augment(jitter=jitter, sigma=0.8)]).square().sum().backward()
    assert normalised.grad.abs().max() > 0
