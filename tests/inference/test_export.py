"""Files for elsewhere say what the checkpoint says: .pth, safetensors, its folder, and ONNX under onnxruntime."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import pipa
from pipa.commands import cli
from pipa.files.torch_file import load_plain
from pipa.inference import Segmenter
from pipa.inference.export.metadata import from_text, to_text
from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.run.export import export
from pipa.mmseg.run.train import load_config
from small_segmentors import checkpoint, scene, shrink

IMAGE = scene(60, 80)


def made(name: str, folder: Path, **model: Any) -> Path:
    config = shrink(load_config(name))
    config.merge_from_dict({"model": model})
    return checkpoint(config, folder / "random.pth", describe(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return made("toy_pipa", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("which", ["student", "teacher"])
@pytest.mark.parametrize("out", ["w.pth", "w.safetensors", "folder"])
def test_exported_weights_predict_alike(out: str, which: str, trained: Path, tmp_path: Path) -> None:
    right = pipa.load(trained, weights=which).predict(IMAGE)
    other = pipa.load(trained, weights={"student": "teacher", "teacher": "student"}[which]).predict(IMAGE)
    assert (right.label_hw != other.label_hw).any()
    form = [] if out.endswith(".pth") else ["--format", "safetensors"]
    assert cli.main(["export", str(trained), "--out", str(tmp_path / out), f"--{which}", *form]) == 0
    loaded = pipa.load(tmp_path / out)
    found = loaded.predict(IMAGE)
    np.testing.assert_array_equal(found.label_hw, right.label_hw)
    np.testing.assert_array_equal(found.confidence_hw, right.confidence_hw)
    assert (found.classes, found.palette) == (right.classes, right.palette)
    pipa.load(tmp_path / out, weights=which)
    with pytest.raises(ValueError, match=r"holds no (student|teacher)"):
        pipa.load(tmp_path / out, weights={"student": "teacher", "teacher": "student"}[which])


def test_a_pretrained_folder(trained: Path, tmp_path: Path) -> None:
    segmenter = pipa.load(trained)
    segmenter.save_pretrained(tmp_path / "hub")
    assert sorted(p.name for p in (tmp_path / "hub").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = Segmenter.from_pretrained(tmp_path / "hub")
    np.testing.assert_array_equal(again.predict(IMAGE).label_hw, segmenter.predict(IMAGE).label_hw)
    again.save_pretrained(tmp_path / "hub")  # over its own
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pipa-rs\n")
    for part in ("## Classes", "## Data", "## Results", "## Settings", "## Licence", *segmenter.classes):
        assert part in card
    json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my notes")
    with pytest.raises(FileExistsError, match="no model card"):
        segmenter.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "my notes"


@pytest.mark.parametrize("how", ["same", "link", "relative"])
def test_a_checkpoint_is_never_written_over(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made("toy_pipa", tmp_path)
    before = file.read_bytes()
    out = {"same": str(file), "link": str(tmp_path / "link.pth"), "relative": "./random.pth"}[how]
    if how == "link":
        os.link(file, out)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(file), "--out", out]) == 1
    assert "the output would replace it" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize("form", ["pth", "safetensors", "onnx", "folder"])
def test_an_export_replaces_earlier_exports_only(
    form: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    out = tmp_path / ("hub" if form == "folder" else f"model.{form}")
    kind = ["--format", "safetensors"] if form == "folder" else []
    size = ["--size", "32", "32"] if form == "onnx" else []

    def export(to: Path = out) -> int:
        return cli.main(["export", str(trained), "--out", str(to), *kind, *size])

    # A training's checkpoint under the name, and somebody's file.
    foreign = [trained.read_bytes(), b"mine"]
    names = ["model.safetensors", "config.json", "README.md"] if form == "folder" else [None]
    for content in foreign:
        for name in names:
            file = out if name is None else out / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            assert export() == 1
            assert f"{file}: is there and no " in capsys.readouterr().err
            assert file.read_bytes() == content
            file.unlink()
    assert [export(), export()] == [0, 0]
    capsys.readouterr()
    if form == "folder":  # each of the three is looked at, also beside two of ours
        for name in names:
            ours = (out / name).read_bytes()
            (out / name).write_bytes(b"mine")
            assert export() == 1
            assert f"{out / name}: is there and no " in capsys.readouterr().err
            (out / name).write_bytes(ours)
    (tmp_path / "taken").mkdir()
    if form in ("pth", "onnx"):
        assert cli.main(["export", str(trained), "--out", str(tmp_path / "taken"), "--format", form, *size]) == 1
        assert "expected a file for --out, found a folder" in capsys.readouterr().err


def test_the_end_of_a_name_counts_in_any_case(trained: Path, tmp_path: Path) -> None:
    right = pipa.load(trained).predict(IMAGE)
    out = tmp_path / "model.SafeTensors"
    assert cli.main(["export", str(trained), "--out", str(out)]) == 0
    with pytest.raises(ValueError, match="no pickle of tensors"):
        load_plain(out)
    np.testing.assert_array_equal(pipa.load(out).predict(IMAGE).label_hw, right.label_hw)


ENDS = [
    ("pth", "net.safetensors", "a name that ends in .pth"),
    ("pth", "net.onnx", "a name that ends in .pth"),
    ("safetensors", "net.pth", "a name that ends in .safetensors or a folder"),
    ("safetensors", "v1.0", "a name that ends in .safetensors or a folder"),
    ("onnx", "net.pth", "a name that ends in .onnx"),
]


@pytest.mark.parametrize(("form", "out", "expected"), ENDS)
def test_a_file_ends_as_it_is_read(
    form: str, out: str, expected: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under another end nothing here could open it."""
    assert cli.main(["export", str(trained), "--format", form, "--out", str(tmp_path / out)]) == 1
    said = f"--out {tmp_path / out}: for --format {form} expected {expected}, got {Path(out).suffix}"
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["net", "net.bin"])
def test_other_ends_are_read_as_pth(out: str, trained: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(trained), "--format", "pth", "--out", str(tmp_path / out)]) == 0
    found = pipa.load(tmp_path / out).predict(IMAGE).label_hw
    np.testing.assert_array_equal(found, pipa.load(trained).predict(IMAGE).label_hw)


