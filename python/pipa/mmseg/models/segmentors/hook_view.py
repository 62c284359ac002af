"""What the hook needs to know of an mmsegmentation segmentor and of its samples."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import functional

from pipa.mmseg.models.segmentors.feature_channels import feature_channels
from pipa.projection import ProjectionHead


def core_model(runner: Runner) -> Any:
    """The segmentor inside a distributed wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def main_head(core: Any) -> Any:
    """The decode head whose predictions count (the last one of a cascade)."""
    head = core.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def build_heads(core: nn.Module, terms: dict[str, bool], dims: dict[str, Any]) -> nn.ModuleDict:
    """Projection heads of the terms that are on, with the channels of the model's own feature maps."""
    channels = sum(feature_channels(core))
    device = next(core.parameters()).device
    heads = nn.ModuleDict()
    for name, on in terms.items():
        if on:
            heads[f"{name}_head"] = ProjectionHead(channels, dims[f"{name}_dim"], dims["projection_hidden"])
    return heads.to(device)


def valid_mask(samples: list[Any], device: torch.device | None = None) -> Tensor | None:
    """(B, H, W), 0 where pseudo-labels must not count: on padding, and where a sample's `valid_map` says so.

    None where there is neither. (`padding_size` of a sample is left, right, top, bottom.)
    """
    rows = []
    for sample in samples:
        pads = tuple(sample.metainfo.get("padding_size", (0, 0, 0, 0)))
        if "valid_map" in sample:
            inner = sample.valid_map.data[0].float()
        elif any(pads):
            inner = torch.ones(tuple(sample.metainfo["img_shape"][:2]), device=device)  # of the image before padding
        else:
            inner = None
        rows.append((inner, pads))
    if all(inner is None for inner, _ in rows):
        return None
    known = next((inner, pads) for inner, pads in rows if inner is not None)
    size = functional.pad(known[0], known[1]).shape
    masks = [torch.ones(size, device=device) if inner is None else functional.pad(inner, pads) for inner, pads in rows]
    return torch.stack(masks)


def cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the host, for a checkpoint that loads anywhere."""
    return {key: value.detach().cpu() for key, value in state.items()}
