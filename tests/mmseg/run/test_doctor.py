"""`pipa doctor` reports what a training would refuse: within its first iteration, or when a warm-up ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg")

from mmengine.config import Config

import layouts
import tiny
from pipa.commands import cli, doctor
from pipa.mmseg.run.places import line_of, tokens

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


def hook(cfg: dict[str, Any]) -> dict[str, Any]:
    return cfg["custom_hooks"][0]


def source(cfg: dict[str, Any]) -> dict[str, Any]:
    """The source's data set, without rare class sampling, which reads labels itself."""
    loader = cfg["train_dataloader"]
    if "dataset" in loader["dataset"]:
        loader["dataset"] = loader["dataset"]["dataset"]
    return loader["dataset"]


def check(cfg: dict[str, Any], **settings: Any) -> list[doctor.Finding]:
    return doctor.check(copy.deepcopy(cfg), workers=1, progress=False, **settings)


def errors(findings: list[doctor.Finding]) -> list[tuple[str, str]]:
    return [(f.where, f.found) for f in findings if f.level == doctor.ERROR]


def told(findings: list[doctor.Finding]) -> str:
    return "\n".join(f"{f.where} {f.found}" for f in findings)


def test_a_good_config_runs_one_iteration(root: Path, tmp_path: Path) -> None:
    cfg = tiny.config(root, tmp_path / "work")
    findings = check(cfg)
    assert errors(findings) == []
    (ran,) = [f.found for f in findings if "one iteration ran" in f.found]
    # The patch term too, which the training starts after its warm-up.
    assert all(f"loss_{term} " in ran for term in ("source", "pixel", "feature_distance", "mix", "patch", "mask"))
    assert "not looked at loader workers" in told(findings)
    assert not (tmp_path / "work").exists()
    findings = check(cfg, iteration=False)
    assert errors(findings) == []
    assert "not looked at one iteration (--no-iteration)" in told(findings)


def larger_than_resized(cfg: dict[str, Any], resize: dict[str, Any]) -> None:
    hook(cfg)["target_dataloader"]["dataset"]["pipeline"].insert(1, resize)


