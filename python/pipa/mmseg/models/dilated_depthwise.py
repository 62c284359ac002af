"""Dilated depthwise 3x3 convolution, on the CPU by a kernel of ours.

Shape suffixes: B batch, D channels, H W size.
"""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipa import _core


class _Depthwise(torch.autograd.Function):
    """``(B, D, H, W), (D, 1, 3, 3), dilation -> (B, D, H, W)`` in channels-last order; first-order gradients."""

    @staticmethod
    def forward(ctx: Any, x_bdhw: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x_bdhw, weight)
        ctx.dilation = dilation
        return _core.depthwise(x_bdhw, weight, dilation, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_bdhw: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_bdhw, weight = ctx.saved_tensors
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            grad_x = _core.depthwise(grad_bdhw.to(x_bdhw.dtype), weight, ctx.dilation, True)
        if ctx.needs_input_grad[1]:
            grad_w = _core.depthwise_weight_gradient(x_bdhw, grad_bdhw, ctx.dilation).to(weight.dtype)
        return grad_x, grad_w, None


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` that takes our kernel where it applies: float32 and bfloat16 on the CPU, 3x3, size kept."""

    def forward(self, input: Tensor) -> Tensor:
        if not self._applies(input):
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        out = _Depthwise.apply(input, self.weight, int(self.dilation[0]))
        return out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]

    def _applies(self, x_bdhw: Tensor) -> bool:
        geometry = (
            self.groups == self.in_channels == self.out_channels
            and self.kernel_size == (3, 3)
            and self.stride == (1, 1)
            and self.padding == self.dilation
            and self.dilation[0] == self.dilation[1]
            and self.padding_mode == "zeros"
        )
        # Not a subclass: tensors without memory (tracing, shape propagation) have nothing the kernel could read.
        plain = type(x_bdhw) is Tensor and x_bdhw.device.type == "cpu" and x_bdhw.dim() == 4
        small = {x_bdhw.dtype, self.weight.dtype} <= {torch.float32, torch.bfloat16}
        return geometry and plain and small and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


class DilatedSeparableConv(nn.Module):
    """mmcv's depthwise separable convolution with a dilated 3x3, which keeps the size; names of the parts as there.

    ``(B, in_channels, H, W) -> (B, channels, H, W)``
    """

    def __init__(self, in_channels: int, channels: int, dilation: int, **conv: Any) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(
            in_channels,
            in_channels,
            3,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            conv_cfg={"type": DepthwiseConv2d},
            **conv,
        )
        self.pointwise_conv = ConvModule(in_channels, channels, 1, **conv)

    def forward(self, x_bdhw: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x_bdhw))
