"""Projection heads that fit a segmentor, whatever its encoder."""

from __future__ import annotations

from typing import Any

import torch

from pipa.mmseg.models.segmentors.outputs import backbone_features
from pipa.projection import ProjectionHead

__all__ = ["ProjectionHead", "feature_channels", "projection_for"]


@torch.no_grad()
def feature_channels(model: Any, size: int = 128) -> list[int]:
    """Channels of the maps that ``backbone_features`` gives, found by passing one blank image of ``size`` pixels.

    The model's weights, statistics and training mode stay as they are.
    """
    modes = {name: module.training for name, module in model.named_modules()}
    first = next(model.parameters())
    model.eval()
    try:
        maps = backbone_features(model, torch.zeros(1, 3, size, size, device=first.device, dtype=first.dtype))
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
    return [int(m.shape[1]) for m in maps]


def projection_for(model: Any, out_channels: int = 256, hidden: int | None = None, size: int = 128) -> ProjectionHead:
    """A :class:`ProjectionHead` over all maps of the model's encoder, on its device."""
    head = ProjectionHead(sum(feature_channels(model, size)), out_channels, hidden)
    return head.to(next(model.parameters()).device)
