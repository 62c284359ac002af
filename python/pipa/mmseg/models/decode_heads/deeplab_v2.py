"""DeepLab-v2's head (Chen et al., DeepLab, TPAMI 2018, section 3.2): the sum of parallel atrous classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module(name=["DeepLabV2Head", "DLV2Head"])
class DeepLabV2Head(BaseDecodeHead):
    """Sums 3x3 convolutions of several dilations, each of which classifies the encoder's map by itself.

    Args:
        dilations: one convolution each; (6, 12, 18, 24) is the paper's ASPP-L, as on ResNet-101 in adaptation papers.
        num_classes, in_channels, in_index: as in ``BaseDecodeHead``.
        kwargs: the rest of ``BaseDecodeHead``'s; ``channels``, ``norm_cfg`` and ``act_cfg`` have nothing to act on.

    Input: a list of maps, of which ``in_index`` is used. Output: logits ``(B, C, h, w)`` of that map's size.

    >>> import torch
    >>> from pipa.mmseg import DeepLabV2Head
    >>> head = DeepLabV2Head(19, in_channels=64, in_index=0)
    >>> head([torch.zeros(1, 64, 9, 9)]).shape
    torch.Size([1, 19, 9, 9])
    """

    def __init__(self, num_classes: int, dilations: Sequence[int] = (6, 12, 18, 24), **kwargs: Any) -> None:
        if not dilations or min(dilations) < 1:
            raise ValueError(f"DeepLabV2Head: dilations must be positive and at least one, got {tuple(dilations)}")
        kwargs.setdefault("init_cfg", {"type": "Normal", "std": 0.01, "override": {"name": "aspp_modules"}})
        # No dropout by default: these convolutions are the classifier, DeepLab-v2 has none before it.
        kwargs.setdefault("dropout_ratio", 0.0)
        kwargs.setdefault("channels", num_classes)
        super().__init__(num_classes=num_classes, **kwargs)
        del self.conv_seg
        if not isinstance(self.in_channels, int):
            raise ValueError("DeepLabV2Head: takes one map, set in_channels and in_index to one number each")
        self.aspp_modules = ASPPModule(
            tuple(dilations), self.in_channels, self.out_channels, conv_cfg=None, norm_cfg=None, act_cfg=None
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x_bdhw = self._transform_inputs(inputs)
        if self.dropout is not None:
            x_bdhw = self.dropout(x_bdhw)
        outs = self.aspp_modules(x_bdhw)
        return sum(outs[1:], start=outs[0])
