"""The data sets inside wrappers: mmengine's ConcatDataset and RepeatDataset, nested too, and this package's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import ConcatDataset, RepeatDataset

from pipa.mmseg.mmengine_compat import place_in_part


def parts(dataset: Any) -> Iterator[Any]:
    """The data sets that hold the images, in order."""
    if isinstance(dataset, ConcatDataset):
        for inner in dataset.datasets:
            yield from parts(inner)
    elif getattr(dataset, "dataset", None) is not None:
        yield from parts(dataset.dataset)
    else:
        yield dataset


def locate(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set that holds an image, and the image's index in it; a draw stays the draw it is."""
    while True:
        if isinstance(dataset, ConcatDataset):
            number, index = place_in_part(dataset, index)
            dataset = dataset.datasets[number]
        elif isinstance(dataset, RepeatDataset):
            _, index = place_in_part(dataset, index)
            dataset = dataset.dataset
        elif getattr(dataset, "dataset", None) is not None:
            dataset = dataset.dataset
        else:
            return dataset, index
