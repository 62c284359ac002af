"""Layouts, pairing, unlabelled targets, draws, crops and rare class sampling of pipa.mmseg's data sets."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import layouts

pytest.importorskip("mmseg")

from mmengine.runner import Runner
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules

import pipa.mmseg  # noqa: F401
from pipa.files import images
from pipa.files.images import DataError
from pipa.mmseg.datasets import native_pipeline
from pipa.mmseg.datasets.domains import CITYSCAPES, SYNTHIA_13, SYNTHIA_16, inside
from pipa.mmseg.datasets.draw import Draw
from pipa.mmseg.datasets.folder import load_classes
from pipa.mmseg.datasets.samplers import DrawSampler
from pipa.mmseg.datasets.transforms import SyncCrop
from pipa.mmseg.evaluation.metrics import DomainIoUMetric

register_all_modules(init_default_scope=True)

LABELLED = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    dict(type="SyncCrop", crop_size=(20, 24), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
UNLABELLED = [
    dict(type="LoadImage"),
    dict(type="SyncCrop", crop_size=(20, 24)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]


def folder_config(root: Path, **kwargs: object) -> dict:
    config = dict(
        type="FolderDataset", data_root=str(root), classes="classes.json", list_file="lists/all.txt", pipeline=LABELLED
    )
    return {**config, **kwargs}


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that the loading transforms decode from now on."""
    opened: list[str] = []
    for name in ("read_image", "read_label", "read_color_label"):
        real = getattr(images, name)
        monkeypatch.setattr(images, name, lambda path, *a, real=real: opened.append(str(path)) or real(path, *a))
    load = native_pipeline.load_crop

    def native(name: str, image: str, label: str | None, *rest: object) -> object:
        opened.extend(path for path in (image, label) if path is not None)
        return load(name, image, label, *rest)

    monkeypatch.setattr(native_pipeline, "load_crop", native)
    return opened


