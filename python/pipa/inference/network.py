"""What a :class:`pipa.inference.Segmenter` asks of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from pipa.inference.tiling import Window


@dataclass
class Prepared:
    """One picture as the network takes it.

    Attributes:
        inputs: ``(1, 3, h, w)``, normalised, on the network's device.
        image_hwc: the picture itself, uint8 RGB ``(H, W, 3)``; the prediction has its size.
        padding: rows and columns of ``inputs`` that are no picture: left, right, top, bottom.
        flip: ``"horizontal"`` or ``"vertical"`` where ``inputs`` is mirrored.
        meta: what the network wants to know beside the pixels.
        extended: the size ``(H', W')`` that ``inputs`` shows, where a very narrow picture had to be extended at its
            right or bottom to be resized at all.
        path: the file.
    """

    inputs: Tensor
    image_hwc: npt.NDArray[np.uint8]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    extended: tuple[int, int] | None = None
    path: Path | None = None


class Network(Protocol):
    """A trained network with its own way of preparing a picture."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    #: How it slides over a picture; None: one pass over the whole.
    window: Window | None
    align_corners: bool
    #: For networks with one output channel.
    threshold: float | None

    def prepare(self, source: Path | npt.NDArray[np.uint8]) -> Prepared:
        """Read (a file) or take (RGB pixels) a picture. Raises ValueError or OSError for what is no picture."""

    def logits(self, inputs: Tensor, meta: list[dict[str, Any]]) -> Tensor:
        """``(B, 3, h, w) -> (B, C, h, w)`` in one pass; no gradient is asked for."""

    def description(self) -> dict[str, Any]:
        """Plain data from which the network and its preparation are built again."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights."""

    def normalised(self, image_bchw: Tensor) -> Tensor:
        """The network's input from RGB values 0 to 255 at the size of the input."""

    def parameters_module(self) -> nn.Module:
        """The network itself, for exporters."""
