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
) -> Iterator[tuple[Region, Tensor]]:
    """(box, ``predict`` of it), at most ``batch`` boxes in one call; all boxes have one size."""
    for first in range(0, len(boxes), batch):
        some = boxes[first : first + batch]
        crops = [image_bchw[:, :, t:b, le:r] for t, le, b, r in some]
        parts = predict(crops[0] if len(crops) == 1 else torch.cat(crops))
        # Not split by the batch, which an exporter leaves open.
        yield from zip(some, parts.unflatten(0, (len(some), -1)).unbind(0), strict=True)


def slide(image_bchw: Tensor, window: Window, predict: Predict) -> Tensor:
    """Mean of ``predict: (N, C, h, w) -> (N, K, h, w)`` over windows; ``(B, K, H, W)`` on the image's device."""
    size = image_bchw.shape[2:]
    boxes = windows(size, window.crop, window.stride)
    if len(boxes) == 1:
        return predict(image_bchw)
    total: Tensor | None = None
    count = image_bchw.new_zeros((1, 1, *size))
    batch = len(boxes) if torch.compiler.is_exporting() else window.batch  # a graph holds the network once
    for (top, left, bottom, right), part in passes(image_bchw, boxes, predict, batch):
        if total is None:
            total = part.new_zeros((image_bchw.shape[0], part.shape[1], *size))
        total[:, :, top:bottom, left:right] += part
        count[:, :, top:bottom, left:right] += 1
    if total is None:
        raise ValueError("slide: the image is empty")
    return total.div_(count)


def bands(image_bchw: Tensor, window: Window, predict: Predict) -> Iterator[tuple[int, Tensor]]:
    """As :func:`slide`, from top to bottom in bands ``(first row, (B, K, rows, W) on the host)``.

    A band is given as soon as no later window touches its rows, so no more than one window's height of sums is held,
    whatever the height of the image.
    """
    height, width = image_bchw.shape[2:]
    boxes = windows((height, width), window.crop, window.stride)
    rows = [list(group) for _, group in groupby(boxes, key=lambda box: box[0])]
    done = 0
    total: Tensor | None = None
    count = torch.zeros(0)
    for index, row in enumerate(rows):
        bottom = row[0][2]
        for (top, left, _, right), part in passes(image_bchw, row, predict, window.batch):
            part = part.cpu()
            if total is None or total.shape[2] < bottom - done:
                total, count = _grown(total, count, part, bottom - done, width)
            total[:, :, top - done : bottom - done, left:right] += part
            count[:, :, top - done : bottom - done, left:right] += 1
        if total is None:
            raise ValueError("bands: the image is empty")
        end = rows[index + 1][0][0] if index + 1 < len(rows) else height
        if end > done:
            yield done, total[:, :, : end - done] / count[:, :, : end - done]
            total, count = total[:, :, end - done :].clone(), count[:, :, end - done :].clone()
            done = end


def _grown(total: Tensor | None, count: Tensor, part: Tensor, rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Sums and counts with room for ``rows`` rows."""
    new = part.new_zeros((part.shape[0], part.shape[1], rows, width))
    counts = part.new_zeros((1, 1, rows, width))
    if total is not None:
        new[:, :, : total.shape[2]], counts[:, :, : total.shape[2]] = total, count
    return new, counts