TARGET = "custom_hooks[0].target_dataloader"
# What is changed in a good config, the place that is named, and words of the report.
CASES: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "Resize": (
        lambda c: larger_than_resized(c, dict(type="Resize", scale=(60, 32))),
        TARGET,
        "6 image(s) are smaller than the crop (48, 48) after Resize",
    ),
    "RandomResize": (
        lambda c: larger_than_resized(c, dict(type="RandomResize", scale=(64, 64), ratio_range=(0.6, 0.7))),
        TARGET,
        "6 image(s) are smaller than the crop (48, 48) after RandomResize",
    ),
    "RandomChoiceResize": (
        lambda c: larger_than_resized(c, dict(type="RandomChoiceResize", scales=[(44, 44), (40, 40)])),
        TARGET,
        "6 image(s) are smaller than the crop (48, 48) after RandomChoiceResize",
    ),
    "EMAHook": (
        lambda c: c["custom_hooks"].append(dict(type="EMAHook")),
        "custom_hooks[1]",
        "EMAHook beside PipaHook",
    ),
    "misspelt": (lambda c: hook(c).update(thresold=0.9), "custom_hooks[0].thresold", "did you mean 'threshold'"),
    "misspelt, shared": (lambda c: c.update(pipa=dict(thresold=1)), "pipa.thresold", "did you mean 'threshold'"),
    "patch size": (
        lambda c: hook(c).update(patch_size=(720, 720), patch_warmup=10000),
        "custom_hooks[0].patch_size",
        "does not fit into images of 64 x 64",
    ),
    "rows": (
        lambda c: hook(c).update(ignore_bottom=64),
        "custom_hooks[0].ignore_bottom",
        "leave no row of the 64 rows",
    ),
    "counts": (
        lambda c: hook(c).update(pixel_min_pixels=10**6),
        "custom_hooks[0].pixel_min_pixels",
        "no class would ever have as many",
    ),
    "classes": (
        lambda c: c["model"]["decode_head"].update(num_classes=5),
        "model.decode_head.num_classes",
        "num_classes is 5, but the data set of train_dataloader has 3 classes",
    ),
    "no label": (lambda c: source(c)["pipeline"].pop(1), "train_dataloader", "a source image came without its label"),
    "batch sizes": (
        lambda c: hook(c)["target_dataloader"].update(batch_size=3),
        f"{TARGET}.batch_size",
        "must have one batch_size, got 2 and 3",
    ),
    "reduce_zero_label": (lambda c: source(c).update(reduce_zero_label=True), "train_dataloader", "reduce_zero_label"),
    "reduce_zero_label, mmseg's": (
        lambda c: c["train_dataloader"].update(
            dataset=dict(
                type="BaseSegDataset",
                data_root=source(c)["data_root"],
                data_prefix=dict(img_path="images", seg_map_path="labels"),
                img_suffix=".png",
                metainfo=dict(classes=("road", "car", "sign")),
                pipeline=[
                    dict(type="LoadImageFromFile"),
                    dict(type="LoadAnnotations", reduce_zero_label=True),
                    dict(type="PackSegInputs"),
                ],
            )
        ),
        "train_dataloader",
        "AssertionError",
    ),
    "loss": (
        lambda c: c["model"]["decode_head"].update(loss_decode=dict(type="DiceLoss", typo=1)),
        "training",
        "unexpected keyword argument 'typo'",
    ),
    "optimiser": (
        lambda c: c["optim_wrapper"]["optimizer"].update(typo=1),
        "training",
        "typo",
    ),
    "sizes": (
        lambda c: (
            c["model"]["data_preprocessor"].update(size=(48, 48)),
            hook(c)["target_dataloader"]["dataset"]["pipeline"][1].update(crop_size=(56, 56)),
        ),
        "training",
        "target image",
    ),
    "head's map of HRDA": (
        lambda c: (hook(c).update(projection_layers="head"), c.update(model=tiny.model("hrda"))),
        "custom_hooks[0].projection_layers",
        "expects a plain EncoderDecoder, got HRDAEncoderDecoder",
    ),
    "head's map, compiled": (
        lambda c: hook(c).update(projection_layers="head", compile=True),
        "custom_hooks[0].projection_layers",
        "expects compile=False",
    ),
    "empty": (lambda c: source(c).update(img_suffix=".bmp"), "train_dataloader", "expected at least one *.bmp image"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_training_refuses(case: str, root: Path, tmp_path: Path) -> None:
    change, place, words = CASES[case]
    cfg = tiny.config(root, tmp_path / "work", iterations=1)
    change(cfg)
    findings = errors(check(cfg))
    assert any(where == place and words in found for where, found in findings), findings
    with pytest.raises(Exception):  # noqa: B017  (the training says the same, or an error of mmengine's)
        tiny.train(cfg)


def test_all_at_once_with_lines(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine faults of different parts in one report; each with the line of the config that says it."""
    cfg = tiny.config(root, tmp_path / "work", patch_size=(720, 720), thresold=0.5)
    cfg["custom_imports"] = dict(imports=["pipa.mmseg"])
    cfg["custom_hooks"].append(dict(type="EMAHook"))
    hook(cfg)["target_dataloader"]["batch_size"] = 3
    larger_than_resized(cfg, dict(type="Resize", scale=(30, 30)))
    cfg["model"]["decode_head"]["num_classes"] = 4
    source(cfg)["pipeline"].pop(1)
    file = tmp_path / "mine.py"
    Config(cfg).dump(file)
    text = file.read_text().splitlines()
    assert cli.main(["doctor", str(file), "--workers", "1"]) == 1
    report = capsys.readouterr().out
    for words in (
        "EMAHook beside",
        "thresold",
        "num_classes is 4",
        "came without its label",
        "must have one batch_size",
        "smaller than the crop",
    ):
        assert words in report, report
    for setting in ("thresold", "batch_size"):
        place = "custom_hooks[0].thresold" if setting == "thresold" else f"{TARGET}.batch_size"
        told = line_of(file, place)
        assert told is not None
        assert f"{place} ({told})" in report
        assert setting in text[int(told.rpartition(":")[2]) - 1]
    assert cli.main(["doctor", str(file), "--workers", "1", "--cfg-options", "custom_hooks.0.alpha=7"]) == 1
    assert "custom_hooks[0].alpha (--cfg-options custom_hooks.0.alpha=7)" in capsys.readouterr().out


def test_places_in_files(tmp_path: Path) -> None:
    base, mine, plain = tmp_path / "base.py", tmp_path / "mine.py", tmp_path / "data.yaml"
    base.write_text("crop = (3, 4)\npipeline = [\n    dict(type='A'),\n    dict(type='B', crop_size=crop),\n]\n")
    mine.write_text(
        "_base_ = ['base.py']\nhook = dict(\n    type='PipaHook',\n    alpha=2,\n)\n"
        "custom_hooks = [hook]\ntrain = dict(pipeline={{_base_.pipeline}})\n"
    )
    plain.write_text("_base_: base.py\npipa:\n  alpha: 2\n  patch_size: [1, 2]\n")
    assert tokens("a[0].b.c[12]") == ["a", 0, "b", "c", 12]
    assert line_of(mine, "custom_hooks[0].alpha") == f"{mine}:4"
    assert line_of(mine, "custom_hooks[0].beta") == f"{mine}:6"  # not said: where the hook is named
    assert line_of(mine, "pipeline[1].crop_size") == f"{base}:4"
    assert line_of(mine, "nothing.at.all") is None
    assert line_of(plain, "pipa.patch_size") == f"{plain}:4"
    assert line_of(plain, "pipeline[0]") == f"{base}:3"
    assert line_of(plain, "pipa.alpha", ["pipa.alpha=3"]) == "--cfg-options pipa.alpha=3"


def test_several_sources(root: Path, tmp_path: Path) -> None:
    """Each part of a ConcatDataset is looked at; rare classes are counted over all."""
    cfg = tiny.config(root, tmp_path / "work")
    sampling = cfg["train_dataloader"]["dataset"]
    other = layouts.folder(tmp_path / "other", count=2, size=tiny.SIZE)
    second = {**sampling["dataset"], "data_root": str(other)}
    repeated = dict(type="RepeatDataset", times=2, dataset=second)
    sampling["dataset"] = dict(type="ConcatDataset", datasets=[sampling["dataset"], repeated])
    findings = check(cfg)
    assert errors(findings) == []
    places = [f.where for f in findings if "images looked at" in f.found]
    inside = "train_dataloader.dataset.dataset.datasets"
    assert {f"{inside}[0]", f"{inside}[1].dataset"} <= set(places)
    (other / "labels/001.png").write_bytes(b"")
    found = errors(check(cfg, iteration=False))
    assert any(where == f"{inside}[1].dataset" and "labels/001.png" in text for where, text in found)


def test_the_share_of_unlisted_colours(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "painted", count=2, size=(20, 20))
    colors = [(0, 0, 0), (1, 2, 3), (2, 4, 6)]
    for i in range(2):
        label = np.zeros((20, 20, 3), np.uint8)
        label[:10] = colors[1]
        label[:4, :5] = (9, 9, 9 + i) if i == 0 else colors[2]
        Image.fromarray(label).save(root / f"labels/{i:03d}.png")
    pipeline = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")]
    dataset = dict(
        type="FolderDataset", data_root=str(root), classes="classes.json", label_format="colors", pipeline=pipeline
    )
    cfg = dict(randomness=dict(seed=0), train_dataloader=dict(sampler=dict(type="DrawSampler"), dataset=dataset))
    (warning,) = [f for f in check(cfg) if "colour of no class" in f.found]
    assert warning.level == doctor.WARNING
    assert warning.found.startswith("2.5 % of all label pixels have a colour of no class")
    assert "000.png: 5.0 % of the pixels" in warning.found
    assert "(9, 9, 9)" in warning.found


def test_test_data_of_other_classes(root: Path, tmp_path: Path) -> None:
    cfg = tiny.config(root, tmp_path / "work")
    data = copy.deepcopy(source(cfg))
    data.update(
        classes=["sign", "car", "road"],
        ignore_index=100,
        pipeline=[dict(type="LoadImage"), dict(type="LoadLabel", ignore_index=255), dict(type="PackSegInputs")],
    )
    cfg.update(
        test_dataloader=dict(batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler"), dataset=data),
        test_cfg=dict(type="TestLoop"),
        test_evaluator=dict(type="IoUMetric"),
    )
    found = dict(errors(check(cfg, iteration=False)))
    assert found["test_dataloader.dataset"].endswith("that of the data set of test_dataloader is 'sign'")
    assert "IoUMetric leaves out id 255" in found["test_evaluator"]
    data.update(classes="classes.json", ignore_index=255)
    assert errors(check(cfg, iteration=False)) == []


@pytest.mark.parametrize("color", ["color", "unchanged", "color_ignore_orientation"])
def test_a_turned_photo_is_read_as_the_training_reads_it(color: str, root: Path, tmp_path: Path) -> None:
    """mmseg's own loader turns it as its EXIF record says, in one of its ways to read colours."""
    held = layouts.folder(tmp_path / "held", count=4, size=(64, 96))
    turned = Image.Exif()
    turned[0x0112] = 6
    for file in sorted((held / "images").iterdir()):
        with Image.open(file) as image:
            stored = image if color != "color" else image.transpose(Image.Transpose.ROTATE_90)
            stored.save(file.with_suffix(".jpg"), exif=turned, quality=95)
        file.unlink()
    cfg = tiny.config(root, tmp_path / "work", iterations=1)
    data = source(cfg)
    data.update(data_root=str(held), img_suffix=".jpg")
    data["pipeline"][0] = dict(type="LoadImageFromFile", color_type=color)
    findings = check(cfg)
    assert errors(findings) == []
    assert "one iteration ran" in told(findings)
    assert "train_dataloader 4 of 4 images looked at; sizes 64x96 (4)" in told(findings)
    tiny.train(cfg)


def test_loaders_that_nothing_reads_are_not_looked_at(root: Path, tmp_path: Path) -> None:
    cfg = tiny.config(root, tmp_path / "work", iterations=1)
    gone = copy.deepcopy(hook(cfg)["target_dataloader"])
    gone["dataset"]["data_root"] = str(tmp_path / "gone")
    cfg["custom_hooks"] = []
    cfg.update(target_dataloader=gone, other_dataloader=copy.deepcopy(gone))
    findings = check(cfg)
    assert errors(findings) == []
    assert "one iteration ran" in told(findings)
    tiny.train(cfg)
    cfg["custom_hooks"] = [dict(type="PipaHook", **tiny.TERMS)]  # reads it
    found = errors(check(cfg, iteration=False))
    assert any(where == "target_dataloader" and str(tmp_path / "gone") in text for where, text in found)


def test_a_config_without_a_model_says_so(root: Path) -> None:
    cfg = tiny.config(root, Path("unused"))
    del cfg["model"]
    assert "the model, its loss and one iteration: the config has no model" in told(check(cfg))
    assert errors(check(cfg)) == []
