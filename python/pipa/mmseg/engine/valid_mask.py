"""Which pixels of a target batch may have pseudo-labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


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
