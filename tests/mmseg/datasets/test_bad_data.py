"""One test per row of docs/data-errors.md: what a bad file or setting does, and that the message names it."""

from __future__ import annotations

import json
import os
import pickle
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

import pipa.mmseg
from pipa import environment
from pipa.commands import doctor
from pipa.files.images import DataError, read_image, read_label
from pipa.mmseg.datasets.draw import Draw
from pipa.mmseg.datasets.folder import load_classes

register_all_modules(init_default_scope=True)
CROP = (20, 24)


def pipeline(labelled: bool = True, **crop: object) -> list[dict]:
    load = [dict(type="LoadImage")] + [dict(type="LoadLabel")] * labelled
    return [
        *load,
        dict(type="SyncCrop", **{"crop_size": CROP, **crop}),
        dict(type="PackSegInputs" if labelled else "PackUnlabelled"),
    ]


def config(root: Path, **kwargs: object) -> dict:
    base = dict(type="FolderDataset", data_root=str(root), classes="classes.json", pipeline=pipeline())
    return {**base, **kwargs}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return layouts.folder(tmp_path / "set")


def first(root: Path, draw: int = 0, **kwargs: object) -> dict:
    return DATASETS.build(config(root, **kwargs))[draw]


def jpeg(path: Path) -> bytes:
    Image.open(path).save(path.with_suffix(".jpg"))
    return path.with_suffix(".jpg").read_bytes()


IMAGE, LABEL = "images/000.png", "labels/000.png"


def save(root: Path, file: str, array: np.ndarray) -> None:
    Image.fromarray(array).save(root / file)


def grey(value: int = 7) -> np.ndarray:
    return np.full(layouts.SIZE, value, np.uint8)


# A row: name, what is done to the data set, the pattern of the one error.
ROWS = {
    "empty image": (lambda r: (r / IMAGE).write_bytes(b""), r"images/000\.png: .*empty file"),
    "empty label": (lambda r: (r / LABEL).write_bytes(b""), r"labels/000\.png: .*empty file"),
    "truncated PNG": (
        lambda r: (r / IMAGE).write_bytes((r / IMAGE).read_bytes()[:2000]),
        r"images/000\.png: truncated or corrupt",
    ),
    "truncated JPEG": (
        lambda r: (r / IMAGE).write_bytes(jpeg(r / IMAGE)[:1500]),
        r"images/000\.png: truncated or corrupt",
    ),
    "corrupt PNG": (
        lambda r: (r / IMAGE).write_bytes((r / IMAGE).read_bytes().replace(b"IDAT", b"IDAT" + bytes(9), 1)),
        r"images/000\.png: truncated or corrupt",
    ),
    "no image": (
        lambda r: (r / IMAGE).write_text("<html>not found</html>"),
        r"images/000\.png: .*no known image format",
    ),
    "grey image": (lambda r: save(r, IMAGE, grey()), r"images/000\.png: expected an RGB image.*mode L"),
    "alpha image": (
        lambda r: save(r, IMAGE, np.zeros((*layouts.SIZE, 4), np.uint8)),
        r"images/000\.png: expected an RGB image.*mode RGBA",
    ),
    "palette image": (
        lambda r: Image.fromarray(grey()).convert("P").save(r / IMAGE),
        r"images/000\.png: expected an RGB image.*mode P",
    ),
    "16-bit image": (lambda r: save(r, IMAGE, grey().astype(np.uint16)), r"images/000\.png: .*mode I;16"),
    "float image with NaN": (
        lambda r: Image.fromarray(np.full(layouts.SIZE, np.nan, np.float32)).save(r / IMAGE, "TIFF"),
        r"images/000\.png: expected an RGB image.*mode F",
    ),
    "label id outside of the classes": (
        lambda r: save(r, LABEL, grey(34)),
        r"labels/000\.png: label ids must be 0\.\.2 or 255.*found 34",
    ),
    "16-bit label id outside of the classes": (
        lambda r: save(r, LABEL, grey().astype(np.uint16) + 1000),
        r"labels/000\.png: label ids must be 0\.\.2 .*found 1007",
    ),
    "colour label": (
        lambda r: save(r, LABEL, np.zeros((*layouts.SIZE, 3), np.uint8)),
        r"labels/000\.png: expected a label with one channel.*mode RGB",
    ),
    "JPEG label": (
        lambda r: Image.fromarray(grey()).save(r / LABEL, "JPEG"),
        r"labels/000\.png: expected a lossless label",
    ),
    "label in a TIFF compressed as JPEG": (
        lambda r: Image.fromarray(grey()).save(r / LABEL, "TIFF", compression="jpeg"),
        r"labels/000\.png: expected a lossless label .*TIFF compressed as JPEG",
    ),
    "image and label differ in size": (
        lambda r: layouts.label(r / LABEL, size=(30, 50)),
        r"labels/000\.png: expected .* 40x60 .*images/000\.png\), found 30x50",
    ),
    "missing label": (lambda r: (r / LABEL).unlink(), r"labels/000\.png: the label of 000\.png does not exist"),
    "no images": (lambda r: [p.unlink() for p in (r / "images").iterdir()], r"images.*at least one \*\.png image"),
    "missing folder": (lambda r: (r / "images").rename(r / "pictures"), r"images: expected a folder.*no such folder"),
    "crop larger than the image": (
        lambda r: layouts.image(r / IMAGE, size=(19, 60)) and layouts.label(r / LABEL, size=(19, 60)),
        r"images/000\.png: the image is 19x60 .* crop is 20x24",
    ),
    "class file missing": (lambda r: (r / "classes.json").unlink(), r"classes\.json: expected a YAML or JSON file"),
    "class file broken": (lambda r: (r / "classes.json").write_text("{"), r"classes\.json: not a readable"),
}


