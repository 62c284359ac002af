"""Labels are read one way, whoever reads them: id maps, colours, statistics and what became of them since."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import layouts

pytest.importorskip("mmseg")

from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.utils import register_all_modules

import pipa.mmseg  # noqa: F401  (registers)
from pipa.commands.cli import main
from pipa.environment import NOTE
from pipa.files.images import DataError, read_label
from pipa.functional import class_counts
from pipa.mmseg.datasets import transforms
from pipa.mmseg.datasets.check import check_loader
from pipa.mmseg.datasets.domain_dataset import DomainDataset

register_all_modules(init_default_scope=True)
RAW = dict(names=["road", "car"], id_map={10: 0, 20: 1}, colors=[[1, 2, 3], [4, 5, 6]])


@TRANSFORMS.register_module()
class OwnLoader(BaseTransform):
    """Somebody's transform that knows nothing of the data set."""

    def transform(self, results: dict) -> dict:
        results["gt_seg_map"] = np.asarray(Image.open(results["seg_map_path"]).convert("L"))
        results["seg_fields"].append("gt_seg_map")
        return results


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for i in range(4):
        layouts.image(root / f"images/{i}.png", i)
        layouts.label(root / f"labels/{i}.png", i, ids=(10, 20, 20, 30))
        raw = np.asarray(Image.open(root / f"labels/{i}.png"))
        colors = np.zeros((*raw.shape, 3), np.uint8)
        colors[raw == 10], colors[raw == 20], colors[raw == 30] = (1, 2, 3), (4, 5, 6), (9, 9, 9)
        (root / "colors").mkdir(exist_ok=True)
        Image.fromarray(colors).save(root / f"colors/{i}.png")
    (root / "classes.json").write_text(json.dumps(RAW))
    return root


def dataset(root: Path, loader: str = "LoadLabel", **kwargs: Any) -> Any:
    pipeline = [dict(type="LoadImage"), dict(type=loader), dict(type="PackSegInputs")]
    config = dict(type="FolderDataset", data_root=str(root), classes="classes.json", pipeline=pipeline)
    return DATASETS.build({**config, **kwargs})


def counts(sample: dict) -> list[int]:
    return class_counts(sample["data_samples"].gt_sem_seg.data, 2).tolist()


COLORS = dict(labels="colors", label_format="colors")


@pytest.mark.parametrize("kwargs", [{}, COLORS, dict(classes=[f"c{i}" for i in range(300)])])
def test_a_loader_that_does_not_know_the_map_is_refused(root: Path, kwargs: dict) -> None:
    with pytest.raises(DataError, match=r"LoadAnnotations in the pipeline does not know; use dict\(type='LoadLabel'\)"):
        dataset(root, "LoadAnnotations", **{**kwargs, **({"ignore_index": 65535} if "classes" in kwargs else {})})
    wrapped = dict(type="RandomApply", transforms=[dict(type="LoadAnnotations")], prob=1.0)
    if "classes" not in kwargs:
        with pytest.raises(DataError, match="LoadAnnotations"):
            dataset(root, pipeline=[dict(type="LoadImage"), wrapped, dict(type="PackSegInputs")], **kwargs)
        with pytest.raises(DataError, match="something else than LoadLabel has loaded"):
            dataset(root, "OwnLoader", **kwargs)[0]


def test_map_and_colours_give_the_same_labels(root: Path) -> None:
    for i in range(4):
        assert counts(dataset(root)[i]) == counts(dataset(root, **COLORS)[i])


def test_a_subset_of_the_classes_is_chosen_by_classes(root: Path) -> None:
    with pytest.raises(ValueError, match=r"metainfo=\{'classes': ...\} is not taken.*classes\.json.*with their ids"):
        dataset(root, metainfo=dict(classes=("car",)))
    chosen = dataset(root, classes=[dict(name="car", ids=[20])], metainfo=dict(year=2026))
    assert (chosen.metainfo["classes"], chosen.metainfo["year"]) == (("car",), 2026)
    found = chosen[0]["data_samples"].gt_sem_seg.data
    assert class_counts(found, 1).tolist() == [counts(dataset(root)[0])[1]]
    assert set(found.unique().tolist()) == {0, 255}


