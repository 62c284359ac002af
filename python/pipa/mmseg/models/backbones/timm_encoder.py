"""Any feature extractor of timm as an encoder for mmsegmentation. Needs the package ``timm``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class TimmEncoder(BaseModule):
    """``timm.create_model(model_name, features_only=True)``: ``(B, 3, H, W)`` to a list of maps, finest first.

    Args:
        model_name: for example ``"convnextv2_tiny"`` or ``"vit_small_patch14_dinov2"``.
        pretrained: load timm's weights (downloads them, if they are not cached).
        out_indices: which maps; timm's default (all of them) if None. ``out_channels`` lists their channels: use it for
            the head's ``in_channels``.
        kwargs: for ``timm.create_model``, for example ``dynamic_img_size=True`` for transformers.

    mmpretrain's encoders need no wrapper: ``backbone=dict(type="mmpretrain.ConvNeXt", ...)`` (``pipa-rs[mmpretrain]``).

    >>> import torch
    >>> from pipa.mmseg import TimmEncoder
    >>> encoder = TimmEncoder("resnet18", out_indices=(1, 2))
    >>> encoder.out_channels, [tuple(feat_bdhw.shape[2:]) for feat_bdhw in encoder(torch.zeros(1, 3, 64, 64))]
    ([64, 128], [(16, 16), (8, 8)])
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        out_indices: Sequence[int] | None = None,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        try:
            import timm
        except ImportError as error:
            raise ImportError('TimmEncoder needs timm: pip install "pipa-rs[timm]"') from error
        if out_indices is not None:
            kwargs["out_indices"] = tuple(out_indices)
        encoder: Any = timm.create_model(model_name, pretrained=pretrained, features_only=True, **kwargs)
        self.encoder = encoder
        self.out_channels = list(encoder.feature_info.channels())

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        maps = list(self.encoder(image_bchw))
        # Swin and its like work channels last.
        if str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC"):
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return maps
