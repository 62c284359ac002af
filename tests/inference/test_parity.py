"""What is predicted is what was tested: every shipped config, for files as people have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

import pipa
from pipa.commands import cli
from pipa.configs import list_configs
from pipa.inference import Segmenter
from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.run.train import evaluate_checkpoint, hush, load_config
from small_segmentors import checkpoint, pictures, scene, shrink, signature

# Whose groups run in `make test-fast` too.
FAST = {"toy_pipa", "gta2cs_hrda_pipa"}
SEEN: dict[str, np.ndarray] = {}


@METRICS.register_module()
class KeepLabels(BaseMetric):
    """Keeps what `pipa test` predicts."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        for sample in data_samples:
            SEEN[Path(sample["img_path"]).name] = sample["pred_sem_seg"]["data"].squeeze(0).cpu().numpy()
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {"images": float(len(results))}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("data")
    pictures(root / "images")
    return with_labels(root)


def with_labels(root: Path) -> Path:
    """A blank label of each picture in ``root/images``, and a list of them."""
    files = sorted((root / "images").iterdir())
    (root / "labels").mkdir()
    for file in files:
        with Image.open(file) as image:
            width, height = ImageOps.exif_transpose(image).size
        Image.fromarray(np.zeros((height, width), np.uint8)).save(root / "labels" / f"{file.name}.png")
    (root / "all.txt").write_text("".join(f"{file.name}\n" for file in files))
    return root


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setenv("PIPA_DATA", str(data))
    hush()


def groups() -> Iterator[Any]:
    """Configs by what decides their predictions; a group's configs differ in training alone."""
    found: dict[str, list[str]] = {}
    for name, _ in list_configs():
        found.setdefault(signature(load_config(name)), []).append(name)
    for names in found.values():
        marks = [] if set(names) & FAST else pytest.mark.slow
        yield pytest.param(names, id=f"{names[0]}+{len(names) - 1}", marks=marks)


def labels_of_test(config: Any, file: Path, data: Path, teacher: bool) -> dict[str, np.ndarray]:
    """Labels of `pipa test` on the pictures, through the config's own test pipeline."""
    config.test_dataloader.num_workers = 0
    config.test_dataloader.pop("persistent_workers", None)
    pipeline = config.test_dataloader.dataset.pipeline
    for step in pipeline:
        if step.type == "LoadImage":
            step.convert = True  # grey and RGBA: refused in a data set, taken as a picture
    named = describe(config)["classes"]  # a test refuses data of other classes than the checkpoint's
    classes = named or [f"c{i}" for i in range(config.model.decode_head.num_classes)]
    config.test_dataloader.dataset = dict(
        type="FolderDataset",
        data_root=str(data),
        list_file="all.txt",
        classes=classes,
        img_suffix="",
        pipeline=pipeline,
    )
    config.test_evaluator = dict(type="KeepLabels")
    config.log_level = "ERROR"
    SEEN.clear()
    assert evaluate_checkpoint(config, file, teacher)["images"] == len(list((data / "images").iterdir()))
    return dict(SEEN)


@pytest.mark.parametrize("names", groups())
def test_predict_is_test_pixel_by_pixel(names: list[str], data: Path, tmp_path: Path) -> None:
    config = shrink(load_config(names[0], work_dir=str(tmp_path / "work")))
    file = checkpoint(config, tmp_path / "random.pth", describe(config))
    out = tmp_path / "out"
    assert cli.main(["predict", str(file), str(data / "images"), "--out", str(out), "--teacher"]) == 0
    right = labels_of_test(config, file, data, teacher=True)
    segmenter = pipa.load(file, weights="teacher")
    kept = Segmenter.from_pretrained(segmenter.save_pretrained(tmp_path / "hub"))  # safetensors
    several = 0
    for name, label in right.items():
        stem = Path(name).stem
        written = np.asarray(Image.open(out / f"{stem}_label.png"))
        np.testing.assert_array_equal(written, label, err_msg=f"{names[0]} {name}")
        prediction = segmenter.predict(data / "images" / name)
        np.testing.assert_array_equal(prediction.label_hw, label)
        np.testing.assert_array_equal(kept.predict(data / "images" / name).confidence_hw, prediction.confidence_hw)
        with Image.open(data / "images" / name) as image:
            assert label.shape == ImageOps.exif_transpose(image).size[::-1]
            np.testing.assert_array_equal(
                prediction.image_hwc, np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            )
        several += len(np.unique(label)) > 1
    assert several == len(right)  # a network that says one thing everywhere would agree with anything


@pytest.mark.parametrize("resize", [None, dict(type="Resize", scale=(400, 100), keep_ratio=True)])
def test_a_narrow_picture_is_seen_as_a_test_sees_it(resize: dict[str, Any] | None, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, size in enumerate(((12, 500), (500, 14), (5, 200))):
        Image.fromarray(scene(*size, i)).save(tmp_path / "images" / f"{i}.png")
    config = load_config("toy_pipa", work_dir=str(tmp_path / "work"))
    if resize is not None:
        config.test_dataloader.dataset.pipeline.insert(1, ConfigDict(resize))
    file = checkpoint(config, tmp_path / "random.pth", describe(config))
    segmenter = pipa.load(file)
    for name, label in labels_of_test(config, file, with_labels(tmp_path), teacher=False).items():
        assert len(np.unique(label)) > 1
        np.testing.assert_array_equal(segmenter.predict(tmp_path / "images" / name).label_hw, label, err_msg=name)


def test_a_picture_too_narrow_to_be_resized_is_predicted(tmp_path: Path) -> None:
    """OpenCV refuses a side of less than a pixel, so a test cannot read it."""
    config = load_config("toy_pipa")
    config.test_dataloader.dataset.pipeline.insert(1, ConfigDict(type="Resize", scale=(64, 48), keep_ratio=True))
    segmenter = pipa.load(checkpoint(config, tmp_path / "random.pth", describe(config)))
    assert segmenter.predict(scene(2, 600)).label_hw.shape == (2, 600)