FLIP = dict(type="RandomFlip", prob=1.0)
LOST: dict[str, tuple[list[dict[str, Any]], str]] = {
    "CLAHE": ([dict(type="LoadImage"), dict(type="CLAHE")], "CLAHE"),
    "two": (
        [dict(type="LoadImage"), dict(type="Normalize", mean=[1, 2, 3], std=[4, 5, 6]), FLIP],
        "Normalize, RandomFlip",
    ),
    "grey": ([dict(type="LoadImageFromFile", color_type="grayscale")], "LoadImageFromFile"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_onnx_leaves_out_no_step(case: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps, names = LOST[case]
    file, out = tmp_path / "mine.py", tmp_path / "net.onnx"
    file.write_text(
        f"_base_ = 'toy_pipa'\nsteps = {[*steps, dict(type='LoadLabel'), dict(type='PackSegInputs')]!r}\n"
        "val_dataloader = dict(dataset=dict(pipeline=steps))\ntest_dataloader = dict(dataset=dict(pipeline=steps))\n"
        "model = dict(test_cfg=dict(mode='whole'))\n"
    )
    argv = ["export", str(trained), "--config", str(file), "--out", str(out)]
    assert cli.main([*argv, "--size", "32", "32"]) == 1
    assert f"{trained}: an ONNX file would lack {names} of the test pipeline" in capsys.readouterr().err
    assert not out.exists()
    if case != "grey":  # the other forms keep the steps
        wide = made("toy_pipa", tmp_path)
        kept = tmp_path / "net.safetensors"
        config = load_config(file)
        config.model = shrink(load_config("toy_pipa")).model
        export(wide, kept, "safetensors", config=config)
        right = pipa.load(wide, config=config).predict(IMAGE).label_hw
        assert (right != pipa.load(wide).predict(IMAGE).label_hw).any()
        np.testing.assert_array_equal(pipa.load(kept).predict(IMAGE).label_hw, right)


@pytest.mark.parametrize("size", [("0", "64"), ("-3", "64")])
def test_a_size_is_of_pixels(
    size: tuple[str, str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "net.onnx"), "--size", *size]) == 1
    said = f"--size: expected a height and a width of 1 pixel or more, got {' '.join(size)}"
    assert said in capsys.readouterr().err


def test_metadata_keeps_tuples() -> None:
    value = {"a": (1, (2, [3, (4,)])), "b": [{"c": ()}], "d": None, "e": "ü", "f": 1e-6, "g": True}
    assert from_text(to_text(value)) == value


NETWORKS: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    "daformer": ("gta2cs_daformer_pipa", (64, 96), {}),
    "lite": ("idda_to_camvid_pipa", (48, 64), {}),
    "deeplab_v2": (
        "toy_pipa",
        (48, 64),
        {"decode_head": dict(_delete_=True, type="DeepLabV2Head", in_channels=128, in_index=3, num_classes=9)},
    ),
    "vit": (
        "toy_pipa",
        (64, 64),
        {
            "backbone": dict(
                _delete_=True,
                type="ViTPyramid",
                model_name="vit_small_patch16_dinov3",
                embed_dim=16,
                depth=4,
                num_heads=2,
            ),
            "decode_head": {"in_channels": (16, 16, 16, 16), "channels": 16, "decoder_params": {"embed_dims": 16}},
        },
    ),
    "hrda": ("gta2cs_hrda_pipa", (64, 64), {}),
    "hrda_windows": ("gta2cs_hrda_pipa", (64, 96), {}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_gives_the_logits_of_pytorch(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    config, (height, width), model = NETWORKS[name]
    file, out = made(config, tmp_path, **model), tmp_path / "net.onnx"
    assert cli.main(["export", str(file), "--size", str(height), str(width), "--out", str(out), "--teacher"]) == 0
    assert "largest difference to PyTorch" in capsys.readouterr().out
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(float)", [3, height, width])
    assert (got.name, got.type) == ("logits", "tensor(float)")
    segmenter = pipa.load(file, weights="teacher")
    images = [scene(height, width, seed) for seed in range(3)]
    batch = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)
    for count in (1, 3):
        (logits,) = session.run(None, {"image": batch[:count]})
        assert logits.shape == (count, len(segmenter.classes), height, width)
        for image, found in zip(images, logits, strict=False):
            # Not through the pipeline: that may resize, which ONNX leaves to the caller.
            inputs = segmenter.network.normalised(torch.from_numpy(batch[:1])).shape
            assert inputs[2:] == (height, width)
            right = direct(segmenter, image)
            np.testing.assert_allclose(found, right, atol=2e-3 * max(1.0, np.abs(right).max()))
    entry = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert from_text(entry["pipa"])["classes"] == list(segmenter.classes)


def direct(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    """Logits through the model's own preprocessor, without the pipeline's resizing."""
    description = segmenter.network.description()
    steps = [step for step in description["test_pipeline"] if "Resize" not in step["type"]]
    network = type(segmenter.network)(segmenter.network.model, {**description, "test_pipeline": steps})
    return Segmenter(network).logits(image).numpy()
