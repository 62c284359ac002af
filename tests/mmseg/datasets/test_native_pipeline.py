"""Pipelines that run natively give the samples of the single transforms, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import layouts

pytest.importorskip("mmseg")

from mmcv.transforms import BaseTransform, Compose
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules

from pipa.configs import list_configs, path_of
from pipa.mmseg.datasets.check import innermost
from pipa.mmseg.datasets.draw import Draw
from pipa.mmseg.datasets.native_pipeline import Fused, fuse

register_all_modules(init_default_scope=True)
SIZE = (45, 67)


def pipeline(*middle: dict, crop: dict | None = None, flip: float | None = 0.5, labelled: bool = True) -> list[dict]:
    return [
        dict(type="LoadImage"),
        *([dict(type="LoadLabel")] if labelled else []),
        *middle,
        dict(type="SyncCrop", **{"crop_size": (20, 24), **(crop or {})}),
        *([] if flip is None else [dict(type="RandomFlip", prob=flip)]),
        dict(type="PackSegInputs" if labelled else "PackUnlabelled"),
    ]


def resize(*scale: int, keep_ratio: bool = True) -> dict:
    return dict(type="Resize", scale=scale, keep_ratio=keep_ratio)


MARGINS = dict(type="PseudoMargins", top=5, bottom=8, left=3, right=30)
PIPELINES = {
    "as stored": pipeline(crop=dict(cat_max_ratio=0.75)),
    "smaller": pipeline(resize(50, 30), crop=dict(cat_max_ratio=0.4)),
    "larger": pipeline(resize(131, 97)),
    "half": pipeline(resize(33, 22, keep_ratio=False)),
    "one axis": pipeline(resize(67, 90, keep_ratio=False), flip=None),
    "random size": pipeline(dict(type="RandomResize", scale=(70, 60), ratio_range=(0.7, 2.0), keep_ratio=True)),
    "always flipped": pipeline(resize(61, 47), flip=1.0),
    "padded": pipeline(resize(37, 25), crop=dict(crop_size=(30, 50), pad=True, pad_val=(1, 2, 3)), flip=1.0),
    "margins": pipeline(MARGINS, labelled=False),
    "margins, resized": pipeline(resize(90, 70), MARGINS, labelled=False, flip=1.0),
    "margins, padded": pipeline(MARGINS, labelled=False, crop=dict(crop_size=(60, 50), pad=True), flip=1.0),
    "margins larger than the image": pipeline(dict(MARGINS, bottom=99), labelled=False),
    "more draws afterwards": [*pipeline()[:-1], dict(type="PhotoMetricDistortion"), dict(type="PackSegInputs")],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.folder(tmp_path_factory.mktemp("d") / "set", count=5, size=SIZE)


def built(root: Path, steps: list[dict], rare: bool = False, **kwargs: Any) -> Any:
    labelled = any(step["type"] == "LoadLabel" for step in steps)
    inner = dict(type="FolderDataset", data_root=str(root), pipeline=steps, unlabelled=not labelled)
    inner.update(kwargs if "metainfo" in kwargs else dict(classes="classes.json") | kwargs)
    if rare:
        inner = dict(type="RareClassSampling", dataset=inner, min_pixels=50, min_crop_ratio=2.5)
    return DATASETS.build(inner)


def assert_same(a: dict, b: dict) -> None:
    assert torch.equal(a["inputs"], b["inputs"])
    one, two = a["data_samples"], b["data_samples"]
    assert one.metainfo == two.metainfo
    assert one.keys() == two.keys()
    for key in list(one.keys()):
        assert one.get(key).data.dtype == two.get(key).data.dtype
        assert torch.equal(one.get(key).data, two.get(key).data)


@pytest.mark.parametrize("name", PIPELINES)
def test_samples_are_those_of_the_single_transforms(name: str, root: Path) -> None:
    native, single = built(root, PIPELINES[name]), built(root, PIPELINES[name], fuse=False)
    assert isinstance(native.fused(), Fused)
    assert single.fused() is None
    for number in range(12):
        draw = Draw(number % 5, 3, 1, number)
        assert_same(native[draw], single[draw])


def test_rare_class_retries_are_the_same(root: Path) -> None:
    steps = pipeline(resize(60, 50), crop=dict(cat_max_ratio=0.5))
    native, single = built(root, steps, rare=True), built(root, steps, rare=True, fuse=False)
    for number in range(60):
        assert_same(native[Draw(0, 3, 0, number)], single[Draw(0, 3, 0, number)])


@pytest.mark.parametrize("kind", ["jpeg", "grey", "palette label", "id_map", "subset"])
def test_other_files_and_labels(kind: str, root: Path, tmp_path: Path) -> None:
    layouts.folder(tmp_path / "d", count=2, size=SIZE)
    load: dict[str, Any] = {}
    for path in sorted((tmp_path / "d").glob("*/*.png")):
        image = Image.open(path)
        image.load()
        if path.parent.name == "images":
            if kind == "jpeg":
                image.save(path, "JPEG")
            elif kind == "grey":
                load["convert"] = True
                image.convert("L").save(path)
        elif kind == "palette label":
            palette = Image.new("P", image.size)
            palette.putdata(list(image.getdata()))
            palette.putpalette(list(range(256)) * 3)
            palette.save(path)
    kwargs: dict[str, Any] = {}
    if kind == "id_map":
        kwargs["classes"] = dict(classes=["a", "b"], id_map={2: 0, 1: 1, 255: 255})
    if kind == "subset":
        kwargs = dict(type="GTADataset", seg_map_suffix=".png", metainfo=dict(classes=("sidewalk", "road")))
    steps = pipeline(resize(50, 40))
    steps[0].update(load)
    for number in range(4):
        draw = Draw(number % 2, 3, 0, number)
        native, single = built(tmp_path / "d", steps, **kwargs), built(tmp_path / "d", steps, fuse=False, **kwargs)
        assert_same(native[draw], single[draw])


@pytest.mark.parametrize("name", [name for name, _ in list_configs() if "_self_training" in name or "idda" in name])
def test_shipped_trainings_run_natively(name: str) -> None:
    config = Config.fromfile(str(path_of(name)))
    for loader_config in (config.train_dataloader, config.get("target_dataloader")):
        if loader_config is not None:
            dataset = innermost(loader_config["dataset"])
            for part in dataset.get("datasets") or [dataset]:
                found = fuse(Compose(part["pipeline"]).transforms)
                assert found is not None
                assert not found.loud


def test_what_is_not_of_the_form_runs_as_before() -> None:
    class Mine(BaseTransform):
        def transform(self, results: dict) -> dict:
            return results

    def transforms(steps: list) -> list:
        return Compose(steps).transforms

    assert fuse(transforms(pipeline())) is not None
    for steps in (
        pipeline()[1:],
        [*pipeline()[:2], Mine(), *pipeline()[2:]],
        pipeline(dict(resize(50, 40), interpolation="nearest")),
        pipeline(dict(type="Resize", scale_factor=0.5)),
        [*pipeline(flip=None)[:-1], dict(type="RandomFlip", prob=0.5, direction="vertical"), pipeline()[-1]],
        [dict(type="LoadImageFromFile"), *pipeline()[1:]],
    ):
        found = fuse(transforms(steps))
        assert found is None or "RandomFlip" in found.loud


def test_the_threads_of_old_configs_change_nothing_but_warn(root: Path) -> None:
    def samples(**sampler: Any) -> list[torch.Tensor]:
        config = dict(batch_size=2, num_workers=0, sampler=dict(type="DrawSampler", **sampler))
        stream = iter(Runner.build_dataloader(dict(config, dataset=built(root, pipeline())), seed=5))
        return [image for _ in range(3) for image in next(stream)["inputs"]]

    with pytest.warns(DeprecationWarning, match="set num_workers of the loader"):
        found = samples(threads=4, ahead=8)
    assert all(torch.equal(a, b) for a, b in zip(found, samples(), strict=True))
