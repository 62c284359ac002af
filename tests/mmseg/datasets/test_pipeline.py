"""Normalise, resize and crop against the released pipeline (golden/extras/pipeline.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

from mmcv.transforms import Resize
from mmseg.datasets.transforms import RandomCrop
from mmseg.models import SegDataPreProcessor
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules
from PIL import Image

import layouts
import pipa.mmseg  # noqa: F401  (registers)
from pipa.mmseg.datasets.draw import Draw
from pipa.mmseg.datasets.transforms import SyncCrop

register_all_modules(init_default_scope=True)


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "extras/pipeline.npz"))


def test_normalise(recorded: dict[str, np.ndarray]) -> None:
    image = torch.from_numpy(recorded["img_bgr"]).permute(2, 0, 1)
    preprocessor = SegDataPreProcessor(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    inputs = preprocessor(dict(inputs=[image]))["inputs"][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(inputs, recorded["normalized"], atol=1e-5)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_resize(recorded: dict[str, np.ndarray], case: int) -> None:
    width, height = recorded[f"resize{case}_scale_wh"]
    sample = dict(img=recorded["img_bgr"], gt_seg_map=recorded["label"], seg_fields=["gt_seg_map"])
    out = Resize(scale=(int(width), int(height)), keep_ratio=True)(sample)
    assert (out["img"] == recorded[f"resize{case}_img"]).all()
    assert (out["gt_seg_map"] == recorded[f"resize{case}_label"]).all()


@pytest.mark.parametrize("case", [0, 1, 2])
def test_crop(recorded: dict[str, np.ndarray], case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = recorded[f"crop{case}_boxes"]
    # the released crop draws the top, then the left offset
    offsets = iter([int(v) for top, _, left, _ in boxes for v in (top, left)])
    monkeypatch.setattr(np.random, "randint", lambda low, high: next(offsets))
    label = recorded[f"crop{case}_label"]
    crop = SyncCrop((48, 64), cat_max_ratio=0.75)
    image = recorded["img_bgr"]
    top, _, left, _ = boxes[-1]
    out = crop(dict(img=image, gt_seg_map=recorded["label"], seg_fields=["gt_seg_map"]))
    assert (out["gt_seg_map"] == label).all()
    assert (out["img"] == image[top : top + 48, left : left + 64]).all()
    assert next(offsets, None) is None  # as many candidates as the released code drew


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("where", ["data set", "LoadLabel", "SyncCrop"])
def test_ignored_pixels_are_no_class_whatever_their_id(tmp_path: Path, fuse: bool, where: str) -> None:
    """The same labels with another ignored id give the same crops: ignored pixels choose none and fill none."""
    root = layouts.folder(tmp_path / "set", 6)
    for i in range(6):
        label = np.full(layouts.SIZE, 255, np.uint8)
        label[:, 30:] = i % 3
        label[:3] = 2
        (root / "other").mkdir(exist_ok=True)
        Image.fromarray(label).save(root / f"labels/00{i}.png")
        Image.fromarray(np.where(label == 255, 200, label).astype(np.uint8)).save(root / f"other/00{i}.png")

    def samples(folder: str, ignore: int) -> list[dict]:
        crop = dict(type="SyncCrop", crop_size=(20, 64), cat_max_ratio=0.8, pad=True)  # wider than the image
        load = dict(type="LoadLabel", **({"ignore_index": ignore} if where == "LoadLabel" else {}))
        crop |= {"ignore_index": ignore} if where == "SyncCrop" else {}
        own = 255 if where == "LoadLabel" else ignore
        config = dict(type="FolderDataset", data_root=str(root), labels=folder, classes="classes.json", fuse=fuse)
        dataset = DATASETS.build(dict(**config, ignore_index=own, pipeline=[dict(type="LoadImage"), load, crop]))
        assert (dataset.fused() is not None) == fuse
        return [dataset[Draw(n % 6, 1, 0, n)] for n in range(30)]

    for one, two in zip(samples("labels", 255), samples("other", 200), strict=True):
        assert (one["img"] == two["img"]).all()
        assert (np.where(one["gt_seg_map"] == 255, 200, one["gt_seg_map"]) == two["gt_seg_map"]).all()


@pytest.mark.parametrize("ratio", [1.0, 0.75, 0.3])
def test_crop_draws_as_mmseg_does(ratio: float) -> None:
    """Also where the ratio is never met: eleven boxes are drawn and the last one is used."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (50, 70, 3), dtype=np.uint8)
    label = np.kron(generator.choice([0, 1, 255], (5, 7), p=[0.8, 0.15, 0.05]), np.ones((10, 10))).astype(np.uint8)
    for seed in range(20):
        outs = []
        for transform in (SyncCrop((20, 30), ratio), RandomCrop((20, 30), ratio)):
            np.random.seed(seed)  # noqa: NPY002
            outs.append(transform(dict(img=image, gt_seg_map=label, seg_fields=["gt_seg_map"])))
        assert (outs[0]["img"] == outs[1]["img"]).all()
        assert (outs[0]["gt_seg_map"] == outs[1]["gt_seg_map"]).all()
