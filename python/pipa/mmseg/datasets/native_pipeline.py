"""Runs the usual start of a training pipeline as one native call.

    LoadImage, [LoadLabel], [Resize | RandomResize], [PseudoMargins], SyncCrop, [RandomFlip]

The label chooses the crop, and only what the crop shows of the image is resized. The samples are those of the
transforms one after the other, bit by bit, and so are the draws (they come from a generator of the sample's own, seeded
as the global one would be); nothing else about a config changes. What is not of this form runs as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from mmcv.transforms import RandomResize
from mmcv.transforms import Resize as PlainResize
from mmseg.datasets.transforms import PackSegInputs, RandomFlip, Resize

from pipa._core import load_crop
from pipa.files import images
from pipa.files.images import DataError
from pipa.files.labels import IGNORED, apply_map
from pipa.mmseg.datasets.draw import Draw, seeded
from pipa.mmseg.datasets.target_pipeline import run_target
from pipa.mmseg.datasets.transforms import (
    VALID,
    LoadImage,
    LoadLabel,
    PackUnlabelled,
    PseudoMargins,
    SyncCrop,
    run,
)

# Transforms that draw nothing: the global generators need no seed for them.
_QUIET = (PackSegInputs, PackUnlabelled)


def fuse(transforms: Sequence[Any], ignore_index: int = IGNORED) -> Fused | None:
    """The native equivalent of a pipeline, or None where its start is not of the form above.

    Subclasses do not count as what they derive from: they may do something else.

    Args:
        ignore_index: the data's id of pixels without a class, where no transform names another.
    """
    rest = list(transforms)

    def take(*kinds: type) -> Any:
        return rest.pop(0) if rest and type(rest[0]) in kinds else None

    image, label, resize = take(LoadImage), take(LoadLabel), take(Resize, PlainResize, RandomResize)
    margins, crop, flip = take(PseudoMargins), take(SyncCrop), take(RandomFlip)
    if image is None or crop is None:
        return None
    plan: dict[str, Any] = dict(scale=None, ratio=None, keep_ratio=False, margins=None, fill=None, flip=None)
    if resize is not None:
        settings = _resize(resize)
        if settings is None:
            return None
        plan.update(settings)
    if margins is not None:
        plan["margins"] = [margins.top, margins.bottom, margins.left, margins.right]
    named = [t.ignore_index for t in (crop, label) if t is not None and t.ignore_index is not None]
    ignore = [*named, ignore_index][0]
    if not 0 <= ignore <= 255:
        return None
    plan.update(crop=crop.crop_size, cat_max_ratio=crop.cat_max_ratio, ignore=ignore)
    if crop.pad:
        plan["fill"] = np.broadcast_to(np.asarray(crop.pad_val, dtype=np.uint8), 3).tolist()
        if label is None:  # a target: the mask leaves out what is filled
            plan["margins"] = plan["margins"] or [0, 0, 0, 0]
    if flip is not None:
        if flip.direction != "horizontal" or not isinstance(flip.prob, float) or flip.swap_seg_labels is not None:
            return None
        plan["flip"] = flip.prob
    return Fused(image, label, plan, rest)


def _resize(transform: Any) -> dict[str, Any] | None:
    """Settings of Resize or RandomResize, or None where they ask for something unusual."""
    resize = transform.resize if isinstance(transform, RandomResize) else transform
    if type(resize) not in (Resize, PlainResize) or resize.backend != "cv2" or resize.interpolation != "bilinear":
        return None
    scale = transform.scale
    if not isinstance(scale, tuple) or len(scale) != 2 or not all(isinstance(v, int) and v > 0 for v in scale):
        return None
    ratio = tuple(map(float, transform.ratio_range)) if isinstance(transform, RandomResize) else None
    return dict(scale=tuple(scale), ratio=ratio, keep_ratio=resize.keep_ratio)


@lru_cache(maxsize=64)
def _table(classes: int | None, ignore: int, ids: tuple | None, labels: tuple | None) -> bytes | None:
    """What LoadLabel does to the stored ids 0..255: the train ids, then a flag for each stored id that may occur. None
    where ids need more than eight bits."""
    stored = np.arange(256)
    mapped = stored if ids is None else apply_map(stored, dict(ids), ignore, unlisted=ignore)
    final = mapped if not labels else apply_map(mapped, dict(labels), ignore, unlisted=None)
    if max(mapped.max(), final.max(), ignore) > 255:
        return None
    allowed = np.ones(256, bool) if classes is None else (mapped < classes) | (mapped == ignore)
    return final.astype(np.uint8).tobytes() + allowed.astype(np.uint8).tobytes()


def _pairs(mapping: Mapping[int, int] | None) -> tuple | None:
    return None if mapping is None else tuple(mapping.items())


class Fused:
    """A pipeline whose start runs natively.

    Attributes:
        loud: names of the other transforms, which may draw from the global generators.
    """

    def __init__(self, image: LoadImage, label: LoadLabel | None, plan: dict[str, Any], rest: list[Any]) -> None:
        self.image, self.label, self.plan, self.rest = image, label, plan, rest
        self.loud = [type(transform).__name__ for transform in rest if type(transform) not in _QUIET]

    def __call__(self, info: dict, draw: Draw, attempt: int = 0, wanted: tuple[int, float, int] | None = None) -> dict:
        """The sample of a draw.

        Args:
            info: the data set's description of the image.
            wanted: class, pixels of it that the crop must exceed, crops to try (rare class sampling).
        """
        seed = draw.words(attempt)[2:6].tolist()
        results, words = self._start(info, seed, wanted)
        if self.loud:  # the rest goes on drawing where the start has stopped
            with seeded(draw, attempt):
                np.random.randint(0, 2**32, size=words, dtype=np.uint32)  # noqa: NPY002
                return self._finish(results)
        return self._finish(results)

    def _finish(self, results: dict) -> dict:
        return run_target(self.rest, results) if self.label is None else run(self.rest, results)

    def _start(self, info: dict, seed: list[int], wanted: tuple[int, float, int] | None) -> tuple[dict, int]:
        name, table = info["img_path"], self._ids(info)
        native = not self.label or table is not None
        label = info["seg_map_path"] if self.label is not None and native else None
        out = self._native(name, name, label, seed, table, wanted) if native else None
        if out is None:  # not two ordinary PNGs: read what is not, or say what is wrong with it
            pixels, bgr = images.read_pixels(name, self.image.convert)
            out = self._native(name, pixels, label, seed, table, wanted, bgr) if native else None
            if out is None:
                label = self._label(info, pixels)
                out = self._native(name, pixels, label, seed, None, wanted, bgr)
        image, label, valid, stored, resized, scale, flipped, words = out
        results = info
        results["img"] = image.transpose(1, 2, 0)
        results["ori_shape"], results["img_shape"] = stored, tuple(self.plan["crop"])
        fields = results.setdefault("seg_fields", [])
        if label is not None:
            results["gt_seg_map"] = label
            fields.append("gt_seg_map")
            if self.label is not None and self.label.ignore_index is not None:
                results["ignore_index"] = self.label.ignore_index
        if scale is not None:
            results["scale"], results["keep_ratio"] = scale, self.plan["keep_ratio"]
            results["scale_factor"] = (resized[1] / stored[1], resized[0] / stored[0])
        if valid is not None:
            results[VALID] = valid
            fields.append(VALID)
        if self.plan["flip"] is not None:
            results["flip"], results["flip_direction"] = flipped, "horizontal" if flipped else None
            if flipped and fields:
                results["swap_seg_labels"] = None
        return results, words

    def _ids(self, info: dict) -> bytes | None:
        """Table of the label's ids; None where there is no label or LoadLabel must read it (or refuse to)."""
        load = self.label
        if load is None or info.get("seg_map_path") is None:
            return None
        if info.get("reduce_zero_label") or info.get("label_colors"):
            return None
        classes = load.num_classes if load.num_classes is not None else info.get("num_classes")
        ignore = load.ignore_index if load.ignore_index is not None else info.get("ignore_index", 255)
        return _table(classes, ignore, _pairs(info.get("id_map")), _pairs(info.get("label_map")))

    def _label(self, info: dict, pixels: np.ndarray) -> np.ndarray | None:
        """The label as LoadLabel reads it."""
        if self.label is None:
            return None
        sample = dict(info, img=pixels, img_shape=pixels.shape[:2], ori_shape=pixels.shape[:2], seg_fields=[])
        label = self.label.transform(sample)["gt_seg_map"]
        if label.max(initial=0) > 255:
            raise DataError(
                f"{info['seg_map_path']}: label ids above 255 need a pipeline of single transforms: set fuse=False on "
                "the data set"
            )
        return label.astype(np.uint8, copy=False)

    def _native(self, name: str, image: Any, label: Any, seed: Any, table: Any, wanted: Any, bgr: bool = True) -> Any:
        try:
            return load_crop(name, image, label, self.plan, seed, table, wanted, bgr)
        except ValueError as error:
            raise DataError(str(error)) from None
