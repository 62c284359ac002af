"""How good a network looks on pictures without labels, and how good it is where there are labels.

Shape suffixes: B batch, C classes, H W size, S pixels of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipa.files.images import DataError, read_label
from pipa.functional import confusion_matrix, iou_from_confusion
from pipa.functional.label_free import entropy_sum, neighbourhood_density, probabilities, spread
from pipa.inference.decision import two_classes
from pipa.inference.network import Prepared
from pipa.inference.segmenter import TROUBLES, Segmenter

#: Pixels of each picture whose neighbourhood is looked at.
SAMPLE = 1024
IGNORED = 255

OnError = Callable[[Path, Exception], None]


@dataclass
class Scores:
    """One network on some pictures.

    Attributes:
        entropy: mean over all pixels of the softmax' entropy, in nats; lower is surer.
        snd: mean over the pictures of their soft neighbourhood density, in nats; higher is denser.
        miou: in per cent, where there were labels.
    """

    entropy: float
    snd: float
    miou: float | None = None


@dataclass
class Tally:
    """Sums over pictures, of one network."""

    pixels: int = 0
    entropy: float = 0.0
    densities: list[float] = field(default_factory=list)
    confusion: Tensor | None = None

    def count(self, matrix: Tensor) -> None:
        """Add a confusion matrix (C, C)."""
        self.confusion = matrix if self.confusion is None else self.confusion + matrix

    def add(self, other: Tally) -> None:
        """Add the sums of further pictures."""
        self.pixels += other.pixels
        self.entropy += other.entropy
        self.densities += other.densities
        if other.confusion is not None:
            self.count(other.confusion)

    def scores(self) -> Scores:
        density = float(np.mean(self.densities)) if self.densities else float("nan")
        miou = None if self.confusion is None else 100 * float(iou_from_confusion(self.confusion)["mIoU"])
        return Scores(self.entropy / self.pixels, density, miou)


def measure(
    networks: Mapping[str, Segmenter],
    pictures: Mapping[Path, Path | None],
    on_error: OnError,
    tick: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Scores], float | None]:
    """Scores of networks that prepare pictures alike (a student and its teacher), and the share of pixels on whose
    label all of them agree (None for a single one).

    The logits are those that a prediction decides on, band by band, so the memory is that of a prediction.

    Args:
        pictures: a file, and its label image where there is one (class ids, 255 does not count).
        on_error: told of each picture that failed, and why; it counts for no network.

    Raises:
        ValueError: not one picture could be used, with or without its label.
    """
    tallies = {name: Tally() for name in networks}
    agreed = seen = 0
    first: str | None = None
    for file, label in pictures.items():
        try:
            with torch.inference_mode():
                found = _one(networks, file, label)
        except TROUBLES as error:
            first = first or f"{file}: {error}"
            on_error(file, error)
            continue
        finally:
            tick()
        seen += found.size
        agreed += found.agreed
        for name, tally in found.tallies.items():
            tallies[name].add(tally)
    if seen == 0:
        raise ValueError(f"unlabelled: not one of {len(pictures)} pictures could be used; the first: {first}")
    return {name: tally.scores() for name, tally in tallies.items()}, agreed / seen if len(networks) > 1 else None


@dataclass
class _Found:
    tallies: dict[str, Tally]
    agreed: int
    size: int


def _one(networks: Mapping[str, Segmenter], file: Path, label_file: Path | None) -> _Found:
    """A single picture."""
    prepared = next(iter(networks.values())).prepare(file)
    truth = None if label_file is None else _truth(label_file, prepared)
    tallies = {name: Tally() for name in networks}
    samples: dict[str, list[Tensor]] = {name: [] for name in networks}
    area = _area(prepared)
    chosen = spread(area, SAMPLE)
    agreed = top = done = 0
    for pieces in zip(*(network.pieces(prepared) for network in networks.values()), strict=True):
        labels = [label for _, label in pieces]
        rows = labels[0].shape[0]
        agreed += int(np.logical_and.reduce([label == labels[0] for label in labels]).sum())
        for (name, network), (logits, label) in zip(networks.items(), pieces, strict=True):
            logits = two_classes(logits)
            here = chosen[(chosen >= done) & (chosen < done + logits.shape[1] * logits.shape[2])] - done
            samples[name].append(probabilities(logits[None], here.to(logits.device)))
            tally = tallies[name]
            tally.entropy += float(entropy_sum(logits[None]))
            tally.pixels += logits.shape[1] * logits.shape[2]
            if truth is not None:
                tally.count(confusion_matrix(label, truth[top : top + rows], len(network.classes), IGNORED))
        done += pieces[0][0].shape[1] * pieces[0][0].shape[2]
        top += rows
    for name, tally in tallies.items():
        if area > 1:  # a single pixel has no neighbour
            tally.densities.append(float(neighbourhood_density(torch.cat(samples[name]))))
    return _Found(tallies, agreed, prepared.image_hwc.shape[0] * prepared.image_hwc.shape[1])


def _area(prepared: Prepared) -> int:
    left, right, top, bottom = prepared.padding
    height, width = prepared.inputs.shape[2:]
    return (height - top - bottom) * (width - left - right)


def _truth(file: Path, prepared: Prepared) -> npt.NDArray[Any]:
    truth = read_label(file)
    size = prepared.image_hwc.shape[:2]
    if truth.shape != size:
        raise DataError(f"{file}: expected the picture's size {size[0]} x {size[1]}, got {truth.shape}")
    return truth


def labels_beside(
    pictures: list[Path], root: Path, labels: Path, suffixes: tuple[str, str] | None = None
) -> dict[Path, Path | None]:
    """The label image of each picture, in the same subfolder and of the same stem.

    Args:
        suffixes: ends of the pictures' and of the labels' names, for example ``("_leftImg8bit.png",
            "_gtFine_labelTrainIds.png")``; None: whatever the picture's type, and ``.png``.

    Raises:
        ValueError: a picture without a label, or one that does not end so.
    """
    found: dict[Path, Path | None] = {}
    for file in pictures:
        name = file.relative_to(root)
        if suffixes is None:
            label = labels / name.with_suffix(".png")
        else:
            if not name.name.endswith(suffixes[0]):
                raise ValueError(f"{file}: expected a name that ends in {suffixes[0]}")
            label = labels / name.with_name(name.name.removesuffix(suffixes[0]) + suffixes[1])
        if not label.is_file():
            raise ValueError(f"{file}: expected its label {label}, found no such file")
        found[file] = label
    return found
