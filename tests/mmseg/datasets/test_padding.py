"""Pixels that no image has weigh 0 in the pseudo-label, whichever transform padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

from mmcv.transforms import BaseTransform
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.utils import register_all_modules

import layouts
import pipa.mmseg  # noqa: F401
from pipa.files.images import DataError
from pipa.mmseg.datasets.draw import Draw
from pipa.mmseg.datasets.target_pipeline import as_target
from pipa.mmseg.engine.valid_mask import valid_mask

register_all_modules(init_default_scope=True)
SIZE = (20, 30)
LOAD, PACK = dict(type="LoadImage"), dict(type="PackUnlabelled")
MMSEG_LOAD, MMSEG_PACK = dict(type="LoadImageFromFile"), dict(type="PackSegInputs")
PAD = dict(type="Pad", size=(40, 32), pad_val=dict(img=0, seg=0))  # (width, height)
QUIET = dict(
    type="PhotoMetricDistortion", brightness_delta=0, contrast_range=(1, 1), saturation_range=(1, 1), hue_delta=1
)
CROP = dict(type="RandomCrop", crop_size=(30, 34))
FLIP = dict(type="RandomFlip", prob=0.5)
SYNC = dict(type="SyncCrop", crop_size=(32, 40), pad=True)
# What pads, and the transforms around it. Images hold no 0, so that 0 is padding.
PIPELINES: dict[str, list[dict[str, Any]]] = {
    "SyncCrop": [LOAD, SYNC, PACK],
    "SyncCrop, flipped": [LOAD, SYNC, dict(type="RandomFlip", prob=1.0), PACK],
    "SyncCrop, one by one": [LOAD, QUIET, SYNC, PACK],
    "Pad, flipped": [LOAD, PAD, dict(type="RandomFlip", prob=1.0), PACK],
    "Pad and crop": [LOAD, PAD, dict(type="SyncCrop", crop_size=(24, 36)), PACK],
    "Pad behind a native start": [LOAD, dict(type="SyncCrop", crop_size=(18, 30)), PAD, PACK],
    "mmseg's": [MMSEG_LOAD, PAD, dict(type="RandomCrop", crop_size=(30, 34)), MMSEG_PACK],
    "mmseg's, draws crops again": [
        MMSEG_LOAD,
        PAD,
        dict(type="RandomCrop", crop_size=(30, 34), cat_max_ratio=0.7),
        PACK,
    ],
    "resized and padded": [
        MMSEG_LOAD,
        dict(type="Resize", scale=(60, 40)),
        dict(type="Pad", size_divisor=32),
        MMSEG_PACK,
    ],
    "rotated": [MMSEG_LOAD, dict(type="RandomRotate", prob=1.0, degree=(90, 90), pad_val=0), MMSEG_PACK],
    "not padded": [LOAD, dict(type="SyncCrop", crop_size=(12, 10)), PACK],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images without a zero."""
    root = layouts.folder(tmp_path_factory.mktemp("padding") / "target", count=2, size=SIZE)
    for i in range(2):
        pixels = np.random.default_rng(i).integers(60, 200, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:03d}.png")
    return root


def dataset(root: Path, pipeline: list[dict[str, Any]], own: bool) -> Any:
    if own:
        return DATASETS.build(
            dict(type="FolderDataset", data_root=str(root), classes="classes.json", unlabelled=True, pipeline=pipeline)
        )
    made = DATASETS.build(
        dict(
            type="BaseSegDataset",
            data_root=str(root),
            data_prefix=dict(img_path="images", seg_map_path="labels"),
            img_suffix=".png",
            metainfo=dict(classes=("road", "car", "sign")),
            pipeline=pipeline,
        )
    )
    as_target(made)
    return made


def masks(samples: list[dict[str, Any]], size: tuple[int, int] = (72, 72)) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images after the preprocessor (in 0..255) and the mask the iteration gets."""
    pre = SegDataPreProcessor(size=size, pad_val=0, seg_pad_val=255)
    batch = pre(dict(inputs=[s["inputs"] for s in samples], data_samples=[s["data_samples"] for s in samples]), True)
    return batch["inputs"], valid_mask(batch["data_samples"])


@pytest.mark.parametrize("own", [True, False], ids=["FolderDataset", "BaseSegDataset"])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_mask_is_where_the_image_is(name: str, own: bool, root: Path) -> None:
    data = dataset(root, PIPELINES[name], own)
    for number in range(4):
        images, mask = masks([data[Draw(0, 3, 1, number)], data[Draw(1, 3, 1, number + 9)]])
        assert mask is not None
        assert torch.equal(mask > 0, (images > 0).all(1)), name
    samples = [data[Draw(0, 3)], data[Draw(1, 3)]]
    packed = ["valid_map" in sample["data_samples"] for sample in samples]
    assert packed == [name != "not padded"] * 2
    if name == "not padded":
        assert masks(samples, (12, 10))[1] is None  # nothing to tell


def test_native_and_single_transforms_agree(root: Path) -> None:
    for size, margins in (((32, 40), []), ((26, 24), [dict(type="PseudoMargins", top=3, left=4)])):
        steps = [
            LOAD,
            *margins,
            dict(type="SyncCrop", crop_size=size, pad=True),
            dict(type="RandomFlip", prob=0.5),
            PACK,
        ]
        native = dataset(root, steps, own=True)
        assert native.fused() is not None
        single = dataset(root, steps, own=True)
        single.fuse = False
        for number in range(6):
            one, two = (data[Draw(number % 2, 5, 1, number)] for data in (native, single))
            assert torch.equal(one["inputs"], two["inputs"])
            assert torch.equal(one["data_samples"].valid_map.data, two["data_samples"].valid_map.data)


def test_margins_and_padding_join(root: Path) -> None:
    for first in (True, False):
        margins = dict(type="PseudoMargins", top=2, right=5)
        steps = [LOAD, *([margins, PAD] if first else [PAD, margins]), PACK]
        mask = dataset(root, steps, own=True)[0]["data_samples"].valid_map.data[0].numpy()
        expected = np.zeros((32, 40), np.uint8)
        expected[2:20, : 25 if first else 30] = 1  # the right margin lies in the image, or in the padding
        assert np.array_equal(mask, expected)


@TRANSFORMS.register_module()
class ImageOnlyPad(BaseTransform):
    """A transform of a user that forgets the label."""

    def transform(self, results: dict) -> dict:
        results["img"] = np.pad(results["img"], ((0, 4), (0, 0), (0, 0)))
        return results


def test_a_transform_that_forgets_the_label_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"ImageOnlyPad made the image 24x30 but a label map 20x30"):
        dataset(root, [LOAD, dict(type="ImageOnlyPad"), PACK], own=True)[0]


def test_labels_of_a_target_are_not_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any) -> None:
        raise AssertionError("a label of the target was opened")

    monkeypatch.setattr("mmseg.datasets.transforms.LoadAnnotations._load_seg_map", opened)
    steps = [MMSEG_LOAD, dict(type="LoadAnnotations"), dict(type="RandomCrop", crop_size=(9, 9)), MMSEG_PACK]
    sample = dataset(root, steps, own=False)[0]
    assert "gt_sem_seg" not in sample["data_samples"]
    assert sample["inputs"].shape == (3, 9, 9)