def test_reduce_zero_label_is_refused_at_the_start(root: Path) -> None:
    with pytest.raises(DataError, match="reduce_zero_label=True"):
        dataset(root, reduce_zero_label=True)


def test_the_share_of_unlisted_colours_is_told(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(transforms, "print_log", lambda text, **_: told.append(text))
    share = np.mean(np.asarray(Image.open(root / "colors/0.png"))[..., 0] == 9)
    loaded = dataset(root, **COLORS)
    for _ in range(2):
        loaded[0]
    assert len(told) == 1
    assert f"0.png: {100 * share:.1f} % of the pixels have a colour of no class" in told[0]
    smooth = Image.open(root / "colors/0.png").resize((61, 41), Image.Resampling.BICUBIC)
    smooth.save(root / "colors/0.png")
    folder, table = str(root / "colors"), str(root / "classes.json")
    assert main(["stats", folder, "--classes", table, "--label-format", "colors", "--workers", "1"]) == 0
    assert "4 of 4 labels have colours of no class; the worst is" in capsys.readouterr().err


def test_the_share_of_unlisted_ids_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = np.full((40, 60), 10, np.uint8)
    label[:10], label[10:12] = 30, 31  # a quarter and a twentieth
    Image.fromarray(label).save(root / "labels/2.png")
    for i in (0, 1, 3):
        label = np.full((40, 60), 20, np.uint8)
        label[:20] = 255  # says itself that it does not count
        Image.fromarray(label).save(root / f"labels/{i}.png")
    assert main(["stats", str(root / "labels"), "--classes", str(root / "classes.json"), "--workers", "1"]) == 0
    told = f"{root / 'labels/2.png'}: 30.0 % of the pixels have an id that the id map does not list and are ignored"
    assert (
        f"1 of 4 labels have ids that the id map does not list; the worst is {told}: 30, 31" in capsys.readouterr().err
    )
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 60, 3), np.uint8)).save(root / f"images/{i}.png")
    built = dict(type="FolderDataset", data_root=str(root), classes="classes.json")
    pipeline = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")]
    findings = check_loader("train_dataloader", dict(dataset=dict(**built, pipeline=pipeline)), workers=1)
    (found,) = (finding for finding in findings if "id map does not list" in finding.found)
    assert (found.level, found.found) == (
        NOTE,
        "7.5 % of all label pixels have an id that the id map does not list and are ignored; most in "
        + told
        + ": 30, 31",
    )


def rare(root: Path, **kwargs: Any) -> Any:
    return DATASETS.build(dict(type="RareClassSampling", dataset=dataset(root, **kwargs), min_pixels=5))


def stats(root: Path, *more: str, folder: str = "labels") -> None:
    assert main(["stats", str(root / folder), "--out", str(root), "--workers", "1", *more]) == 0


def test_statistics_know_the_map(root: Path) -> None:
    counted = rare(root)
    table = str(root / "classes.json")
    stats(root)  # raw ids
    with pytest.raises(DataError, match=rf"id_map=None, but .*run `pipa stats .*labels.*--classes {table}`"):
        rare(root)
    stats(root, "--classes", table)
    fresh = rare(root)
    assert fresh.classes == counted.classes
    assert np.allclose(fresh.probabilities, counted.probabilities)
    assert fresh.images == counted.images
    with pytest.raises(DataError, match=r"id_map=.*--label-format colors"):
        rare(root, **COLORS)
    stats(root, "--classes", table, "--label-format", "colors", folder="colors")
    assert rare(root, **COLORS).images == counted.images


def test_stale_statistics_are_refused(root: Path, tmp_path: Path) -> None:
    table = root / "classes.json"
    stats(root, "--classes", str(table))
    rare(root)
    os.utime(root / "labels/1.png")  # another time, the same content: a copy
    moved = tmp_path / "moved"
    shutil.copytree(root, moved, copy_function=shutil.copyfile)
    rare(moved)
    layouts.label(root / "labels/1.png", 99, ids=(10, 20))
    with pytest.raises(DataError, match=r"labels/1\.png has changed since it was counted; run `pipa stats"):
        rare(root)
    table.write_text(json.dumps({**RAW, "id_map": {10: 1, 20: 0}}))
    with pytest.raises(DataError, match="id_map="):
        rare(moved, classes=str(table))


