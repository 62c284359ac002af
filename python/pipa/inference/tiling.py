"""Sliding windows over an image, in passes of a bounded size. Boxes are (top, left, bottom, right), half-open.

Shape suffixes: B batch, C input channels, K output channels, H W size of the image, h w size of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

Region = tuple[int, int, int, int]
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Window:
    """How a network slides: ``crop`` and ``stride`` as (height, width) in pixels, ``batch`` windows in one pass."""

    crop: tuple[int, int]
    stride: tuple[int, int]
    batch: int = 1

    def __post_init__(self) -> None:
        if min(*self.crop, *self.stride, self.batch) < 1:
            raise ValueError(f"window: crop, stride and batch must be positive, got {self}")
        if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            raise ValueError(f"window: stride {self.stride} leaves gaps between windows of {self.crop}")


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


def passes(
    image_bchw: Tensor, boxes: Sequence[Region], predict: Predict, batch: int
) -> Iterator[tuple[Sequence[Region], Tensor]]:
    """(boxes, ``predict`` of them, stacked box by box), at most ``batch`` boxes in one call; all boxes have one size.

    Whoever reads this lets go of the second before the next pass: it can be as large as the pass itself.
    """
    for first in range(0, len(boxes), batch):
        some = boxes[first : first + batch]
        crops = [image_bchw[:, :, t:b, le:r] for t, le, b, r in some]
        yield some, predict(crops[0] if len(crops) == 1 else torch.cat(crops))


def by_box(boxes: Sequence[Region], parts: Tensor) -> Iterator[tuple[Region, Tensor]]:
    """Each box with its part of a pass. Not split by the batch, which an exporter leaves open."""
    return zip(boxes, parts.unflatten(0, (len(boxes), -1)).unbind(0), strict=True)


def slide(image_bchw: Tensor, window: Window, predict: Predict) -> Tensor:
    """Mean of ``predict: (N, C, h, w) -> (N, K, h, w)`` over windows; ``(B, K, H, W)`` on the image's device."""
    size = image_bchw.shape[2:]
    boxes = windows(size, window.crop, window.stride)
    if len(boxes) == 1:
        return predict(image_bchw)
    total: Tensor | None = None
    count = image_bchw.new_zeros((1, 1, *size))
    batch = len(boxes) if torch.compiler.is_exporting() else window.batch  # a graph holds the network once
    for some, parts in passes(image_bchw, boxes, predict, batch):
        if total is None:
            total = parts.new_zeros((image_bchw.shape[0], parts.shape[1], *size))
        for (top, left, bottom, right), part in by_box(some, parts):
            total[:, :, top:bottom, left:right] += part
            count[:, :, top:bottom, left:right] += 1
        del parts, part
    if total is None:
        raise ValueError("slide: the image is empty")
    return total.div_(count)


def bands(image_bchw: Tensor, window: Window, predict: Predict) -> Iterator[tuple[int, Tensor]]:
    """As :func:`slide`, from top to bottom in bands ``(first row, (B, K, rows, W) on the host)``.

    A band is given as soon as no later window touches its rows. One buffer of a window's height holds the sums,
    whatever the height of the image; it moves down in place.
    """
    height, width = image_bchw.shape[2:]
    boxes = windows((height, width), window.crop, window.stride)
    rows = [list(group) for _, group in groupby(boxes, key=lambda box: box[0])]
    total: Tensor | None = None
    count = torch.zeros((rows[0][0][2], width))
    for index, row in enumerate(rows):
        first = row[0][0]  # the buffer's first row in the image: all above it has been given
        for some, parts in passes(image_bchw, row, predict, window.batch):
            if total is None:
                total = torch.zeros((image_bchw.shape[0], parts.shape[1], *count.shape), dtype=parts.dtype)
            for (_, left, _, right), part in by_box(some, parts):
                total[:, :, :, left:right] += part.cpu()
                count[:, left:right] += 1
            del parts, part
        if total is None:
            raise ValueError("bands: the image is empty")
        ready = (rows[index + 1][0][0] if index + 1 < len(rows) else height) - first
        yield first, total[:, :, :ready] / count[:ready]
        for sums_hw in (*total.flatten(0, 1), count):
            _move_up(sums_hw, ready)


def _move_up(sums_hw: Tensor, rows: int) -> None:
    """Drop so many rows at the top; those that come in below are zero."""
    kept = sums_hw.shape[0] - rows
    sums_hw[:kept] = sums_hw[rows:].clone()
    sums_hw[kept:] = 0
