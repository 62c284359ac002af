"""Transforms that mmseg lacks: strict loading, the synchronised crop, and packing without labels.

They mix with mmseg's own (Resize, RandomFlip, PhotoMetricDistortion, PackSegInputs, ...).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform, LoadAnnotations
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS

from pipa.files import images
from pipa.files.images import DataError
from pipa.files.labels import IGNORED, LabelReading, apply_map, lost
from pipa.functional.numbers import number, whole
from pipa.mmseg.datasets import soft_labels

# Among the fields of a target sample: 1 where a pseudo-label may count, 0 on padding and in margins.
VALID = "valid_map"


def run(transforms: Sequence[Any], results: dict) -> dict:
    """The transforms one after the other; one that gives nothing is a DataError that names it and the image."""
    for transform in transforms:
        path = results.get("img_path")
        results = transform(results)
        if results is None:
            raise DataError(f"{path}: {type(transform).__name__} gave nothing for this image")
    return results


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """`img`: uint8 [H, W, 3] BGR, as mmcv's LoadImageFromFile, but a bad file is an error that names it.

    Args:
        convert: accept grey, palette, alpha and 16-bit images and turn them into 8-bit colour.

    >>> from PIL import Image
    >>> import pipa.mmseg
    >>> Image.new("RGB", (4, 2), (255, 0, 0)).save("red.png")
    >>> pipa.mmseg.LoadImage()({"img_path": "red.png"})["img"][0, 0].tolist()  # BGR
    [0, 0, 255]
    """

    def __init__(self, convert: bool = False) -> None:
        self.convert = convert

    def transform(self, results: dict) -> dict:
        image = images.read_image(results["img_path"], self.convert)
        results["img"] = image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadLabel(BaseTransform):
    """`gt_seg_map`: train ids, uint8 (uint16 for more than 255 classes) [H, W].

    Reads what the data set put into the sample: `num_classes`, `ignore_index`, `id_map`, `label_colors`, `label_map`.
    Every pixel must then be a class or `ignore_index`, and the label as large as the image loaded before it.

    Args:
        num_classes, ignore_index: for data sets that put nothing into the sample; None takes the sample's.

    >>> from PIL import Image
    >>> import pipa.mmseg
    >>> Image.new("L", (4, 2), 3).save("label.png")
    >>> sample = {"seg_map_path": "label.png", "seg_fields": []}
    >>> int(pipa.mmseg.LoadLabel(num_classes=19)(sample)["gt_seg_map"].max())
    3
    >>> pipa.mmseg.LoadLabel(num_classes=2)(sample)
    Traceback (most recent call last):
    pipa.files.images.DataError: label.png: ...
    """

    def __init__(self, num_classes: int | None = None, ignore_index: int | None = None) -> None:
        self.num_classes = None if num_classes is None else whole(num_classes, "LoadLabel: num_classes")
        self.ignore_index = None if ignore_index is None else whole(ignore_index, "LoadLabel: ignore_index")
        self.told = False

    def transform(self, results: dict) -> dict:
        path = results.get("seg_map_path")
        if path is None:
            raise DataError(
                f"{results.get('img_path')}: LoadLabel needs a labelled data set; take it out of the pipeline of an "
                "unlabelled one and pack with PackUnlabelled"
            )
        label = self.read(results, path)
        if "img" in results and results.get("img_shape") == results.get("ori_shape"):
            expected = tuple(results["img"].shape[:2])
            if label.shape != expected:
                raise DataError(
                    f"{path}: expected a label of the size of its image, {expected[0]}x{expected[1]} (height x width, "
                    f"{results['img_path']}), found {label.shape[0]}x{label.shape[1]}"
                )
        results["gt_seg_map"] = label
        results.setdefault("seg_fields", []).append("gt_seg_map")
        if self.ignore_index is not None:  # SyncCrop asks for it
            results["ignore_index"] = self.ignore_index
        return results

    def read(self, results: dict, path: str) -> np.ndarray:
        if results.get("reduce_zero_label"):
            raise ValueError(
                "LoadLabel: reduce_zero_label is not supported; give the classes of FolderDataset an id_map instead"
            )
        reading = LabelReading.of(results, self.num_classes, self.ignore_index)
        label = reading.read(path)
        if reading.colors is not None and not self.told:
            self._tell_unlisted(path, reading)
        if results.get("label_map"):  # a subset of the classes, chosen by metainfo=dict(classes=...)
            label = apply_map(label, results["label_map"], reading.ignore_index, unlisted=None)
        return label

    def _tell_unlisted(self, path: str, reading: LabelReading) -> None:
        """Once per loader: how much of a label painted with colours is lost because of its colours."""
        _, text = lost(path, reading)
        if text:
            self.told = True
            print_log(text, logger="current", level=logging.WARNING)


def label_loader(transforms: Sequence[Any]) -> Any:
    """The transform of a pipeline that reads the label (LoadLabel or mmcv's LoadAnnotations), or None; also where it
    stands inside another transform."""
    for transform in transforms:
        if isinstance(transform, (LoadLabel, LoadAnnotations)):
            return transform
        inner: Any = getattr(transform, "transforms", ())
        inner = getattr(inner, "transforms", inner)  # a Compose
        found = label_loader(inner) if isinstance(inner, (list, tuple)) else None
        if found is not None:
            return found
    return None


@TRANSFORMS.register_module()
class SyncCrop(BaseTransform):
    """The same random crop of image and label.

    With `cat_max_ratio` < 1 a crop is drawn again, up to 10 times, while one class fills more than that share of its
    valid pixels; the last one is kept. Draws as mmseg's RandomCrop does. It differs where the image is smaller than
    the crop: that is an error here (mmseg would give a smaller crop), or padding with `pad=True`.

    Args:
        crop_size: (height, width) or one number.
        ignore_index: the id of pixels that are not valid; None takes what the label was read with, or 255.
        pad: fill missing rows and columns at the bottom and right with `pad_val` and `ignore_index`.

    >>> import pipa, pipa.mmseg
    >>> image, label = pipa.toy.draw("source", 0)
    >>> sample = {"img": image, "gt_seg_map": label, "seg_fields": ["gt_seg_map"], "img_shape": image.shape[:2]}
    >>> cut = pipa.mmseg.SyncCrop((64, 96))(sample)
    >>> cut["img"].shape, cut["gt_seg_map"].shape
    ((64, 96, 3), (64, 96))
    """

    def __init__(
        self,
        crop_size: int | Sequence[int],
        cat_max_ratio: float = 1.0,
        ignore_index: int | None = None,
        pad: bool = False,
        pad_val: int | Sequence[int] = 0,
    ) -> None:
        pair = crop_size if isinstance(crop_size, Sequence) and not isinstance(crop_size, str) else [crop_size] * 2
        sizes = [whole(size, "SyncCrop: crop_size") for size in pair]
        if len(sizes) != 2 or min(sizes) <= 0:
            raise ValueError(f"SyncCrop: crop_size must be positive (height, width) or one number, got {crop_size}")
        if not 0 < number(cat_max_ratio, "SyncCrop: cat_max_ratio") <= 1:
            raise ValueError(f"SyncCrop: cat_max_ratio must lie in (0, 1], got {cat_max_ratio}")
        self.crop_size = (sizes[0], sizes[1])
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = None if ignore_index is None else whole(ignore_index, "SyncCrop: ignore_index")
        self.pad = pad
        self.pad_val = pad_val

    def box(self, height: int, width: int) -> tuple[int, int]:
        """Top left corner of a random crop."""
        top = np.random.randint(0, height - self.crop_size[0] + 1)  # noqa: NPY002  (seeded per draw, see draw.py)
        left = np.random.randint(0, width - self.crop_size[1] + 1)  # noqa: NPY002
        return top, left

    def ignored(self, results: dict) -> int:
        """The id of pixels that are not valid in this label."""
        return self.ignore_index if self.ignore_index is not None else results.get("ignore_index", IGNORED)

    def varied(self, label: np.ndarray, ignore: int) -> bool:
        counts = np.bincount(label.reshape(-1), minlength=ignore + 1)
        counts[ignore] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio)

    def cut(self, array: np.ndarray, top: int, left: int) -> np.ndarray:
        return array[top : top + self.crop_size[0], left : left + self.crop_size[1]]

    def transform(self, results: dict) -> dict:
        self.fit(results)
        fields = results.get("seg_fields", [])
        height, width = results["img"].shape[:2]
        top, left = self.box(height, width)
        if self.cat_max_ratio < 1 and "gt_seg_map" in results:
            for _ in range(10):
                if self.varied(self.cut(results["gt_seg_map"], top, left), self.ignored(results)):
                    break
                top, left = self.box(height, width)
        results["img"] = self.cut(results["img"], top, left)
        for key in fields:
            results[key] = self.cut(results[key], top, left)
        results["img_shape"] = results["img"].shape[:2]
        return results

    def fit(self, results: dict) -> None:
        """Make sure that the crop fits into the image."""
        fields = results.get("seg_fields", [])
        height, width = results["img"].shape[:2]
        bottom, right = max(self.crop_size[0] - height, 0), max(self.crop_size[1] - width, 0)
        if not bottom and not right:
            return
        if not self.pad:
            raise DataError(
                f"{results.get('img_path')}: the image is {height}x{width} (height x width) when it is cropped, but "
                f"the crop is {self.crop_size[0]}x{self.crop_size[1]}; resize it to at least that, choose a smaller "
                "crop, or set pad=True on SyncCrop"
            )
        if "gt_seg_map" not in results and VALID not in results:  # a target: padding must not count
            results[VALID] = np.ones((height, width), np.uint8)
            results.setdefault("seg_fields", []).append(VALID)
            fields = results["seg_fields"]
        padded = np.empty((height + bottom, width + right, 3), dtype=results["img"].dtype)
        padded[:] = self.pad_val
        padded[:height, :width] = results["img"]
        results["img"] = padded
        for key in fields:
            fill = 0 if key == VALID else self.ignored(results)
            results[key] = np.pad(results[key], ((0, bottom), (0, right)), constant_values=fill)


@TRANSFORMS.register_module()
class PackUnlabelled(PackSegInputs):
    """Pack an image of the target domain: a SegDataSample with its meta data and no label.

    mmseg's data preprocessor needs a data sample per image but no label in it. A label that some transform loaded is
    refused, because an unlabelled target must never have opened one.

    >>> import pipa, pipa.mmseg
    >>> image, _ = pipa.toy.draw("target", 0)
    >>> packed = pipa.mmseg.PackUnlabelled()({"img": image, "img_shape": image.shape[:2]})
    >>> packed["inputs"].shape, "gt_sem_seg" in packed["data_samples"]
    (torch.Size([3, 128, 256]), False)
    """

    def __init__(self, **kwargs: Any) -> None:
        keys = ("img_path", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip", "flip_direction")
        kwargs.setdefault("meta_keys", keys)
        super().__init__(**kwargs)

    def transform(self, results: dict) -> dict:
        if "gt_seg_map" in results:
            raise DataError(
                f"{results.get('img_path')}: PackUnlabelled found a label; take LoadLabel / LoadAnnotations out of the "
                "target's pipeline"
            )
        packed = super().transform(results)
        if VALID in results and not results[VALID].all():
            mask = torch.from_numpy(np.ascontiguousarray(results[VALID]))
            packed["data_samples"].set_data({"valid_map": PixelData(data=mask[None])})
        soft_labels.pack(results, packed["data_samples"])
        return packed


@TRANSFORMS.register_module()
class PseudoMargins(BaseTransform):
    """Marks the margins of a target image, in which pseudo-labels will have weight 0. Put it before the crop.

    So a crop loses the rows of the ego vehicle only where it shows them; the settings `ignore_top` and `ignore_bottom`
    would blank the border of every crop. PackUnlabelled hands the mask on, PipaHook gives it to the iteration.

    Args:
        top, bottom, left, right: widths in pixels of the image at this place of the pipeline.

    >>> import pipa, pipa.mmseg
    >>> image, _ = pipa.toy.draw("target", 0)
    >>> sample = pipa.mmseg.PseudoMargins(bottom=28)({"img": image, "img_shape": image.shape[:2], "seg_fields": []})
    >>> sorted(set(sample) - {"img", "img_shape", "seg_fields"})
    ['valid_map']
    """

    def __init__(self, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> None:
        top, bottom, left, right = (whole(width, "PseudoMargins: widths") for width in (top, bottom, left, right))
        if min(top, bottom, left, right) < 0:
            raise ValueError(f"PseudoMargins: widths must be at least 0, got {top}, {bottom}, {left}, {right}")
        self.top, self.bottom, self.left, self.right = top, bottom, left, right

    def transform(self, results: dict) -> dict:
        height, width = results["img"].shape[:2]
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[self.top : max(height - self.bottom, 0), self.left : max(width - self.right, 0)] = 1
        if VALID in results:
            mask &= results[VALID]
        else:
            results.setdefault("seg_fields", []).append(VALID)  # crops and flips then treat it as they treat the image
        results[VALID] = mask
        return results
