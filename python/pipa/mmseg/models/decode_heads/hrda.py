"""HRDA's decode head: one head for both scales and the attention that fuses them (Hoyer et al., HRDA, ECCV 2022).

Shape suffixes: B batch, K detail crops per image, C classes, D channels, H W size of the image in pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from pipa.mmseg.models.decode_heads.fusion import PRESETS
from pipa.networks import Region


@dataclass
class ScaleFeatures:
    """Encoder maps of the scales of one batch, as :class:`HRDAHead` takes them.

    context: maps of the down-scaled image, batch B. detail: maps of K crops of the image, stacked crop by crop to a
    batch of ``K * B``. boxes: where those crops lie, in pixels of the image; none where detail is the whole image.
    size: ``(H, W)`` of the image. masked: the crops do not cover the image, outside them the context alone speaks.
    parts: in place of detail, the same maps for some crops after the other, made while they are read.
    """

    context: list[Tensor]
    size: tuple[int, int]
    detail: list[Tensor] | None = None
    boxes: list[Region] = field(default_factory=list)
    masked: bool = False
    parts: Iterable[list[Tensor]] | None = None


@dataclass
class ScaleLogits:
    """fused ``(B, C, h, w)`` at the detail resolution; context (as predicted, before attention) and attention at the
    context resolution; detail: of the one crop, or stitched from the crops where these cover the image."""

    fused: Tensor
    context: Tensor
    attention: Tensor | None = None
    detail: Tensor | None = None


@MODELS.register_module()
class HRDAHead(BaseDecodeHead):
    """Predicts context and detail with one shared head and fuses them with a learned scale attention.

    With context logits c, detail logits d, attention a = sigmoid(A(context features)), up-sampling z and M the mask of
    the detail crop (HRDA, equations 5 and 8):  fused = z((1 - M a) c) + z(M a) d.

    Args:
        single_scale_head: registered type of the shared head; it gets this head's other settings.
        attention_classwise: one attention map per class, else one for all.
        attention_embed_dim: width of the attention head.
        hr_loss_weight: weight of the detail crop's own loss (HRDA: 0.1).
        fixed_attention: a constant in [0, 1] in place of the learned attention (for ablations).
        two_scales: set by ``HRDAEncoderDecoder``; without it there is no attention and no detail.
        kwargs: settings of the shared head (``decoder_params`` and those of ``BaseDecodeHead``).

    >>> from pipa.mmseg import HRDAHead
    >>> head = HRDAHead(in_channels=[32, 64, 160, 256], channels=16, num_classes=19, norm_cfg=dict(type="BN"))
    >>> type(head.head).__name__, tuple(head.scale_attention.conv_seg.weight.shape)  # one attention map per class
    ('DAFormerHead', (19, 256, 1, 1))
    """

    def __init__(
        self,
        single_scale_head: str = "DAFormerHead",
        attention_classwise: bool = True,
        attention_embed_dim: int = 256,
        hr_loss_weight: float = 0.1,
        fixed_attention: float | None = None,
        two_scales: bool = True,
        **kwargs: Any,
    ) -> None:
        if not 0 <= hr_loss_weight <= 1:
            raise ValueError(f"HRDAHead: hr_loss_weight must be in [0, 1], got {hr_loss_weight}")
        if fixed_attention is not None and not 0 <= fixed_attention <= 1:
            raise ValueError(f"HRDAHead: fixed_attention must be in [0, 1], got {fixed_attention}")
        base = {key: value for key, value in kwargs.items() if key not in ("decoder_params", "dilations")}
        base.setdefault("channels", base.get("num_classes"))
        several = not isinstance(base["in_channels"], int)
        if several:
            base.setdefault("in_index", tuple(range(len(base["in_channels"]))))
        super().__init__(**{**base, "init_cfg": None, "input_transform": "multiple_select" if several else None})
        # The two inner heads classify; this one has no weights of its own.
        del self.conv_seg
        self.hr_loss_weight = hr_loss_weight
        self.fixed_attention = fixed_attention
        self.head = MODELS.build({**copy.deepcopy(kwargs), "type": single_scale_head})
        self.scale_attention: Any = None
        if two_scales and fixed_attention is None:
            config = _attention_config(single_scale_head, kwargs, attention_embed_dim)
            if not attention_classwise:
                # The threshold only silences mmsegmentation's remark on binary outputs; nothing uses it.
                config.update(num_classes=1, threshold=0.5)
            self.scale_attention = MODELS.build(config)

    def forward(self, inputs: ScaleFeatures) -> Tensor:
        """Fused logits ``(B, C, h, w)``."""
        return self.predict_scales(inputs).fused

    def predict_scales(self, inputs: ScaleFeatures) -> ScaleLogits:
        """Logits of both scales, the attention, and their fusion."""
        # The order (context, detail, attention) is the one in which batch norm sees them when training.
        context = self.head(inputs.context)
        if inputs.parts is not None:
            crops = torch.cat([self.head(part) for part in inputs.parts])
        elif inputs.detail is not None:
            crops = self.head(inputs.detail)
        else:
            return ScaleLogits(fused=context, context=context)
        attention = self._attention(inputs.context, context)
        detail, canvas = self._place(crops, inputs)
        size = canvas.shape[2:]
        if inputs.masked:
            top, left, bottom, right = _cells(inputs.boxes[0], inputs.size, attention.shape[2:])
            mask = attention.new_zeros((1, 1, *attention.shape[2:]))
            mask[:, :, top:bottom, left:right] = 1
            attention = attention * mask
        fused = self._up(attention, size) * canvas + self._up((1 - attention) * context, size)
        return ScaleLogits(fused, context, attention, detail)

    def _attention(self, features: list[Tensor], context: Tensor) -> Tensor:
        if self.scale_attention is None:
            value = 0.5 if self.fixed_attention is None else self.fixed_attention
            return torch.full_like(context[:, :1], value)
        attention = torch.sigmoid(self.scale_attention(features))
        return self._up(attention, context.shape[2:])

    def _place(self, crops: Tensor, inputs: ScaleFeatures) -> tuple[Tensor, Tensor]:
        """(detail logits, the same on a map of the whole image, zero where no crop is)."""
        if not inputs.boxes:
            return crops, crops
        parts = crops.unflatten(0, (len(inputs.boxes), -1)).unbind(0)
        height, width = parts[0].shape[2:]
        top, left, bottom, right = inputs.boxes[0]
        size = (_scaled(inputs.size[0], height, bottom - top), _scaled(inputs.size[1], width, right - left))
        canvas = crops.new_zeros((parts[0].shape[0], crops.shape[1], *size))
        count = crops.new_zeros((1, 1, *size))
        for part, box in zip(parts, inputs.boxes, strict=True):
            y, x, _, _ = _cells(box, inputs.size, size)
            # A window that ends with the image ends with the map, also where a rest of a cell was rounded up.
            y = size[0] - height if box[2] == inputs.size[0] else min(y, size[0] - height)
            x = size[1] - width if box[3] == inputs.size[1] else min(x, size[1] - width)
            canvas[:, :, y : y + height, x : x + width] += part
            count[:, :, y : y + height, x : x + width] += 1
        if inputs.masked:
            return crops, canvas
        stitched = canvas / count
        return stitched, stitched

    def _up(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if tuple(x.shape[2:]) == tuple(size):
            return x
        return resize(x, tuple(size), mode="bilinear", align_corners=self.align_corners)


def _attention_config(single_scale_head: str, kwargs: dict[str, Any], embed_dim: int) -> dict[str, Any]:
    config = {**copy.deepcopy(kwargs), "type": single_scale_head}
    if single_scale_head != "DAFormerHead":
        return config
    params = dict(config.get("decoder_params") or {})
    fusion = params.get("fusion_cfg", "sepaspp")
    fusion = dict(PRESETS.get(fusion, {"type": fusion}) if isinstance(fusion, str) else fusion)
    if fusion["type"] == "aspp":
        # Where to trust the detail is a smooth question: a 1x1 fusion is enough (HRDA, section 3.3).
        fusion = {"type": "conv", "kernel_size": 1, **{k: fusion[k] for k in ("norm_cfg", "act_cfg") if k in fusion}}
    params.update(embed_dims=embed_dim, fusion_cfg=fusion)
    config.update(channels=embed_dim, decoder_params=params)
    return config


def _scaled(pixels: int, cells: int, crop_pixels: int) -> int:
    """Cells of the whole map, given those of a crop; a rest of a cell counts as one."""
    return -(-pixels * cells // crop_pixels)


def _cells(box: Region, size: tuple[int, int], cells: Sequence[int]) -> Region:
    """A box in pixels of an image as a box in cells of a map over that image."""
    top, left, bottom, right = box
    y, x = cells[0] / size[0], cells[1] / size[1]
    return round(top * y), round(left * x), round(bottom * y), round(right * x)
