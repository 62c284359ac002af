"""Layers that embed one feature map or fuse the concatenation of several (DAFormer, Hoyer et al., CVPR 2022, sec. 3.2).

Every layer maps ``(B, in_channels, H, W)`` to ``(B, channels, H, W)`` and is chosen by ``type`` in :func:`build_layer`.
Module names follow mmcv and mmsegmentation (``conv``, ``bn``, ``aspp_modules``, ``bottleneck``), so that released
checkpoints load by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.isa_head import SelfAttentionBlock
from mmseg.models.utils import resize
from torch import Tensor, nn

from pipa.mmseg.models.depthwise import DilatedSeparableConv

Config = dict[str, Any]
RELU: Config = {"type": "ReLU"}


class LinearEmbedding(nn.Module):
    """One linear map per pixel: ``(B, in_channels, H, W) -> (B, channels, H, W)``."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, channels)

    def forward(self, x_bdhw: Tensor) -> Tensor:
        # A linear layer, and not a 1x1 convolution, because released checkpoints hold a 2-d weight.
        return F.conv2d(x_bdhw, self.proj.weight[:, :, None, None], self.proj.bias)


class SeparableASPPModule(ASPPModule):
    """mmsegmentation's branches with depthwise separable convolutions where they are dilated."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for place, dilation in enumerate(self.dilations):
            if dilation > 1:
                self[place] = DilatedSeparableConv(
                    self.in_channels, self.channels, dilation, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg
                )


class ASPP(nn.Module):
    """Parallel atrous convolutions, concatenated and reduced by a 3x3 convolution (DeepLabV3, with context).

    Args:
        dilations: one branch each; dilation 1 is a 1x1 convolution, others 3x3.
        sep: depthwise separable 3x3 branches (DAFormer's choice: far fewer weights).
        pool: adds a branch of the globally averaged map.
        context_cfg: adds a branch built by :func:`build_layer` (for example ``dict(type="isa", ...)``).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dilations: Sequence[int] = (1, 6, 12, 18),
        sep: bool = True,
        pool: bool = False,
        norm_cfg: Config | None = None,
        act_cfg: Config | None = RELU,
        align_corners: bool = False,
        context_cfg: Config | None = None,
    ) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"aspp: dilations must be positive and at least one, got {tuple(dilations)}")
        self.align_corners = align_corners
        conv = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        branches = SeparableASPPModule if sep else ASPPModule
        count = len(dilations)
        self.image_pool: nn.Module | None = None
        if pool:
            self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(in_channels, channels, 1, **conv))
            count += 1
        self.context_layer: nn.Module | None = None
        if context_cfg is not None:
            self.context_layer = build_layer(in_channels, channels, **context_cfg)
            count += 1
        self.aspp_modules = branches(
            dilations=tuple(dilations), in_channels=in_channels, channels=channels, conv_cfg=None, **conv
        )
        self.bottleneck = ConvModule(count * channels, channels, 3, padding=1, **conv)

    def forward(self, x_bdhw: Tensor) -> Tensor:
        outs = []
        if self.image_pool is not None:
            size = x_bdhw.shape[2:]
            outs.append(resize(self.image_pool(x_bdhw), size, mode="bilinear", align_corners=self.align_corners))
        if self.context_layer is not None:
            outs.append(self.context_layer(x_bdhw))
        outs.extend(self.aspp_modules(x_bdhw))
        return self.bottleneck(torch.cat(outs, dim=1))


