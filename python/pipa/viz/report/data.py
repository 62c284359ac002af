"""What a report is made of: plain values, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

#: (iteration, value) in the order of the iterations.
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: As it heads the table, e.g. ``"PiPa"``.
        iou: Percent per class, in the order of the classes; None for a class that never occurs.
        miou_curve: mIoU in percent on the target over the iterations.
        losses: Curves by the name of the logged value.
        seconds: Wall-clock time of the training.
        note: What else must be known, e.g. ``"seed 0"``.

    >>> from pipa import viz
    >>> viz.Run("PiPa", iou=[60.0, 40.0, None], miou_curve=[(1000, 35.0), (2000, 50.0)]).miou
    50.0
    """

    name: str
    iou: Sequence[float | None]
    miou_curve: Curve = ()
    losses: Mapping[str, Curve] = field(default_factory=dict)
    seconds: float | None = None
    note: str = ""

    @property
    def miou(self) -> float:
        """Mean over the classes that occur; NaN where none does."""
        present = [value for value in self.iou if value is not None and not np.isnan(value)]
        return float(np.mean(present)) if present else float("nan")


@dataclass(frozen=True)
class Panel:
    """One picture, uint8 RGB of shape (H, W, 3). `labels`: a map of classes or weights, enlarged with sharp pixels.

    >>> import pipa
    >>> image, _ = pipa.toy.draw("source", 0)
    >>> pipa.viz.Panel("Source", image, caption="labelled").title
    'Source'
    """

    title: str
    image: npt.NDArray[np.uint8]
    caption: str = ""
    labels: bool = False

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"panel {self.title!r}: expected uint8 of shape (H, W, 3), got {self.image.dtype} {self.image.shape}"
            )


@dataclass(frozen=True)
class Section:
    """Panels under a title; `columns` per row, or as many as fit.

    >>> import pipa
    >>> panels = [pipa.viz.Panel(name, pipa.toy.draw(name, 0)[0]) for name in ("source", "target")]
    >>> len(pipa.viz.Section("Both domains", panels).panels)
    2
    """

    title: str
    panels: Sequence[Panel]
    text: str = ""
    columns: int | None = None


@dataclass(frozen=True)
class SeedTable:
    """mIoU of each run for each seed: ``SeedTable(["0", "1", "2"], {"source-only": [..], "PiPa": [..]})``.

    >>> from pipa import viz
    >>> viz.SeedTable(["0", "1"], {"source-only": [38.0, 39.5], "PiPa": [50.0]})
    Traceback (most recent call last):
    ValueError: seeds: 'PiPa' has 1 values for 2 seeds
    """

    names: Sequence[str]
    miou: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        for run, values in self.miou.items():
            if len(values) != len(self.names):
                raise ValueError(f"seeds: {run!r} has {len(values)} values for {len(self.names)} seeds")
