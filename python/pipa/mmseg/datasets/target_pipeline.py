"""A mask that travels with each target image: which pixels come from the image, and which were padded.

Pseudo-labels must not count on padding, whichever transform padded. A foreign transform knows nothing of this
package's mask, but all know how to treat a label map (`gt_seg_map`): they cut, flip, resize and rotate it with the
image, and pad it with a value of their own. So the mask takes the label's place while such a transform runs. A target
has no label; a transform that loads one is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadAnnotations
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs

from pipa.files.images import DataError
from pipa.mmseg.datasets.parts import parts
from pipa.mmseg.datasets.transforms import VALID, LoadLabel, PackUnlabelled, PseudoMargins, SyncCrop

# These treat the mask themselves.
_OWN = (SyncCrop, PseudoMargins, PackUnlabelled)
_LABEL = "gt_seg_map"
# What the mask holds while it stands for a label: no id that a transform pads with, ignores or swaps.
_IMAGE = 201


def run_target(transforms: Sequence[Any], results: dict) -> dict:
    """The transforms one after the other, with the mask; one that gives nothing is a DataError."""
    for transform in transforms:
        path = results.get("img_path")
        results = _step(transform, results)
        if results is None:
            raise DataError(f"{path}: {type(transform).__name__} gave nothing for this image")
    return results


def _step(transform: Any, results: dict) -> dict:
    if isinstance(transform, PackSegInputs) and not isinstance(transform, PackUnlabelled):
        return _pack(transform, results)
    if isinstance(transform, _OWN) or not isinstance(results.get("img"), np.ndarray) or _LABEL in results:
        return transform(results)
    return _with_mask(transform, results)


def _with_mask(transform: Any, results: dict) -> dict:
    mask = results.pop(VALID, None)
    shape = results["img"].shape[:2]
    label = np.full(shape, _IMAGE, np.uint8) if mask is None else np.where(mask == 1, np.uint8(_IMAGE), np.uint8(0))
    fields = results.get("seg_fields", [])
    results["seg_fields"] = [*(f for f in fields if f != VALID), _LABEL]
    results[_LABEL] = label
    results = transform(results)
    if results is None:
        return results
    label = results.pop(_LABEL, label)
    results["seg_fields"] = [f for f in results.get("seg_fields", []) if f != _LABEL]
    image = results.get("img")
    if isinstance(image, np.ndarray) and label.shape != image.shape[:2]:
        raise DataError(
            f"{results.get('img_path')}: {type(transform).__name__} made the image {image.shape[0]}x{image.shape[1]} "
            f"but a label map {label.shape[0]}x{label.shape[1]} (height x width): which pixels are padding is not known"
        )
    kept = (label == _IMAGE).astype(np.uint8)
    if mask is not None or not kept.all():
        results[VALID] = kept
        results["seg_fields"].append(VALID)
    return results


def _pack(transform: PackSegInputs, results: dict) -> dict:
    packed = transform(results)
    if VALID in results and not results[VALID].all():
        mask = torch.from_numpy(np.ascontiguousarray(results[VALID]))
        packed["data_samples"].set_data({"valid_map": PixelData(data=mask[None])})
    return packed


class TargetPipeline:
    """A pipeline (mmengine's Compose) of a target data set, run with the mask.

    Args:
        skip_labels: leave out what loads a label, for data sets that have some.
    """

    def __init__(self, pipeline: Any, skip_labels: bool = False) -> None:
        self.pipeline = pipeline
        self.skip_labels = skip_labels

    @property
    def transforms(self) -> list[Any]:
        """What runs."""
        return [
            t
            for t in self.pipeline.transforms
            if not (self.skip_labels and isinstance(t, (LoadLabel, LoadAnnotations)))
        ]

    def __call__(self, results: dict) -> dict:
        return run_target(self.transforms, results)


def as_target(dataset: Any) -> None:
    """Let the samples of a data set, or of those inside a wrapper, have masks and no labels."""
    for part in parts(dataset):
        pipeline = getattr(part, "pipeline", None)
        if pipeline is None or isinstance(pipeline, TargetPipeline) or not hasattr(pipeline, "transforms"):
            continue
        part.pipeline = TargetPipeline(pipeline, skip_labels=True)
        loads = [type(t).__name__ for t in pipeline.transforms if isinstance(t, (LoadLabel, LoadAnnotations))]
        if loads:
            text = f"target: its pipeline has {loads[0]}, which is left out: labels of the target are never read"
            print_log(text, logger="current", level=logging.WARNING)
