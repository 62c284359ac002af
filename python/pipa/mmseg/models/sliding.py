"""Sliding windows over an image and random crops of it. Boxes are (top, left, bottom, right), half-open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipa.networks import Region


class Draws(Protocol):
    """A source of random integers; replace it to replay recorded draws."""

    def randint(self, low: int, high: int) -> int:
        """An integer in ``[low, high)``."""


class TorchDraws:
    """Draws from torch's CPU generator: seeded by ``torch.manual_seed`` and saved with torch's state."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def randint(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=self.generator))


def windows(size: Sequence[int], crop: Sequence[int], stride: Sequence[int]) -> list[Region]:
    """Boxes of size ``crop`` that cover ``(H, W)``, row by row; the last of a row or column is moved inside.

    A crop larger than the image is cut to it.
    """
    if min(*crop, *stride) < 1:
        raise ValueError(f"windows: crop and stride must be positive, got {tuple(crop)} and {tuple(stride)}")
    starts = []
    for length, window, step in zip(size, crop, stride, strict=True):
        count = max(length - window + step - 1, 0) // step + 1
        starts.append([max(min(i * step, length - window), 0) for i in range(count)])
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    return [(top, left, top + height, left + width) for top in starts[0] for left in starts[1]]


def random_box(size: Sequence[int], crop: Sequence[int], divisible: int, rng: Draws) -> Region:
    """A random box of size ``crop`` in ``(H, W)`` whose offsets are multiples of ``divisible``; row drawn first.

    HRDA draws from ``(margin + 1) // divisible`` offsets, which leaves out the one at the far border when ``divisible``
    divides the margin; kept, so that runs compare with the published ones. No draw is made without a choice.
    """
    offsets = []
    for length, window in zip(size, crop, strict=True):
        choices = (max(length - window, 0) + 1) // divisible
        offsets.append(rng.randint(0, choices) * divisible if choices > 1 else 0)
    top, left = offsets
    return top, left, min(top + crop[0], size[0]), min(left + crop[1], size[1])


def slide(
    image_bchw: Tensor,
    crop: Sequence[int],
    stride: Sequence[int],
    predict: Callable[[Tensor], Tensor],
    batched: bool,
) -> Tensor:
    """Averages ``predict`` over windows. predict: ``(N, C, h, w) -> (N, K, h, w)``; returns ``(B, K, H, W)``.

    batched: all windows in one call (fast, more memory), else one after the other.
    """
    batch = image_bchw.shape[0]
    boxes = windows(image_bchw.shape[2:], crop, stride)
    crops = [image_bchw[:, :, t:b, le:r] for t, le, b, r in boxes]
    parts = predict(torch.cat(crops)).split(batch) if batched else map(predict, crops)
    total: Tensor | None = None
    count = image_bchw.new_zeros((1, 1, *image_bchw.shape[2:]))
    for (top, left, bottom, right), part in zip(boxes, parts, strict=True):
        if total is None:
            total = part.new_zeros((batch, part.shape[1], *image_bchw.shape[2:]))
        total[:, :, top:bottom, left:right] += part
        count[:, :, top:bottom, left:right] += 1
    if total is None:
        raise ValueError("slide: the image is empty")
    return total / count