OFFICIAL = {
    "GTADataset": ([("images/00001.png", "labels/00001_labelTrainIds.png")], {}),
    "SynthiaDataset": ([("RGB/0000000.png", "GT/LABELS/0000000_labelTrainIds.png")], {}),
    "CityscapesDomainDataset": (
        [
            ("leftImg8bit/val/bonn/b_leftImg8bit.png", "gtFine/val/bonn/b_gtFine_labelTrainIds.png"),
            ("leftImg8bit/val/ulm/u_leftImg8bit.png", "gtFine/val/ulm/u_gtFine_labelTrainIds.png"),
        ],
        dict(split="val"),
    ),
    "ACDCDataset": (
        [
            (f"rgb_anon/{c}/train/GP1/{c}_rgb_anon.png", f"gt/{c}/train/GP1/{c}_gt_labelTrainIds.png")
            for c in ("fog", "night", "rain", "snow")
        ],
        dict(split="train"),
    ),
    "DarkZurichDomainDataset": (
        [("rgb_anon/val/night/GP/f_rgb_anon.png", "gt/val/night/GP/f_gt_labelTrainIds.png")],
        dict(split="val"),
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_layout(name: str, tmp_path: Path) -> None:
    pairs, settings = OFFICIAL[name]
    for i, (img, lab) in enumerate(pairs):
        layouts.image(tmp_path / img, i)
        layouts.label(tmp_path / lab, i, ids=(0, 7, 18, 255))
    layouts.image(tmp_path / "rgb_anon/fog/train_ref/GP1/ref_rgb_anon.png")  # never part of the domain
    dataset = DATASETS.build(dict(type=name, data_root=str(tmp_path), pipeline=LABELLED, **settings))
    assert len(dataset) == len(pairs)
    assert dataset.metainfo["classes"] == CITYSCAPES["classes"]
    for i, (img, lab) in enumerate(pairs):
        info = dataset.get_data_info(i)
        assert (info["img_path"], info["seg_map_path"]) == (str(tmp_path / img), str(tmp_path / lab))
    assert dataset[0]["data_samples"].gt_sem_seg.data.shape == (1, 20, 24)

    for _, lab in pairs:
        (tmp_path / lab).unlink()
    with pytest.raises(DataError, match="does not exist"):
        DATASETS.build(dict(type=name, data_root=str(tmp_path), pipeline=LABELLED, **settings))
    target = DATASETS.build(dict(type=name, data_root=str(tmp_path), pipeline=UNLABELLED, unlabelled=True, **settings))
    assert "seg_map_path" not in target.get_data_info(0)
    assert "gt_sem_seg" not in target[0]["data_samples"]


def test_acdc_conditions_and_joined_layout(tmp_path: Path) -> None:
    for c in ("fog", "night"):
        layouts.image(tmp_path / f"rgb_anon/{c}/train/G/{c}_rgb_anon.png")
    config = dict(type="ACDCDataset", data_root=str(tmp_path), unlabelled=True, pipeline=UNLABELLED)
    assert len(DATASETS.build({**config, "conditions": ["night"]})) == 1
    with pytest.raises(DataError, match="snow/train"):
        DATASETS.build({**config, "conditions": ["snow"]})
    with pytest.raises(ValueError, match="dust"):
        DATASETS.build({**config, "conditions": ["dust"]})
    shutil.rmtree(tmp_path / "rgb_anon")
    layouts.image(tmp_path / "rgb_anon/train/a_rgb_anon.png")
    assert len(DATASETS.build(config)) == 1


def test_target_never_opens_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layouts.folder(tmp_path / "d")
    opened = watch(monkeypatch)
    for path in (root / "labels").iterdir():
        path.write_bytes(b"not even an image")
    dataset = DATASETS.build(folder_config(root, pipeline=UNLABELLED, unlabelled=True))
    for i in range(len(dataset)):
        dataset[i], dataset[Draw(i)]
    assert len(opened) == 8
    assert {Path(path).parent.name for path in opened} == {"images"}
    with pytest.raises(DataError, match="unlabelled"):
        DATASETS.build(folder_config(root, unlabelled=True))[0]


def test_unlabelled_batch_passes_the_preprocessor(tmp_path: Path) -> None:
    from mmseg.models import SegDataPreProcessor

    root = layouts.folder(tmp_path / "d", labelled=False)
    config = folder_config(root, pipeline=UNLABELLED, unlabelled=True)
    loader = Runner.build_dataloader(
        dict(dataset=config, sampler=dict(type="DrawSampler", stream=1), batch_size=2, num_workers=0), seed=3
    )
    batch = SegDataPreProcessor(mean=[0.0] * 3, std=[1.0] * 3, bgr_to_rgb=True, size=(20, 24))(next(iter(loader)), True)
    assert batch["inputs"].shape == (2, 3, 20, 24)
    assert "gt_sem_seg" not in batch["data_samples"][0]


def test_folder_colors_id_map_and_many_classes(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "d", count=1)
    stored = np.array(Image.open(root / "labels/000.png"))
    load = [dict(type="LoadLabel")]

    def ids(**kwargs: object) -> np.ndarray:
        return DATASETS.build(folder_config(root, pipeline=load, **kwargs))[0]["gt_seg_map"]

    assert (ids() == stored).all()
    mapped = ids(classes=dict(classes=["a", "b"], id_map={2: 0, 1: 1, 255: 255}))
    assert (mapped == np.array([255, 1, 0] + [255] * 253)[stored]).all()

    colors = np.zeros((*stored.shape, 3), np.uint8) + 99
    for c in range(3):
        colors[stored == c] = (c, 2 * c, 3 * c)
    Image.fromarray(colors).save(root / "labels/000.png")
    assert (ids(label_format="colors") == stored).all()

    wide = stored.astype(np.uint16)
    wide[stored == 255], wide[stored == 2] = 65535, 299
    Image.fromarray(wide).save(root / "labels/000.png")
    many = [f"class {i}" for i in range(300)]
    assert (ids(classes=many, ignore_index=65535) == wide).all()
    with pytest.raises(ValueError, match="ignore_index 255"):
        ids(classes=many)


def test_class_subset_keeps_the_range_check(tmp_path: Path) -> None:
    layouts.image(tmp_path / "images/1.png")
    path = layouts.label(tmp_path / "labels/1_labelTrainIds.png", ids=(0, 13, 18))
    stored = np.array(Image.open(path))
    config = dict(type="GTADataset", data_root=str(tmp_path), pipeline=[dict(type="LoadLabel")])
    label = DATASETS.build({**config, "metainfo": dict(classes=("car", "road"))})[0]["gt_seg_map"]
    assert set(np.unique(label)) == {0, 1, 255}
    assert ((label == 0) == (stored == 13)).all()
    assert ((label == 1) == (stored == 0)).all()


def test_classes_file_yaml(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes:\n  - {name: road, color: [1, 2, 3], ids: [7, 9]}\n  - {name: car, color: [4, 5, 6]}\n")
    with pytest.warns(UserWarning, match="the class 'car' has no 'ids'"):
        classes = load_classes(path)
    assert classes.names == ("road", "car")
    assert classes.colors == ((1, 2, 3), (4, 5, 6))
    assert classes.id_map == {7: 0, 9: 0}


@pytest.mark.parametrize("entry", ["../x", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "file://x"])
def test_list_entries_cannot_leave_the_root(entry: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leads out of the data root"):
        inside(tmp_path, entry, "list.txt")
    root = layouts.folder(tmp_path / "d")
    (root / "lists/all.txt").write_text(entry + "\n")
    with pytest.raises(DataError, match="leads out of the data root"):
        DATASETS.build(folder_config(root))


# Draws ----------------------------------------------------------------------------------------------------------------
def batches(
    config: dict, count: int, workers: int = 0, skip: int = 0, seed: int = 5, start: str = "fork", **sampler: object
) -> list:
    loader = Runner.build_dataloader(
        dict(
            dataset=config,
            sampler=dict(type="DrawSampler", **sampler),
            batch_size=2,
            num_workers=workers,
            **(dict(multiprocessing_context=start) if workers else {}),
        ),
        seed=seed,
    )
    loader.sampler.skip(2 * skip)
    stream = iter(loader)
    return [next(stream) for _ in range(count)]


def same(a: dict, b: dict) -> bool:
    labels = [
        torch.equal(x.gt_sem_seg.data, y.gt_sem_seg.data)
        for x, y in zip(a["data_samples"], b["data_samples"], strict=True)
    ]
    return all(labels) and all(torch.equal(x, y) for x, y in zip(a["inputs"], b["inputs"], strict=True))


@pytest.mark.parametrize("rare", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_stream_is_the_same_stream(rare: bool, tmp_path: Path) -> None:
    config = folder_config(layouts.folder(tmp_path / "d", count=5))
    if rare:
        config = dict(type="RareClassSampling", dataset=config, min_pixels=30, min_crop_ratio=0.5)
    whole = batches(config, 8)
    assert not same(whole[0], whole[1])
    for k, workers in [(0, 2), (3, 0), (5, 1)]:
        resumed = batches(config, 8 - k, workers, skip=k)
        assert all(same(a, b) for a, b in zip(whole[k:], resumed, strict=True))
    for start in ("spawn", "forkserver") if rare else ():  # starting a process takes seconds
        assert same(whole[4], batches(config, 1, 1, skip=4, start=start)[0])
    assert not same(whole[0], batches(config, 1, seed=6)[0])
    assert not same(whole[0], batches(config, 1, stream=1)[0])


def test_draws_leave_the_global_generators_alone(tmp_path: Path) -> None:
    dataset = DATASETS.build(folder_config(layouts.folder(tmp_path / "d")))

    def values() -> tuple:
        return random.random(), np.random.rand(), float(torch.rand(1))  # noqa: NPY002

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = values()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    dataset[Draw(0, 1, 0, 7)]
    assert values() == expected


def test_sampler_covers_each_epoch_and_splits_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = DrawSampler(range(7), seed=1)
    order = [int(sampler.draw(n)) for n in range(21)]
    assert [sorted(order[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert order[:7] != order[7:14]
    joined: dict[int, int] = {}
    for rank in (0, 1):
        monkeypatch.setattr("pipa.mmseg.datasets.samplers.get_dist_info", lambda rank=rank: (rank, 2))
        part = iter(DrawSampler(range(7), seed=1))
        joined.update((d.number, int(d)) for d in (next(part) for _ in range(10)))
    assert [joined[n] for n in range(20)] == order[:20]
    with pytest.raises(ValueError, match=">= 0"):
        sampler.skip(-1)


def test_seeded_dataset_wraps_any_mmseg_dataset(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "d")
    inner = dict(
        type="BaseSegDataset",
        data_root=str(root),
        data_prefix=dict(img_path="images", seg_map_path="labels"),
        img_suffix=".png",
        metainfo=dict(classes=("a", "b", "c")),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), *LABELLED[2:]],
    )
    config = dict(type="SeededDataset", dataset=inner)
    assert same(batches(config, 4)[3], batches(config, 1, workers=1, skip=3)[0])


# Rare class sampling --------------------------------------------------------------------------------------------------
def rare_root(tmp_path: Path) -> Path:
    """Ten images 64x64; class 2 lies in one 24x24 corner of image 3 only."""
    root = tmp_path / "rare"
    for i in range(10):
        layouts.image(root / f"images/{i}.png", i, (64, 64))
        label = np.zeros((64, 64), np.uint8)
        label[:, 32:] = 1
        if i == 3:
            label[:24, :24] = 2
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(label).save(root / f"labels/{i}.png")
    return root


def rare(root: Path, fuse: bool = True, **kwargs: object) -> object:
    pipeline = [*LABELLED[:2], dict(type="SyncCrop", crop_size=(32, 32)), *LABELLED[3:]]
    inner = dict(type="FolderDataset", data_root=str(root), classes=["a", "b", "c"], pipeline=pipeline, fuse=fuse)
    return DATASETS.build(dict(type="RareClassSampling", dataset=inner, min_pixels=200, **kwargs))


@pytest.mark.parametrize("fuse", [True, False])
def test_rare_class_is_drawn_cropped_and_decoded_once(
    fuse: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = rare_root(tmp_path)
    dataset = rare(root, fuse, min_crop_ratio=1.0)
    assert dataset.images[2] == [3]
    draws = [Draw(0, 1, 0, n) for n in range(300)]
    wanted = [dataset.pick(d) for d in draws]
    share = np.mean([c == 2 for _, c in wanted])
    assert abs(share - dataset.probabilities[dataset.classes.index(2)]) < 0.08
    assert share > 0.9  # T = 0.01 leaves the frequent classes next to nothing
    opened = watch(monkeypatch)
    crops = []
    cut = SyncCrop.transform
    monkeypatch.setattr(SyncCrop, "transform", lambda self, r: crops.append(1) or cut(self, r))
    kept = 0
    rare_draws = [d for d, (_, c) in zip(draws, wanted, strict=True) if c == 2][:40]
    for draw in rare_draws:
        kept += int((dataset[draw]["data_samples"].gt_sem_seg.data == 2).sum()) > 200
    assert len(opened) == 2 * len(rare_draws)
    if not fuse:
        assert len(crops) > len(rare_draws)  # some were tried again
    assert kept / len(rare_draws) > 0.8


def test_crop_and_flip_stay_synchronised(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for i in range(3):
        label = layouts.label(root / f"labels/{i}.png", i, ids=(0, 1, 2))
        pixels = np.repeat(np.array(Image.open(label))[:, :, None] * 50, 3, axis=2)
        (root / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / f"images/{i}.png")
    inner = dict(type="FolderDataset", data_root=str(root), classes=["a", "b", "c"], pipeline=LABELLED)
    dataset = DATASETS.build(dict(type="RareClassSampling", dataset=inner, min_pixels=10, min_crop_ratio=2))
    flipped = set()
    for n in range(12):
        sample = dataset[Draw(0, 3, 0, n)]
        flipped.add(sample["data_samples"].flip)
        assert torch.equal(sample["inputs"][0].long(), sample["data_samples"].gt_sem_seg.data[0] * 50)
    assert flipped == {True, False}


def test_rare_class_statistics_files_and_errors(tmp_path: Path) -> None:
    root = rare_root(tmp_path)
    counted = rare(root)
    stats = [{"0": 100, "1": 50, "file": f"elsewhere/rare/labels/{i}.png"} for i in range(10)]
    stats[4] = {"0": 100, "1": 5000, "2": 900, "file": "elsewhere/rare/labels/4.png"}
    (root / "sample_class_stats.json").write_text(json.dumps(stats))
    with pytest.raises(DataError, match=r"class 0 \(a\).*100 in elsewhere"):
        rare(root)
    dropped = rare(root, missing="drop")
    assert counted.classes == [2, 0, 1]
    assert sorted(dropped.classes) == [1, 2]
    assert dropped.images == {0: [], 1: [4], 2: [4]}
    assert dropped.probabilities.sum() == pytest.approx(1)
    (root / "sample_class_stats.json").write_text(json.dumps(stats[:3]))
    with pytest.raises(DataError, match="3 of the 10 labels"):
        rare(root)
    (root / "sample_class_stats.json").write_text("{}[")
    with pytest.raises(DataError, match=r"sample_class_stats\.json"):
        rare(root)
    with pytest.raises(DataError, match="no such file"):
        rare(root, stats=tmp_path / "nowhere")


def test_subset_metric() -> None:
    assert (len(SYNTHIA_16), len(SYNTHIA_13)) == (16, 13)
    metric = DomainIoUMetric(subsets=dict(mIoU16=SYNTHIA_16, mIoU2=[0, "car"]))
    metric.dataset_meta = dict(classes=CITYSCAPES["classes"])
    label = torch.arange(19).repeat_interleave(4).view(1, 4, 19)
    prediction = label.clone()
    prediction[label == 9] = 8  # terrain, which SYNTHIA lacks, called vegetation
    metric.process({}, [dict(pred_sem_seg=dict(data=prediction), gt_sem_seg=dict(data=label))])
    values = metric.compute_metrics(metric.results)
    assert values["IoU.vegetation"] == 50.0
    assert values["IoU.terrain"] == 0.0
    assert values["mIoU16"] == pytest.approx((15 * 100 + 50) / 16, abs=0.01)
    assert values["mIoU"] == pytest.approx((17 * 100 + 50) / 19, abs=0.01)
    assert values["mIoU2"] == 100.0
