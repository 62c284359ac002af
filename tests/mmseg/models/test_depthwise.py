"""The depthwise convolution of the CPU against torch's."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmseg")

from mmseg.models.decode_heads.sep_aspp_head import DepthwiseSeparableASPPModule
from torch import nn

from pipa import _core
from pipa.mmseg.models.decode_heads.fusion import build_fusion
from pipa.mmseg.models.depthwise import DepthwiseConv2d


def pair(channels: int, dilation: int, bias: bool = False) -> tuple[DepthwiseConv2d, nn.Conv2d]:
    ours = DepthwiseConv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=bias)
    plain = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=bias)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def assert_alike(ours: nn.Module, plain: nn.Module, x: torch.Tensor) -> None:
    """The same value, and the same gradients of the input and of every parameter."""
    results = []
    for conv in (ours, plain):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = conv(leaf)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        results.append([out.detach(), leaf.grad, *(p.grad for p in conv.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


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
    assert_alike(ours, plain, x)


@pytest.mark.parametrize("window", [(5, 1, 2, 1), (5, 2, 0, 1), (7, 3, 4, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_of_wide_windows(window: tuple[int, ...], layout: torch.memory_format) -> None:
    size, stride, padding, dilation = window
    ours = DepthwiseConv2d(70, 70, size, stride, padding, dilation, groups=70)
    plain = nn.Conv2d(70, 70, size, stride, padding, dilation, groups=70)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 70, 15, 22).contiguous(memory_format=layout)
    assert_alike(ours, plain, x)


@pytest.mark.parametrize("window", [(3, 6), (5, 1)])
def test_autocast_and_bfloat16(window: tuple[int, int]) -> None:
    size, dilation = window
    settings = dict(padding=dilation * (size // 2), dilation=dilation, groups=64, bias=False)
    ours, plain = DepthwiseConv2d(64, 64, size, **settings), nn.Conv2d(64, 64, size, **settings)
    plain.load_state_dict(ours.state_dict())
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
    grouped = DepthwiseConv2d(8, 16, 5, padding=2, groups=4)
    assert grouped(torch.randn(1, 8, 6, 6)).shape == (1, 16, 6, 6)


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


def test_errors_of_the_weight_gradient_name_the_argument() -> None:
    x = torch.zeros(1, 4, 6, 6)
    with pytest.raises(ValueError, match=r"window: .* size 7, stride 1, dilation 1, padding 0 for a map of 6x6"):
        _core.depthwise_weight_gradient(x, x, 7, 1, 0, 1)
    with pytest.raises(ValueError, match="grad_bdhw"):
        _core.depthwise_weight_gradient(x, x, 5, 1, 0, 1)


def test_the_fusion_is_the_one_of_mmsegmentation() -> None:
    """Same names, random weights and results, and the kernel in the dilated branches."""
    settings = dict(dilations=(1, 6, 12, 18), in_channels=8, channels=4, act_cfg=dict(type="ReLU"), conv_cfg=None)
    torch.manual_seed(3)
    theirs = DepthwiseSeparableASPPModule(norm_cfg=dict(type="BN"), **settings)
    torch.manual_seed(3)
    ours = build_fusion(8, 4, "sepaspp", {"type": "BN"}, False).aspp_modules
    kinds = [m for m in ours.modules() if isinstance(m, DepthwiseConv2d)]
    assert [m.dilation[0] for m in kinds] == [6, 12, 18]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    x = torch.randn(2, 8, 20, 20)
    for a, b in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
