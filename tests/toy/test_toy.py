"""The embedded domain pair: seeded pictures, a Cityscapes layout on disk, clear refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipa import toy

SMALL = {"height": 48, "width": 96}


@pytest.mark.parametrize("domain", toy.DOMAINS)
def test_a_picture_depends_on_its_arguments_alone(domain: str) -> None:
    image, label = toy.draw(domain, 3, seed=5, **SMALL)
    assert image.shape == (48, 96, 3)
    assert label.shape == (48, 96)
    assert image.dtype == label.dtype == np.uint8
    assert label.max() < len(toy.CLASSES) == len(toy.PALETTE)
    toy.draw(domain, 9, seed=5, **SMALL)
    again = toy.draw(domain, 3, seed=5, **SMALL)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    for other in (toy.draw(domain, 4, seed=5, **SMALL), toy.draw(domain, 3, seed=6, **SMALL)):
        assert (label != other[1]).any()


def test_colour_does_not_give_the_class_away() -> None:
    """One colour lookup per class, fitted on the pictures themselves, still misses many pixels."""
    for domain in toy.DOMAINS:
        pairs = [toy.draw(domain, i, **SMALL) for i in range(30)]
        cells = np.concatenate([(image // 16).reshape(-1, 3) @ np.array([256, 16, 1]) for image, _ in pairs])
        labels = np.concatenate([label.ravel() for _, label in pairs])
        counts = np.zeros((4096, len(toy.CLASSES)), np.int64)
        np.add.at(counts, (cells, labels), 1)
        guess = counts.argmax(1)[cells]
        ious = [
            ((guess == c) & (labels == c)).sum() / ((guess == c) | (labels == c)).sum() for c in range(len(toy.CLASSES))
        ]
        assert np.mean(ious) < 0.5, ious


def test_the_domains_differ_as_synthetic_and_real_do() -> None:
    def saturation(domain: str) -> float:
        images = np.stack([toy.draw(domain, i, **SMALL)[0] for i in range(20)]).astype(float)
        return float((images.max(-1) - images.min(-1)).mean())

    def sky_noise(domain: str) -> float:
        pairs = [toy.draw(domain, i, **SMALL) for i in range(20)]
        sky = toy.CLASSES.index("sky")
        steps = [np.abs(np.diff(image.astype(float), axis=1)).mean(-1)[label[:, 1:] == sky] for image, label in pairs]
        return float(np.median(np.concatenate(steps)))

    assert saturation("source") > 1.5 * saturation("target")
    assert sky_noise("target") > 1.2 * sky_noise("source")


def test_write_gives_the_cityscapes_layout(tmp_path: Path) -> None:
    root = toy.write(tmp_path / "pair", train=3, val=2, seed=1, **SMALL)
    files = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    expected = ["classes.json", "source/toy.json", "target/toy.json"]
    for domain in toy.DOMAINS:
        for split, count in (("train", 3), ("val", 2)):
            labels = "gtFine_oracle" if (domain, split) == ("target", "train") else "gtFine"
            for i in range(count):
                stem = f"toy/toy_{i:06d}_000000"
                expected.append(f"{domain}/leftImg8bit/{split}/{stem}_leftImg8bit.png")
                expected.append(f"{domain}/{labels}/{split}/{stem}_gtFine_labelTrainIds.png")
    assert files == sorted(expected)
    image, label = toy.draw("target", toy.VAL_FIRST + 1, seed=1, **SMALL)
    folder = root / "target"
    stem = "val/toy/toy_000001_000000"
    np.testing.assert_array_equal(np.asarray(Image.open(folder / f"leftImg8bit/{stem}_leftImg8bit.png")), image)
    written = Image.open(folder / f"gtFine/{stem}_gtFine_labelTrainIds.png")
    assert written.mode == "L"
    np.testing.assert_array_equal(np.asarray(written), label)
    assert json.loads((root / "classes.json").read_text())["classes"] == list(toy.CLASSES)


def test_write_again_does_nothing_unless_settings_differ(tmp_path: Path) -> None:
    toy.write(tmp_path, train=2, val=1, **SMALL)
    picture = tmp_path / "source/leftImg8bit/train/toy/toy_000001_000000_leftImg8bit.png"
    before = picture.stat()
    calls: list[tuple[int, int]] = []
    toy.write(tmp_path, train=2, val=1, **SMALL, progress=lambda done, of: calls.append((done, of)))
    assert picture.stat() == before
    assert calls == []
    toy.write(tmp_path, train=1, val=1, **SMALL, progress=lambda done, of: calls.append((done, of)))
    assert not picture.exists(), "a picture of the old settings must not stay"
    assert calls == [(2, 2), (2, 2)]
    assert not list(tmp_path.glob(".toy-*"))


def test_a_stopped_write_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.write(tmp_path, train=2, val=1, **SMALL, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["classes.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"domain": "real"}, ["domain", "'source'|\"source\"", "real"]),
        ({"height": 16}, ["height", "32", "16"]),
        ({"width": 5000}, ["width", "4096", "5000"]),
        ({"index": -1}, ["index", "-1"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
    ],
)
def test_bad_arguments_name_themselves(arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        toy.draw(**{"domain": "source", "index": 0, **arguments})  # type: ignore[arg-type]
    for word in words:
        assert any(option in str(caught.value) for option in word.split("|")), str(caught.value)


def test_write_refuses_what_it_cannot_or_must_not_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train"):
        toy.write(tmp_path, train=-1)
    with pytest.raises(ValueError, match="train and val"):
        toy.write(tmp_path, train=0, val=0)
    with pytest.raises(ValueError, match="height"):
        toy.write(tmp_path / "small", train=1, val=0, height=8)
    foreign = tmp_path / "foreign" / "source"
    foreign.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="not written by"):
        toy.write(tmp_path / "foreign", train=1, val=0, **SMALL)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OSError, match="file"):
        toy.write(file / "below", train=1, val=0, **SMALL)
    if os.geteuid() != 0:
        sealed = tmp_path / "sealed"
        sealed.mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="sealed"):
            toy.write(sealed, train=1, val=0, **SMALL)


def test_the_ordinary_data_path_reads_it(tmp_path: Path) -> None:
    folder = pytest.importorskip("pipa.mmseg.datasets.folder", reason="needs the extra pipa-rs[mmseg]")
    # The classes, not their names: which registry finds a name depends on the scope another test may have set.
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets.transforms import LoadAnnotations

    root = toy.write(tmp_path, train=2, val=1, **SMALL)
    suffixes = {"img_suffix": "_leftImg8bit.png", "label_suffix": "_gtFine_labelTrainIds.png"}
    dataset = folder.FolderDataset(
        data_root=root / "source",
        images="leftImg8bit/train",
        labels="gtFine/train",
        classes=root / "classes.json",
        pipeline=[{"type": LoadImageFromFile}, {"type": LoadAnnotations}],
        **suffixes,
    )
    assert dataset.metainfo["classes"] == toy.CLASSES
    assert [tuple(color) for color in dataset.metainfo["palette"]] == list(toy.PALETTE)
    assert len(dataset) == 2
    item = dataset[1]
    image, label = toy.draw("source", 1, **SMALL)
    np.testing.assert_array_equal(item["img"][..., ::-1], image)
    np.testing.assert_array_equal(item["gt_seg_map"], label)
    unlabelled = folder.FolderDataset(
        data_root=root / "target",
        images="leftImg8bit/train",
        classes=root / "classes.json",
        unlabelled=True,
        **suffixes,
    )
    assert len(unlabelled) == 2
