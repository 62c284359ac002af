"""What a network says about one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipa import viz

Labels = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Prediction:
    """Labels of one picture at its own size.

    Attributes:
        label_hw: class ids, uint8 ``(H, W)`` (int32 above 256 classes).
        confidence_hw: softmax probability of the chosen class, float32 ``(H, W)`` in [0, 1].
        classes: a name for each id.
        palette: an RGB colour, 0 to 255, for each id.
        image_hwc: the picture, uint8 RGB ``(H, W, 3)``, upright and as the network saw it before any resizing.
        path: the file it came from; None for arrays.

    >>> import numpy as np
    >>> from pipa.inference import Prediction
    >>> label, sure = np.array([[0, 1], [1, 1]], np.uint8), np.ones((2, 2), np.float32)
    >>> picture = np.zeros((2, 2, 3), np.uint8)
    >>> found = Prediction(label, sure, ("road", "sky"), ((128, 64, 128), (70, 130, 180)), picture)
    >>> found.shares()
    {'sky': 0.75, 'road': 0.25}
    >>> found.overlay(opacity=1.0)[0, 0].tolist()
    [128, 64, 128]
    """

    label_hw: Labels
    confidence_hw: npt.NDArray[np.float32]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    image_hwc: npt.NDArray[np.uint8] = field(repr=False)
    path: Path | None = None

    def overlay(self, opacity: float = 0.55, legend: bool = False) -> npt.NDArray[np.uint8]:
        """The picture under the classes' colours, uint8 RGB ``(H, W, 3)``; `legend` adds a strip of names below."""
        picture = viz.overlay(self.image_hwc, self.label_hw, self.palette, opacity)
        return viz.with_legend(picture, self.label_hw, self.classes, self.palette) if legend else picture

    def shares(self) -> dict[str, float]:
        """Share of the pixels that each occurring class has, the largest first."""
        counts: Sequence[int] = np.bincount(self.label_hw.reshape(-1), minlength=len(self.classes)).tolist()
        order = sorted((c for c in range(len(counts)) if counts[c]), key=lambda c: -counts[c])
        return {self.classes[c]: counts[c] / self.label_hw.size for c in order}
