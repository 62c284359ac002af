"""Depthwise convolutions, on the CPU by kernels of ours where libtorch's are slow.

Shape suffixes: B batch, D channels, H W size.
"""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipa import _core


class _Dilated(torch.autograd.Function):
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
            window = (3, 1, ctx.dilation, ctx.dilation)
            grad_w = _core.depthwise_weight_gradient(x_bdhw, grad_bdhw, *window).to(weight.dtype)
        return grad_x, grad_w, None


class _Wide(torch.autograd.Function):
    """``(B, D, H, W), (D, 1, k, k), stride, padding, dilation -> (B, D, h, w)``: torch's own passes, but for the
    gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, x_bdhw: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x_bdhw, weight)
        ctx.place = (stride, padding, dilation)
        return nn.functional.conv2d(x_bdhw, weight, None, stride, padding, dilation, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_bdhw: Tensor) -> tuple[Tensor | None, ...]:
        x_bdhw, weight = ctx.saved_tensors
        stride, padding, dilation = ([n, n] for n in ctx.place)
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            place = (stride, padding, dilation, False, [0, 0], weight.shape[0])
            grad_x = torch.ops.aten.convolution_backward(grad_bdhw, x_bdhw, weight, None, *place, [True, False, False])[
                0
            ]
        if ctx.needs_input_grad[1]:
            window = (weight.shape[2], *ctx.place)
            grad_w = _core.depthwise_weight_gradient(x_bdhw, grad_bdhw, *window).to(weight.dtype)
        return grad_x, grad_w, None, None, None


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` that takes our kernels where they apply: depthwise in float32 and bfloat16 on the CPU.

    3x3 windows that keep the size: value and gradients. Larger square windows: the gradient of the weight.
    """

    def forward(self, input: Tensor) -> Tensor:
        dilated = self.kernel_size == (3, 3) and self.stride == (1, 1) and self.padding == self.dilation
        if not self._applies(input) or not (dilated or self.kernel_size[0] > 3):
            return super().forward(input)
        weight, dilation = self.weight, int(self.dilation[0])
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        if dilated:
            out = _Dilated.apply(input, weight, dilation)
        else:
            out = _Wide.apply(input, weight.to(input.dtype), self.stride[0], int(self.padding[0]), dilation)
        return out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]

    def _applies(self, x_bdhw: Tensor) -> bool:
        square = (self.kernel_size, self.stride, self.padding, self.dilation)
        geometry = (
            self.groups == self.in_channels == self.out_channels
            and not isinstance(self.padding, str)
            and all(pair[0] == pair[1] for pair in square)
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
