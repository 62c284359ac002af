"""mmengine's ConcatDataset and RepeatDataset, nested too: draws, statistics and resumes are those of one data set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

from mmengine.dataset import ConcatDataset
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules

import layouts
import pipa.mmseg  # noqa: F401
import tiny
from pipa.files.images import DataError
from pipa.files.statistics import folder_stats
from pipa.mmseg.datasets.draw import Draw
from pipa.mmseg.datasets.rare_class_sampling import RareClassSampling, class_probabilities

register_all_modules(init_default_scope=True)
COUNTS = (3, 4)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sources with the same classes; class 2 is in the second alone."""
    base = tmp_path_factory.mktemp("sources")
    made = []
    for k, count in enumerate(COUNTS):
        root = layouts.folder(base / f"source{k}", count=count)
        for i in range(count):
            layouts.image(root / f"images/{i:03d}.png", 10 * k + i)
            layouts.label(root / f"labels/{i:03d}.png", 10 * k + i, ids=(0, 1, 255) if k == 0 else (0, 1, 2))
        made.append(root)
    return made


def part(root: Path, fuse: bool = True, **settings: Any) -> dict[str, Any]:
    pipeline = [
        dict(type="LoadImage"),
        dict(type="LoadLabel"),
        dict(type="SyncCrop", crop_size=(16, 16), cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackSegInputs"),
    ]
    given = dict(type="FolderDataset", data_root=str(root), classes="classes.json", fuse=fuse, pipeline=pipeline)
    return {**given, **settings}


def nested(roots: list[Path], fuse: bool = True) -> dict[str, Any]:
    """Twice the first, then the second: 3, 3 and 4 images."""
    first = dict(type="RepeatDataset", dataset=part(roots[0], fuse), times=2)
    return dict(type="ConcatDataset", datasets=[first, part(roots[1], fuse)])


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    one, two = a["data_samples"], b["data_samples"]
    label = torch.equal(one.gt_sem_seg.data, two.gt_sem_seg.data)
    return label and torch.equal(a["inputs"], b["inputs"]) and one.img_path == two.img_path


@pytest.mark.parametrize("fuse", [True, False], ids=["native", "single"])
def test_a_wrapped_data_set_gives_the_sample_of_its_part(fuse: bool, roots: list[Path]) -> None:
    whole = DATASETS.build(nested(roots, fuse))
    singles = [DATASETS.build(part(root, fuse)) for root in roots]
    assert len(whole) == 10
    places = [(0, i) for i in (0, 1, 2, 0, 1, 2)] + [(1, i) for i in range(4)]
    for i, (number, inside) in enumerate(places):
        draw = Draw(i, 5, 0, 100 + i)
        assert same(whole[draw], singles[number][draw.at(inside)])
        torch.rand(1), np.random.random()  # noqa: NPY002  (no sample depends on the global generators)
        assert same(whole[draw], whole[draw])


def test_other_peoples_data_sets_are_seeded_from_outside(roots: list[Path]) -> None:
    pipeline = [dict(type="LoadImageFromFile"), dict(type="RandomCrop", crop_size=(9, 9)), dict(type="PackSegInputs")]
    inner = [
        dict(
            type="BaseSegDataset",
            data_root=str(root),
            data_prefix=dict(img_path="images", seg_map_path="labels"),
            img_suffix=".png",
            metainfo=dict(classes=("road", "car", "sign"), palette=[[0] * 3, [1] * 3, [2] * 3]),
            pipeline=pipeline,
        )
        for root in roots
    ]
    whole = DATASETS.build(dict(type="SeededDataset", dataset=dict(type="ConcatDataset", datasets=inner)))
    for i in range(7):
        first = whole[Draw(i, 1, 0, i)]
        np.random.random(3)  # noqa: NPY002
        again = whole[Draw(i, 1, 0, i)]
        assert torch.equal(first["inputs"], again["inputs"])


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_loader_goes_on_where_it_was(workers: int, roots: list[Path]) -> None:
    def loader() -> Any:
        sampler = dict(type="DrawSampler", seed=3)
        return Runner.build_dataloader(
            dict(batch_size=2, num_workers=workers, sampler=sampler, dataset=nested(roots)), seed=3
        )

    straight = iter(loader())
    batches = [next(straight) for _ in range(7)]
    late = loader()
    late.sampler.skip(4 * 2)
    resumed = iter(late)
    for k in range(4, 7):
        batch = next(resumed)
        assert all(torch.equal(a, b) for a, b in zip(batches[k]["inputs"], batch["inputs"], strict=True))
    files = Counter(s.img_path for batch in batches[:5] for s in batch["data_samples"])
    assert sorted(files.values()) == [1] * 4 + [2] * 3  # an epoch: the repeated ones twice


def counted(root: Path) -> list[dict[str, int]]:
    """Pixels per class of each label, by NumPy."""
    found = []
    for file in sorted((root / "labels").glob("*.png")):
        ids, pixels = np.unique(np.asarray(Image.open(file)), return_counts=True)
        found.append({str(c): int(n) for c, n in zip(ids, pixels, strict=True) if c != 255} | {"file": str(file)})
    return found


def test_rare_classes_of_several_sources(roots: list[Path]) -> None:
    sampling = RareClassSampling(dataset=nested(roots), min_pixels=50, temperature=0.5)
    entries = [*counted(roots[0]) * 2, *counted(roots[1])]
    classes, probabilities = class_probabilities(entries, 0.5)
    assert sampling.classes == classes
    assert np.array_equal(sampling.probabilities, probabilities)
    for c in range(3):
        expected = [i for i, entry in enumerate(entries) if entry.get(str(c), 0) > 50]
        assert sorted(sampling.images[c]) == expected
    assert min(sampling.images[2]) >= 6  # the second source alone has it
    for number in range(40):
        draw = Draw(0, 2, 0, number)
        picked, wanted = sampling.pick(draw)
        sample = sampling[draw]
        assert (sample["data_samples"].gt_sem_seg.data == wanted).any()
        assert same(sample, sampling[draw])
        root = roots[0] if picked < 6 else roots[1]
        inside = picked % 3 if picked < 6 else picked - 6
        assert sample["data_samples"].img_path == str(root / "images" / f"{inside:03d}.png")
    single = RareClassSampling(dataset=nested(roots, fuse=False), min_pixels=50, temperature=0.5)
    assert all(same(sampling[Draw(0, 2, 0, n)], single[Draw(0, 2, 0, n)]) for n in range(12))


def test_statistics_of_each_source(roots: list[Path], tmp_path: Path) -> None:
    folders = []
    for k, root in enumerate(roots):
        folders.append(tmp_path / f"stats{k}")
        folder_stats(root / "labels", ".png", folders[-1])
    counted_now = RareClassSampling(dataset=nested(roots), min_pixels=50)
    stored = RareClassSampling(dataset=nested(roots), min_pixels=50, stats=folders)
    assert stored.images == counted_now.images
    assert np.array_equal(stored.probabilities, counted_now.probabilities)
    with pytest.raises(ValueError, match=r"expected one folder for each of the 2 data sets, got 1"):
        RareClassSampling(dataset=nested(roots), min_pixels=50, stats=folders[:1])
    with pytest.raises(DataError, match="of the 4 labels"):
        RareClassSampling(dataset=nested(roots), min_pixels=50, stats=[folders[0], folders[0]])


def test_different_classes_are_refused(roots: list[Path], tmp_path: Path) -> None:
    other = layouts.folder(tmp_path / "other", count=1)
    (other / "classes.json").write_text(json.dumps(dict(classes=[dict(name="a"), dict(name="b")])))
    with pytest.raises((ValueError, TypeError), match=r"meta information|type"):
        DATASETS.build(dict(type="ConcatDataset", datasets=[part(roots[0]), part(other)]))


def test_wrappers_are_those_of_mmengine(roots: list[Path]) -> None:
    assert type(DATASETS.build(nested(roots))) is ConcatDataset


@pytest.mark.slow
def test_a_training_resumes_exactly(tmp_path: Path) -> None:
    for name, labelled in (("a", True), ("b", True), ("c", False), ("d", False)):
        layouts.folder(tmp_path / name, count=3, size=tiny.SIZE, labelled=labelled)

    def joined(config: dict[str, Any], names: str) -> dict[str, Any]:
        parts = [{**config, "data_root": str(tmp_path / name)} for name in names]
        repeated = dict(type="RepeatDataset", dataset=parts[0], times=2)
        return dict(type="ConcatDataset", datasets=[repeated, parts[1]])

    def config(work_dir: str) -> dict[str, Any]:
        tiny_root = tmp_path / "unused"
        cfg = tiny.config(tiny_root, tmp_path / work_dir, iterations=4, workers=1)
        sampling = cfg["train_dataloader"]["dataset"]
        sampling["dataset"] = joined(sampling["dataset"], "ab")
        target = cfg["custom_hooks"][0]["target_dataloader"]
        target["dataset"] = joined(target["dataset"], "cd")
        return cfg

    straight = tiny.everything(tiny.train(config("straight")))
    torch.rand(5)
    resumed = tiny.train(config("resumed"), resume=True, load_from=tmp_path / "straight" / "iter_2.pth")
    assert not tiny.differences(straight, tiny.everything(resumed))