def test_statistics_of_other_tools(root: Path) -> None:
    """They say nothing about what they were counted from."""
    plain = dict(classes=["a", "b"], labels="plain")
    for i in range(4):
        layouts.label(root / f"plain/{i}.png", i, ids=(0, 1))
    entries = [{"0": 9, "1": 9, "file": f"x/plain/{i}.png"} for i in range(4)]
    path = root / "sample_class_stats.json"
    path.write_text(json.dumps(entries))
    assert rare(root, **plain).classes == [0, 1]
    with pytest.raises(DataError, match="nothing says that it was counted with an id map"):
        rare(root, labels="plain")
    path.write_text(json.dumps([{**entries[0], "7": 3}, *entries[1:]]))
    with pytest.raises(DataError, match=r"counts class 7 in x/plain/0\.png, but the data set has the classes 0\.\.1"):
        rare(root, **plain)
    path.write_text(json.dumps(entries))
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match="has changed since it was counted"):
        rare(root, **plain)


def test_statistics_follow_a_choice_of_classes(root: Path) -> None:
    gta = root / "gta"
    for i in range(3):
        layouts.image(gta / f"images/{i}.png", i)
        layouts.label(gta / f"labels/{i}.png", i, ids=(7, 26, 26))
    assert main(["convert", "gta", str(gta), "--workers", "1"]) == 0
    pipeline = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")]
    chosen = dict(type="GTADataset", data_root=str(gta), pipeline=pipeline, metainfo=dict(classes=("car", "road")))
    with_files = DATASETS.build(dict(type="RareClassSampling", dataset=chosen, min_pixels=5))
    (gta / "sample_class_stats.json").unlink()
    counted = DATASETS.build(dict(type="RareClassSampling", dataset=chosen, min_pixels=5))
    assert with_files.classes == counted.classes
    assert with_files.images == counted.images


@DATASETS.register_module()
class Repeats(BaseSegDataset):
    """Somebody's data set in whose list an image stands twice."""

    def load_data_list(self) -> list[dict]:
        found = super().load_data_list()
        return [*found, dict(found[1])]


def test_an_image_twice_counts_twice_with_statistics_and_without(root: Path) -> None:
    steps = [dict(type="LoadImage"), dict(type="LoadLabel", num_classes=2), dict(type="PackSegInputs")]
    for i in range(4):
        layouts.label(root / f"plain/{i}.png", i, ids=(0, 1, 1))
    config = dict(type="Repeats", data_root=str(root), img_suffix=".png", metainfo=dict(classes=("a", "b")))
    config |= dict(data_prefix=dict(img_path="images", seg_map_path="plain"), pipeline=steps)
    sampling = dict(type="RareClassSampling", dataset=config, min_pixels=5)
    counted = DATASETS.build(sampling)
    stats(root, folder="plain")
    with_files = DATASETS.build(sampling)
    assert {c: sorted(places) for c, places in with_files.images.items()} == counted.images
    assert counted.images[1] == [0, 1, 2, 3, 4]
    assert np.array_equal(with_files.probabilities, counted.probabilities)


