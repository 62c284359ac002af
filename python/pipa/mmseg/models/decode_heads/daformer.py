"""DAFormer's context-aware fusion head (Hoyer et al., DAFormer, CVPR 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor, nn

from pipa.mmseg.models.decode_heads.fusion import Config, build_fusion, build_layer


@MODELS.register_module()
class DAFormerHead(BaseDecodeHead):
    """Embeds each stage of the encoder, brings all to the size of the largest, concatenates, fuses and classifies.

    Args:
        in_channels, in_index: channels and indices of the encoder maps in use.
        channels: width of the fused map.
        decoder_params: the keys of the released configs:

            - ``embed_dims``: width of the embeddings, one number or one per map (default: ``channels``);
            - ``embed_cfg``: embedding of all maps but the last (default ``dict(type="mlp")``);
            - ``embed_neck_cfg``: embedding of the last map (default: as ``embed_cfg``);
            - ``fusion_cfg``: a layer of :mod:`pipa.mmseg.models.decode_heads.fusion` or a preset's name
              (default ``"sepaspp"``).
        kwargs: those of mmsegmentation's ``BaseDecodeHead``.

    Input: a list of maps ``(B, D_i, H_i, W_i)``. Output: logits ``(B, C, H, W)`` of the size of the first used map.

    >>> import torch
    >>> from pipa.mmseg import DAFormerHead
    >>> head = DAFormerHead([32, 64, 160, 256], channels=16, num_classes=19, norm_cfg=dict(type="BN"))
    >>> maps = [torch.zeros(2, d, 64 // s, 64 // s) for d, s in zip(head.in_channels, (4, 8, 16, 32))]
    >>> head(maps).shape
    torch.Size([2, 19, 16, 16])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        in_index: Sequence[int] = (0, 1, 2, 3),
        decoder_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels=tuple(in_channels),
            in_index=tuple(in_index),
            channels=channels,
            input_transform="multiple_select",
            **kwargs,
        )
        params = dict(decoder_params or {})
        count = len(self.in_index)
        dims = params.pop("embed_dims", channels)
        dims = [dims] * count if isinstance(dims, int) else list(dims)
        embed: Config = dict(params.pop("embed_cfg", {"type": "mlp"}))
        neck: Config = dict(params.pop("embed_neck_cfg", embed))
        fusion = params.pop("fusion_cfg", "sepaspp")
        if params:
            raise TypeError(f"DAFormerHead: unknown decoder_params: {', '.join(sorted(params))}")
        if len(dims) != count:
            raise ValueError(f"DAFormerHead: embed_dims must be one number or {count}, got {dims}")
        # Named by their index, as in released checkpoints.
        self.embed_layers = nn.ModuleDict(
            {
                str(index): build_layer(width, dim, **(neck if index == self.in_index[-1] else embed))
                for index, width, dim in zip(self.in_index, self.in_channels, dims, strict=True)
            }
        )
        self.fuse_layer = build_fusion(sum(dims), channels, fusion, self.norm_cfg, self.align_corners)

    def fused_features(self, inputs: Sequence[Tensor]) -> Tensor:
        """The map before the classifier, ``(B, channels, H, W)``."""
        maps = [self.embed_layers[str(index)](inputs[index]) for index in self.in_index]
        size = inputs[self.in_index[0]].shape[2:]
        maps = [
            m if m.shape[2:] == size else resize(m, size, mode="bilinear", align_corners=self.align_corners)
            for m in maps
        ]
        return self.fuse_layer(torch.cat(maps, dim=1))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.cls_seg(self.fused_features(inputs))
