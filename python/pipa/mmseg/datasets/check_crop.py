"""Whether the crop of a pipeline fits into every image, whatever resizes it before."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipa.environment import ERROR, Finding
from pipa.mmseg.datasets.draw import Draw, seeded
from pipa.mmseg.datasets.transforms import SyncCrop, run


def crop_findings(place: str, dataset: Any, sizes: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """Images that are smaller than the crop when it comes to it, after what the pipeline does before.

    Args:
        sizes: height and width of each image, by its path.
    """
    transforms = dataset.pipeline.transforms
    position = next((i for i, t in enumerate(transforms) if isinstance(t, SyncCrop)), None)
    if position is None or transforms[position].pad:
        return []
    crop, before = transforms[position], [_smallest(t) for t in transforms[:position] if not _loads(t)]
    reached = {size: _size_after(before, size) for size in set(sizes.values())}
    height, width = crop.crop_size
    small = [name for name, size in sizes.items() if reached[size][0] < height or reached[size][1] < width]
    if not small:
        return []
    size = reached[sizes[small[0]]]
    resized = "" if size == sizes[small[0]] else f" after {type(before[0]).__name__}"
    text = f"{len(small)} image(s) are smaller than the crop {crop.crop_size}{resized}, e.g. {small[0]} {size}"
    return [Finding(ERROR, place, text, "choose a smaller crop, resize to more, or set pad=True on SyncCrop")]


def _loads(transform: Any) -> bool:
    return type(transform).__name__.startswith("Load")


def _smallest(transform: Any) -> Any:
    """A random resize at its smallest."""
    lowest = getattr(transform, "ratio_range", None)
    if not isinstance(lowest, (tuple, list)):
        return transform
    smallest = copy.copy(transform)
    smallest.ratio_range = (min(lowest), min(lowest))
    return smallest


def _size_after(transforms: Sequence[Any], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image of `size` after transforms, tried on a blank one; the least of a few draws."""
    found = []
    for number in range(5 if any("Random" in type(t).__name__ for t in transforms) else 1):
        results: dict[str, Any] = dict(img=np.zeros((*size, 3), np.uint8), img_shape=size, ori_shape=size)
        results |= dict(gt_seg_map=np.zeros(size, np.uint8), seg_fields=["gt_seg_map"], img_path="a blank image")
        try:
            with seeded(Draw(0, 0, 0, number)):
                results = run(transforms, results)
        except Exception:  # a transform that needs more than an image; the dry run meets it
            return 1 << 30, 1 << 30
        found.append(results["img"].shape[:2])
    return min(h for h, _ in found), min(w for _, w in found)