class ISA(nn.Module):
    """Interlaced sparse self-attention (Huang et al., 2019) as a fusion layer.

    Pixels that lie ``ceil(H / window)`` apart attend to each other first, then those of one window, so that each pixel
    sees the whole map at the price of two small attentions. Maps that ``down_factor`` does not divide are zero-padded.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        isa_channels: int | None = None,
        down_factor: Sequence[int] = (8, 8),
        norm_cfg: Config | None = None,
        act_cfg: Config | None = RELU,
    ) -> None:
        super().__init__()
        self.down_factor = (int(down_factor[0]), int(down_factor[1]))
        conv = {"conv_cfg": None, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.in_conv = ConvModule(in_channels, channels, 3, padding=1, **conv)
        self.global_relation = SelfAttentionBlock(channels, isa_channels or channels, **conv)
        self.local_relation = SelfAttentionBlock(channels, isa_channels or channels, **conv)
        self.out_conv = ConvModule(2 * channels, channels, 1, **conv)

    def forward(self, x_bdhw: Tensor) -> Tensor:
        residual = self.in_conv(x_bdhw)
        b, d, h, w = residual.shape
        local_h, local_w = self.down_factor
        global_h, global_w = math.ceil(h / local_h), math.ceil(w / local_w)
        pad_h, pad_w = global_h * local_h - h, global_w * local_w - w
        top, left = pad_h // 2, pad_w // 2
        x = F.pad(residual, (left, pad_w - left, top, pad_h - top))
        x = x.view(b, d, global_h, local_h, global_w, local_w)
        x = self.global_relation(x.permute(0, 3, 5, 1, 2, 4).reshape(-1, d, global_h, global_w))
        x = x.view(b, local_h, local_w, d, global_h, global_w)
        x = self.local_relation(x.permute(0, 4, 5, 3, 1, 2).reshape(-1, d, local_h, local_w))
        x = x.view(b, global_h, global_w, d, local_h, local_w).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(b, d, global_h * local_h, global_w * local_w)[:, :, top : top + h, left : left + w]
        return self.out_conv(torch.cat([x, residual], dim=1))


def _conv(in_channels: int, channels: int, kernel_size: int = 3, **kwargs: Any) -> nn.Module:
    if kernel_size % 2 == 0:
        raise ValueError(f"conv: kernel_size must be odd (the map keeps its size), got {kernel_size}")
    return ConvModule(in_channels, channels, kernel_size, padding=kernel_size // 2, **kwargs)


def _sep_conv(in_channels: int, channels: int, kernel_size: int = 3, **kwargs: Any) -> nn.Module:
    return DepthwiseSeparableConvModule(in_channels, channels, kernel_size, padding=kernel_size // 2, **kwargs)


def _identity(in_channels: int, channels: int) -> nn.Module:
    if in_channels != channels:
        raise ValueError(f"id: keeps the channels, so embed_dims must be {in_channels}, got {channels}")
    return nn.Identity()


def _mlp(in_channels: int, channels: int, norm_cfg: Config | None = None, act_cfg: Config | None = None) -> nn.Module:
    if norm_cfg is not None or act_cfg is not None:
        raise ValueError("mlp: takes neither norm_cfg nor act_cfg (use type 'conv' with kernel_size 1)")
    return LinearEmbedding(in_channels, channels)


def _rawconv_and_aspp(in_channels: int, channels: int, kernel_size: int = 1, **kwargs: Any) -> nn.Module:
    reduce = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2)
    return nn.Sequential(reduce, ASPP(channels, channels, **kwargs))


LAYERS = {
    "id": _identity,
    "mlp": _mlp,
    "conv": _conv,
    "sep_conv": _sep_conv,
    "aspp": ASPP,
    "rawconv_and_aspp": _rawconv_and_aspp,
    "isa": ISA,
}

# Short names of the released configs' fusions; `fusion_cfg="sepaspp"` is `fusion_cfg=dict(PRESETS["sepaspp"])`.
PRESETS: dict[str, Config] = {
    "sepaspp": {"type": "aspp", "sep": True, "dilations": (1, 6, 12, 18), "pool": False},
    "aspp": {"type": "aspp", "sep": False, "dilations": (1, 6, 12, 18), "pool": False},
    "sepaspp_pool": {"type": "aspp", "sep": True, "dilations": (1, 6, 12, 18), "pool": True},
    "conv1": {"type": "conv", "kernel_size": 1},
    "conv3": {"type": "conv", "kernel_size": 3},
    "bottleneck": {"type": "conv", "kernel_size": 3},
    "sepaspp_bottleneck": {"type": "rawconv_and_aspp", "kernel_size": 1, "sep": True, "dilations": (1, 6, 12, 18)},
    "isa": {"type": "isa", "down_factor": (8, 8)},
}


def build_layer(in_channels: int, channels: int, type: str, **kwargs: Any) -> nn.Module:
    """Builds the layer ``type`` (a key of ``LAYERS``) with its own settings in ``kwargs``."""
    if type not in LAYERS:
        raise ValueError(f"layer type must be one of {', '.join(LAYERS)}, got {type!r}")
    return LAYERS[type](in_channels, channels, **kwargs)


def build_fusion(
    in_channels: int, channels: int, config: str | Config, norm_cfg: Config | None, align_corners: bool
) -> nn.Module:
    """Builds a fusion from a preset's name or a config; the head's ``norm_cfg`` and ReLU where it gives none."""
    if isinstance(config, str):
        if config not in PRESETS:
            raise ValueError(f"fusion_cfg must be a dict or one of {', '.join(PRESETS)}, got {config!r}")
        config = PRESETS[config]
    settings = dict(config)
    if settings.get("type") not in ("id", "mlp"):
        settings.setdefault("norm_cfg", norm_cfg)
        settings.setdefault("act_cfg", RELU)
    if settings.get("type") in ("aspp", "rawconv_and_aspp"):
        settings.setdefault("align_corners", align_corners)
    return build_layer(in_channels, channels, **settings)