def test_statistics_that_count_a_label_twice_are_refused(root: Path) -> None:
    plain = dict(classes=["a", "b"], labels="plain")
    for i in range(4):
        layouts.label(root / f"plain/{i}.png", i, ids=(0, 1))
    stats(root, folder="plain")
    path = root / "sample_class_stats.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([*entries, entries[2]]))
    with pytest.raises(DataError, match=r"sample_class_stats\.json: counts .*plain/2\.png more than once; run `"):
        rare(root, **plain)


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".pgm"])
def test_statistics_of_labels_that_are_no_png(root: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    for path in list((root / "labels").iterdir()):
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    counted = rare(root, label_suffix=suffix)
    stats(root, "--suffix", suffix, "--classes", str(root / "classes.json"))
    assert "4 of 4 labels have ids that the id map does not list" in capsys.readouterr().err
    with_files = rare(root, label_suffix=suffix)
    assert with_files.images == counted.images
    assert np.array_equal(with_files.probabilities, counted.probabilities)
    (root / f"labels/2{suffix}").write_bytes(b"no label")
    assert main(["stats", str(root / "labels"), "--suffix", suffix]) == 1
    assert f"2{suffix}: expected an image, found 8 bytes" in capsys.readouterr().err


MANY = [f"c{i}" for i in range(300)]
MANY_META = dict(classes=MANY, palette=[[i % 256, i // 256, 0] for i in range(300)])


@DATASETS.register_module()
class ManyClasses(DomainDataset):
    METAINFO = MANY_META


def many(root: Path) -> np.ndarray:
    """Labels of 300 classes in which the classes 255 and 256 are; the first label."""
    values = np.random.default_rng(0).choice([7, 255, 256, 299, 65535], (2, 40, 60)).astype(np.uint16)
    for i, label in enumerate(values):
        (root / "many").mkdir(exist_ok=True)
        Image.fromarray(label).save(root / f"many/{i}.png")
        layouts.image(root / f"pictures/{i}.png", i)
    return values


def test_class_255_counts_where_another_id_is_ignored(root: Path) -> None:
    values = many(root)
    table = root / "many.json"
    table.write_text(json.dumps(dict(classes=[dict(name=name, ids=[i]) for i, name in enumerate(MANY)])))
    settings = dict(images="pictures", labels="many", classes=str(table), ignore_index=65535)
    counted = rare(root, **settings)
    stats(root, "--classes", str(table), "--ignore-index", "65535", folder="many")
    entries = json.loads((root / "sample_class_stats.json").read_text())
    assert [entry["255"] for entry in entries] == [(label == 255).sum() for label in values]
    with_files = rare(root, **settings)
    assert with_files.images == counted.images
    assert 255 in with_files.classes


@pytest.mark.parametrize("ignore", [65535, 400])
def test_a_choice_of_classes_where_another_id_is_ignored(root: Path, ignore: int) -> None:
    """mmseg marks what is not chosen with 255, which is a class here: c256."""
    values = np.where(many(root) == 65535, ignore, many(root)).astype(np.uint16)
    for i, label in enumerate(values):
        Image.fromarray(label).save(root / f"many/{i}.png")
    steps = [dict(type="LoadImage"), dict(type="LoadLabel")]
    config = dict(type="ManyClasses", data_root=str(root), img_suffix=".png", seg_map_suffix=".png", pipeline=steps)
    config |= dict(data_prefix=dict(img_path="pictures", seg_map_path="many"), ignore_index=ignore)
    config |= dict(metainfo=dict(classes=[name for name in MANY if name != "c7"]))
    table = np.append(np.arange(300) - (np.arange(300) > 7), np.full(65536 - 300, ignore))
    table[7] = ignore
    label = DATASETS.build(config)[0]["gt_seg_map"]
    assert (label == table[values[0]]).all()
    counted = DATASETS.build(dict(type="RareClassSampling", dataset=config, min_pixels=5))
    stats(root, "--ignore-index", str(ignore), folder="many")
    with_files = DATASETS.build(dict(type="RareClassSampling", dataset=config, min_pixels=5))
    assert with_files.images == counted.images
    assert sorted(with_files.classes) == [254, 255, 298]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint32, np.uint64])
def test_labels_of_any_integer_go_straight_into_the_counts(tmp_path: Path, dtype: Any) -> None:
    label = np.array([[0, 1, 1], [2, 255, 2]])
    assert class_counts(label.astype(dtype), 3).tolist() == [1, 2, 2]
    mmcv_like = Image.fromarray(label.astype(np.uint16))
    mmcv_like.save(tmp_path / "a.png")
    assert class_counts(read_label(tmp_path / "a.png"), 3).tolist() == [1, 2, 2]


def test_other_dtypes_are_named() -> None:
    with pytest.raises(TypeError, match="label: expected an integer tensor, got Float8"):
        class_counts(torch.zeros(2, 2).to(torch.float8_e4m3fn), 3)
