"""Random crops of an image. Boxes are (top, left, bottom, right), half-open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

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