@pytest.mark.parametrize("draw", [0, Draw(0, 1)], ids=["single transforms", "native"])
@pytest.mark.parametrize("row", ROWS)
def test_bad_file(row: str, draw: int, root: Path) -> None:
    damage, pattern = ROWS[row]
    damage(root)
    with pytest.raises(DataError, match=pattern) as caught:
        first(root, draw)
    assert "\n" not in str(caught.value)


def test_flipped_byte_in_a_png(root: Path) -> None:
    data = bytearray((root / IMAGE).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (root / IMAGE).write_bytes(data)
    with pytest.raises(DataError, match=r"images/000\.png: truncated or corrupt"):
        read_image(root / IMAGE)


def test_16_bit_colour_png(tmp_path: Path) -> None:
    """Pillow cannot write one and reads it as 8 bits: build the file by hand."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFF00, 0, 0x0100)
    path = tmp_path / "deep.png"
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(DataError, match=r"deep\.png: expected 8 bits per channel, found 16"):
        read_image(path)
    assert read_image(path, convert=True).tolist() == [[[0x9A, 0x56, 0x12], [1, 0, 0xFF]]]


def test_convert_accepts_other_modes(root: Path) -> None:
    load = [dict(type="LoadImage", convert=True)]
    for array in (grey(), grey().astype(np.uint16) << 8, np.dstack([grey()] * 4)):
        save(root, IMAGE, array)
        image = first(root, pipeline=load)["img"]
        assert image.shape == (*layouts.SIZE, 3)
        assert (image == 7).all()


def test_palette_and_packed_labels_are_indices(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 4, (9, 13), dtype=np.uint8)
    label = Image.new("P", (13, 9))
    label.putdata(ids.reshape(-1).tolist())
    label.putpalette([250, 1, 9, 3, 3, 3, 90, 90, 90, 255, 255, 255])
    for bits in (8, 2):
        label.save(tmp_path / "l.png", bits=bits)
        assert (read_label(tmp_path / "l.png") == ids).all()


def test_missing_files_and_permissions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "lists/all.txt").write_text("000\nghost\n")
    with pytest.raises(DataError, match=r"ghost\.png: this image is listed in .*all\.txt but does not exist"):
        first(root, list_file="lists/all.txt")
    with pytest.raises(DataError, match=r"gone\.txt: cannot read this list file"):
        first(root, list_file="lists/gone.txt")
    (root / "lists/all.txt").write_bytes(b"\xff\xfe000")
    with pytest.raises(DataError, match=r"all\.txt: expected a text file"):
        first(root, list_file="lists/all.txt")
    (root / "lists/all.txt").write_text("\n# nothing\n")
    with pytest.raises(DataError, match=r"all\.txt: FolderDataset expected at least one"):
        first(root, list_file="lists/all.txt")
    with pytest.raises(DataError, match="nowhere: expected the folder of a data set"):
        first(root, data_root=str(root / "nowhere"), classes=["a"])

    def refuse(path: str | Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)  # chmod does not stop root, who runs tests in containers
    with pytest.raises(DataError, match=r"000\.png: no permission"):
        read_image(root / IMAGE)


@pytest.mark.parametrize("again", ["001", "./001"])
def test_a_line_twice_in_a_list(root: Path, again: str) -> None:
    (root / "lists/all.txt").write_text(f"# all\n001\n000\n\n{again}\n")
    with pytest.raises(DataError, match=rf"all\.txt: line 5 \('{again}'\) names the image of line 2 again"):
        first(root, list_file="lists/all.txt")


def test_a_colon_in_a_name(root: Path) -> None:
    """No drive letter: a list takes the file that a search of the folder finds."""
    stem = "2020-01-01T10:00:00"
    for folder in ("images", "labels"):
        (root / folder / "000.png").rename(root / folder / f"{stem}.png")
    (root / "lists/all.txt").write_text(f"{stem}\n")
    found = first(root, list_file="lists/all.txt")["data_samples"]
    names = [first(root, i)["data_samples"].img_path for i in range(4)]
    assert found.img_path in names
    assert found.img_path.endswith(f"{stem}.png")


def test_a_list_with_a_byte_order_mark(root: Path) -> None:
    """Some editors on Windows write one; it is no part of the first name."""
    text = (root / "lists/all.txt").read_text(encoding="utf-8")
    (root / "lists/all.txt").write_text(text, encoding="utf-8-sig")
    first(root, list_file="lists/all.txt")


def test_unreadable_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str | Path) -> object:
        if str(path).endswith("images"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="images: cannot read this folder"):
        first(root)


@pytest.mark.parametrize(
    ("classes", "pattern"),
    [
        (dict(klasses=["a"]), "unknown key 'klasses'; did you mean 'classes'"),
        (dict(classes=[]), "non-empty list under 'classes'"),
        (dict(classes=["a", "a"]), "must differ"),
        (dict(classes=[dict(id=0, name="a"), dict(id=2, name="b")]), "without gaps"),
        (dict(classes=["a", "b"], colors=[[1, 2, 3]]), "a colour for each"),
        (dict(classes=["a"], colors=[[1, 2, 300]]), "three integers"),
        (dict(classes=["a"], id_map={3: 1}), "id_map sends 3 to 1"),
        (dict(classes=[dict(color=[1, 2, 3])]), "class 0 has no 'name'"),
        ("", "no such file"),
    ],
)
def test_class_descriptions(classes: object, pattern: str) -> None:
    with pytest.raises(DataError, match=pattern):
        load_classes(classes)


@pytest.mark.parametrize("suffix", [".yaml", ".pkl"])
def test_class_files_run_nothing(suffix: str, tmp_path: Path) -> None:
    """They come with data sets from elsewhere."""
    path, mark = tmp_path / f"classes{suffix}", tmp_path / "mark"
    text = f"classes: !!python/object/apply:os.mkdir [{str(mark)!r}]\n"
    code = pickle.dumps(type("Evil", (), {"__reduce__": lambda self: (os.mkdir, (str(mark),))})())
    path.write_bytes(text.encode() if suffix == ".yaml" else code)
    with pytest.raises(DataError, match=rf"classes\{suffix}: "):
        load_classes(path)
    assert not mark.exists()


def test_misspelt_settings(root: Path) -> None:
    with pytest.raises(TypeError, match="label_sufix"):
        first(root, label_sufix=".png")
    with pytest.raises(ValueError, match="label_format must be 'ids' or 'colors', got 'colours'"):
        first(root, label_format="colours")
    with pytest.raises(ValueError, match="on_bad_file must be"):
        first(root, on_bad_file="ignore")
    with pytest.raises(ValueError, match=r"cat_max_ratio must lie in \(0, 1\]"):
        first(root, pipeline=pipeline(cat_max_ratio=2))


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        (dict(temperature=float("nan")), "RareClassSampling: temperature: expected a finite number, got nan"),
        (dict(temperature="hot"), "RareClassSampling: temperature: expected a finite number, got 'hot'"),
        (dict(temperature=-1), "temperature must be positive, got -1"),
        (dict(min_crop_ratio=float("nan")), "min_crop_ratio: expected a finite number, got nan"),
        (dict(min_pixels="many"), "min_pixels: expected a finite number, got 'many'"),
        (dict(tries=1.5), "tries: expected a whole number, got 1.5"),
        (dict(tries=0), "expected tries >= 1"),
    ],
)
def test_numbers_of_rare_class_sampling(root: Path, settings: dict, pattern: str) -> None:
    with pytest.raises((ValueError, TypeError), match=pattern):
        DATASETS.build(dict(type="RareClassSampling", dataset=config(root), **{"min_pixels": 5, **settings}))


@pytest.mark.parametrize(
    ("transform", "pattern"),
    [
        (dict(type="SyncCrop", crop_size=CROP, cat_max_ratio=float("nan")), "SyncCrop: cat_max_ratio: expected a fin"),
        (dict(type="SyncCrop", crop_size=CROP, cat_max_ratio="half"), "SyncCrop: cat_max_ratio: expected .*'half'"),
        (dict(type="SyncCrop", crop_size=(20.5, 24)), r"SyncCrop: crop_size: expected a whole number, got 20\.5"),
        (dict(type="SyncCrop", crop_size=float("nan")), "SyncCrop: crop_size: expected a whole number, got nan"),
        (dict(type="SyncCrop", crop_size=(20, 24, 3)), "SyncCrop: crop_size must be positive"),
        (dict(type="SyncCrop", crop_size=CROP, ignore_index=1.5), "SyncCrop: ignore_index: expected a whole number"),
        (dict(type="PseudoMargins", top=float("nan")), "PseudoMargins: widths: expected a whole number, got nan"),
        (dict(type="LoadLabel", num_classes=float("nan")), "LoadLabel: num_classes: expected a whole number, got nan"),
    ],
)
def test_numbers_of_transforms(root: Path, transform: dict, pattern: str) -> None:
    with pytest.raises((ValueError, TypeError), match=pattern):
        first(root, pipeline=[transform])


def test_numbers_of_data_sets_and_samplers(root: Path) -> None:
    with pytest.raises(TypeError, match="FolderDataset: ignore_index: expected a whole number, got nan"):
        first(root, ignore_index=float("nan"))
    with pytest.raises(TypeError, match="DrawSampler: stream: expected a whole number, got nan"):
        pipa.mmseg.DrawSampler([1], seed=0, stream=float("nan"))


def test_labels_in_the_pipeline_of_an_unlabelled_target(root: Path) -> None:
    with pytest.raises(DataError, match=r"000\.png: LoadLabel needs a labelled data set"):
        first(root, Draw(0, 1), unlabelled=True)
    with pytest.raises(DataError, match=r"000\.png: PackUnlabelled found a label"):
        first(root, pipeline=[*pipeline()[:-1], dict(type="PackUnlabelled")])


def test_padding_small_images(root: Path) -> None:
    sample = first(root, pipeline=pipeline(crop_size=(50, 64), pad=True, pad_val=3))
    label = sample["data_samples"].gt_sem_seg.data
    assert sample["inputs"].shape == (3, 50, 64)
    assert (sample["inputs"][:, 40:] == 3).all()
    assert (label[:, 40:] == 255).all()
    assert (label[:, :, 60:] == 255).all()


def test_single_class_and_ignored_labels_are_ordinary_samples(root: Path) -> None:
    """A crop of one class, or of ignored pixels only, is drawn at most ten times more and then used."""
    for value in (1, 255):
        save(root, LABEL, grey(value))
        sample = first(root, pipeline=pipeline(cat_max_ratio=0.75))
        assert (sample["data_samples"].gt_sem_seg.data == value).all()


def test_skipping_bad_files(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / IMAGE).write_bytes(b"")
    dataset = DATASETS.build(config(root, on_bad_file="skip"))
    paths = {dataset[Draw(0, 1, 0, n)]["data_samples"].img_path for n in range(20)}
    assert len(paths) == 3
    assert not any(path.endswith("000.png") for path in paths)
    again = DATASETS.build(config(root, on_bad_file="skip"))
    one, two = dataset[Draw(0, 1, 0, 5)], again[Draw(0, 1, 0, 5)]
    assert torch.equal(one["inputs"], two["inputs"])  # which image replaces a bad one is part of the draw
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="10 files in a row are not usable"):
        dataset[Draw(1, 1, 0, 5)]
    with pytest.raises(DataError, match="empty file"):  # evaluation never skips
        DATASETS.build(config(root, on_bad_file="skip", test_mode=True))[0]


def test_rare_class_sampling_skips_with_its_data_set(root: Path) -> None:
    inner = config(root, on_bad_file="skip")
    sampling = DATASETS.build(dict(type="RareClassSampling", dataset=inner, min_pixels=10, min_crop_ratio=0))
    (root / IMAGE).write_bytes(b"")
    paths = {sampling[Draw(0, 1, 0, n)]["data_samples"].img_path for n in range(30)}
    assert not any(path.endswith("000.png") for path in paths)


def test_no_rare_class_samples(root: Path) -> None:
    with pytest.raises(DataError, match=r"no image holds more than min_pixels=3000 pixels of class \d \(\w+\)"):
        DATASETS.build(dict(type="RareClassSampling", dataset=config(root)))
    with pytest.raises(DataError, match="no class has an image"):
        DATASETS.build(dict(type="RareClassSampling", dataset=config(root), missing="drop"))
    with pytest.raises(DataError, match="needs a labelled data set"):
        DATASETS.build(dict(type="RareClassSampling", dataset=config(root, unlabelled=True)))


def test_the_error_crosses_loader_workers(root: Path) -> None:
    for path in (root / "labels").iterdir():
        path.write_bytes(b"")
    loader = Runner.build_dataloader(
        dict(dataset=config(root), sampler=dict(type="DrawSampler"), batch_size=2, num_workers=1), seed=0
    )
    with pytest.raises(DataError, match=r"labels/00\d\.png: expected an image, found an empty file"):
        next(iter(loader))


# pipa doctor ----------------------------------------------------------------------------------------------------------
def run_config(root: Path, **kwargs: object) -> dict:
    sampler = dict(type="DrawSampler")
    target = config(root, unlabelled=True, pipeline=pipeline(labelled=False))
    base = dict(
        randomness=dict(seed=0),
        train_dataloader=dict(batch_size=2, sampler=sampler, dataset=config(root)),
        val_dataloader=dict(dataset=config(root, pipeline=pipeline()[:2])),
        custom_hooks=[dict(type="PipaHook", target_dataloader=dict(sampler={**sampler, "stream": 1}, dataset=target))],
    )
    return {**base, **kwargs}


def errors(findings: list[doctor.Finding]) -> list[doctor.Finding]:
    return [f for f in findings if f.level == doctor.ERROR]


def test_doctor_finds_nothing_wrong_with_good_data(root: Path) -> None:
    findings = doctor.check(run_config(root), workers=2, progress=False)
    assert errors(findings) == []
    notes = [f for f in findings if "images looked at" in f.found]
    assert sorted(f.where for f in notes) == [
        "custom_hooks[0].target_dataloader",
        "train_dataloader",
        "val_dataloader",
    ]
    assert "4 of 4 images looked at; sizes 40x60 (4)" in notes[0].found
    assert "0 error(s)" in doctor.report(findings)


def test_doctor_names_every_bad_file(root: Path) -> None:
    (root / "images/001.png").write_bytes(b"")
    save(root, "labels/002.png", grey(99))
    layouts.label(root / "labels/003.png", size=(10, 10))
    save(root, "labels/000.png", grey(255))
    findings = doctor.check(run_config(root), workers=2, progress=False)
    text = doctor.report(findings)
    found = [f for f in errors(findings) if f.where == "train_dataloader"]
    assert sorted(f.found.split(":")[0].split("/")[-1] for f in found) == ["001.png", "002.png", "003.png"]
    assert [f for f in errors(findings) if "target" in f.where and "001.png" in f.found]
    assert "label(s) have no pixel that counts" in text
    assert "labels/000.png" in text or "images/000.png" in text
    assert text.splitlines()[-1].startswith("7 error(s)")


def test_doctor_finds_wrong_settings(root: Path, tmp_path: Path) -> None:
    sampler = dict(type="DrawSampler")
    opened = dict(sampler=sampler, dataset=config(root))  # labels opened, same stream as the source
    hooks = [dict(type="PipaHook", target_dataloader=opened)]
    rare = dict(type="RareClassSampling", dataset=config(root))
    findings = doctor.check(
        run_config(
            root,
            custom_hooks=hooks,
            train_dataloader=dict(sampler=sampler, dataset=rare, num_workers=512),
            val_dataloader=dict(dataset=config(tmp_path / "gone", classes=["a"])),
            test_dataloader=dict(dataset=config(root, pipeline=pipeline(crop_size=(64, 64)))),
            load_from=str(tmp_path / "none.pth"),
            randomness=None,
        ),
        workers=1,
        progress=False,
    )
    text = "\n".join(f"{f.level} {f.where} {f.found}" for f in findings)
    for expected in (
        "error custom_hooks[0].target_dataloader the pipeline of the target has LoadLabel",
        "error custom_hooks[0].target_dataloader uses the same random draws as train_dataloader",
        "error train_dataloader rare class sampling: no image holds more than",
        "error test_dataloader 4 image(s) are smaller than the crop (64, 64)",
        f"error load_from {tmp_path / 'none.pth'}: no such checkpoint",
        "warning num_workers 512 loader workers",
        "warning randomness no seed",
    ):
        assert expected in text
    assert "error val_dataloader" in text
    assert "gone: expected the folder" in text
    assert all(f.fix for f in findings if f.level != doctor.NOTE)


def test_doctor_reads_config_files_and_foreign_data_sets(root: Path, tmp_path: Path) -> None:
    foreign = dict(
        type="BaseSegDataset",
        data_root=str(root),
        data_prefix=dict(img_path="images", seg_map_path="labels"),
        img_suffix=".png",
        metainfo=dict(classes=("a", "b")),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")],
    )
    path = tmp_path / "config.py"
    path.write_text(
        f"randomness = dict(seed=1)\ntrain_dataloader = dict(sampler=dict(), dataset={json.dumps(foreign)})\n"
    )
    findings = doctor.check(path, workers=1, max_files=2, progress=False)
    assert any("labels/000.png: label ids must be 0..1" in f.found for f in errors(findings))
    assert any("2 of 4 images looked at" in f.found for f in findings)
    path.write_text("train_dataloader = undefined_name\n")
    assert any("config cannot be loaded" in f.found for f in doctor.check(path, progress=False))
    assert any("no such file" in f.found for f in doctor.check(tmp_path / "no.py", progress=False))
    assert any("no dataloader" in f.found for f in doctor.check(dict(randomness=dict(seed=0)), progress=False))


def test_doctor_on_packages() -> None:
    good = {"onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "onedl-mmsegmentation": "1.4.2"}
    assert environment.check_packages(good) == []
    beside = environment.check_packages({**good, "mmcv": "2.1.0"})
    assert [f.level for f in beside] == ["error"]
    assert "pip uninstall mmcv" in beside[0].fix
    old = environment.check_packages({**good, "onedl-mmcv": "2.4.0"})
    assert "expected >=2.3.6,<2.4" in old[0].found
    assert len(environment.check_packages({})) == 3


def test_a_suffix_in_capitals_is_told(root: Path) -> None:
    """`pipa predict` takes such a picture; a data set takes what its suffix says, and says what it leaves out."""
    whole = len(DATASETS.build(config(root)))
    image = next((root / "images").rglob("*.png"))
    image.rename(image.with_suffix(".PNG"))
    with pytest.warns(UserWarning, match=rf"{image.stem}\.PNG: left out: img_suffix is '\.png'"):
        assert len(DATASETS.build(config(root))) == whole - 1


def test_registered_names_do_not_replace_those_of_mmseg() -> None:
    for name in ("GTADataset", "SynthiaDataset", "ACDCDataset", "CityscapesDomainDataset", "FolderDataset"):
        assert DATASETS.get(name) is getattr(pipa.mmseg, name)
    assert DATASETS.get("CityscapesDataset").__module__.startswith("mmseg.")
    assert DATASETS.get("DarkZurichDataset").__module__.startswith("mmseg.")
