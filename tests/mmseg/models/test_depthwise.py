"""The depthwise convolution of the CPU against torch's."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("mmseg")

from torch import nn

from pipa import _core
from pipa.mmseg.models.decode_heads.fusion import build_fusion
from pipa.mmseg.models.dilated_depthwise import DepthwiseConv2d, use_kernel


def pair(channels: int, dilation: int, bias: bool = False) -> tuple[DepthwiseConv2d, nn.Conv2d]:
    ours = DepthwiseConv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=bias)
    plain = copy.deepcopy(ours)
    plain.__class__ = nn.Conv2d  # type: ignore[assignment]
    return ours, plain


@pytest.mark.parametrize("channels", [1, 16, 64, 100])
@pytest.mark.parametrize("dilation", [1, 2, 6, 18])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_value_and_gradients(channels: int, dilation: int, layout: str) -> None:
    ours, plain = pair(channels, dilation, bias=dilation == 2)
    x = torch.randn(2, channels, 13, 10)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        x = torch.randn(2, channels, 13, 20)[..., ::2]
    results = []
    for conv in (ours, plain):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = conv(leaf)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        results.append([out.detach(), leaf.grad, *(p.grad for p in conv.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_autocast_and_bfloat16() -> None:
    ours, plain = pair(64, 6)
    x = torch.randn(2, 64, 20, 20, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ours(x)
    assert out.dtype == torch.bfloat16
    expected = plain(x)
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=5e-2)
    grads = [torch.autograd.grad(o.float().square().sum(), [x, c.weight]) for o, c in ((out, ours), (expected, plain))]
    for a, b in zip(*grads, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.02


def test_what_the_kernel_does_not_know_goes_to_torch() -> None:
    ours, plain = pair(8, 2)
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.equal(ours.double()(x), plain.double()(x))
    strided = DepthwiseConv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=8)
    assert strided(torch.randn(1, 8, 6, 6)).shape == (1, 8, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 4, 3, 3), torch.zeros(4, 1, 3, 3), 0, False), "dilation"),
        ((torch.zeros(1, 4, 3, 3), torch.zeros(5, 1, 3, 3), 1, False), "weight_d133"),
        ((torch.zeros(4, 3, 3), torch.zeros(4, 1, 3, 3), 1, False), "map_bdhw"),
        ((torch.zeros(1, 4, 3, 3).double(), torch.zeros(4, 1, 3, 3), 1, False), "float32 or bfloat16"),
    ],
)
def test_errors_name_the_argument(arguments: tuple, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        _core.depthwise(*arguments)


def test_the_fusion_takes_it_where_there_are_holes() -> None:
    fusion = build_fusion(8, 4, "sepaspp", {"type": "BN"}, False)
    kinds = [m for m in fusion.modules() if isinstance(m, DepthwiseConv2d)]
    assert [m.dilation[0] for m in kinds] == [6, 12, 18]
    ordinary = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 3, padding=2, dilation=2))
    use_kernel(ordinary)
    assert not [m for m in ordinary if isinstance(m, DepthwiseConv2d)]
