"""Stored soft labels: written as a network says them, read where transforms moved the pixels, misfits refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

from mmengine.config import Config, ConfigDict
from mmseg.registry import TRANSFORMS

import pipa
import small_segmentors
import tiny
from pipa.commands import cli
from pipa.files.images import DataError
from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.datasets.soft_labels import log_probabilities
from pipa.mmseg.datasets.transforms import run
from pipa.mmseg.models.segmentors.step_adapter import teacher_logits

pytestmark = pytest.mark.slow

PIPELINE: list[dict[str, Any]] = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(96, 80), keep_ratio=False),
    dict(type="SyncCrop", crop_size=(40, 56)),
    dict(type="RandomFlip", prob=1.0),
    dict(type="PackUnlabelled"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny.data(tmp_path_factory.mktemp("data"))


def training(root: Path, work: Path, **terms: Any) -> dict[str, Any]:
    off = dict(pixel_weight=0.0, patch_weight=0.0, mask_weight=0.0, feature_distance_weight=0.0)
    cfg = tiny.config(root, work, iterations=2, **{**off, **terms})
    cfg["test_pipeline"] = [dict(type="LoadImage"), dict(type="PackSegInputs")]
    return cfg


@pytest.fixture(scope="module")
def start(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("start")
    tiny.train(training(root, work))
    return work / "iter_2.pth"


def images(root: Path) -> list[Path]:
    return sorted((root / "target").rglob("*.png"))


def written(start: Path, root: Path, out: Path, stride: int) -> Path:
    assert cli.main(["soft-labels", str(start), str(root / "target"), "--out", str(out), "--stride", str(stride)]) == 0
    return out


def test_written_as_the_frozen_copy_says(start: Path, root: Path, tmp_path: Path) -> None:
    """Whole images: the softmax that the iteration's start network gives, to half precision."""
    out = written(start, root, tmp_path / "soft", 1)
    network = pipa.load(start).network
    for image in images(root):
        prepared = network.prepare(image)
        with torch.no_grad():
            expected = teacher_logits(network.model, prepared.inputs).softmax(1)[0]
        stored = np.load(out / f"{image.stem}.npy")
        assert stored.dtype == np.float16
        np.testing.assert_allclose(stored, expected.numpy(), atol=6e-4)
        sample = packed(image, out, [PIPELINE[0], PIPELINE[-1]])
        found = log_probabilities([sample], torch.device("cpu"))
        assert found is not None
        torch.testing.assert_close(found[0].exp(), expected, atol=6e-4, rtol=0)


def test_a_single_logit_is_two_classes(root: Path, tmp_path: Path) -> None:
    """A softmax over it alone would be 1 everywhere."""
    cfg = training(root, tmp_path)
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True)
    cfg["model"]["decode_head"].update(num_classes=2, out_channels=1, threshold=0.5, loss_decode=loss)
    config = Config(cfg)
    checkpoint = small_segmentors.checkpoint(config, tmp_path / "one.pth", describe(config))
    out = written(checkpoint, root, tmp_path / "soft", 1)
    assert len(json.loads((out / "soft_labels.json").read_text())["classes"]) == 2
    image = images(root)[0]
    stored, found = np.load(out / f"{image.stem}.npy"), pipa.load(checkpoint).predict(image)
    assert stored.shape == (2, *tiny.SIZE)
    np.testing.assert_allclose(stored.max(0), found.confidence_hw, atol=6e-4)
    clear = found.confidence_hw > 0.501  # elsewhere half precision may decide otherwise
    assert np.array_equal(stored.argmax(0)[clear], found.label_hw[clear])
    assert len(np.unique(found.label_hw[clear])) == 2


def packed(image: Path, folder: Path, steps: list[dict[str, Any]]) -> Any:
    steps = [steps[0], dict(type="LoadSoftLabel", folder=str(folder)), *steps[1:]]
    transforms = [TRANSFORMS.build(ConfigDict(step)) for step in steps]
    np.random.seed(3)  # noqa: NPY002
    return run(transforms, dict(img_path=str(image), seg_fields=[], reduce_zero_label=False))["data_samples"]


@pytest.mark.parametrize("stride", [1, 4])
def test_moved_as_labels_are(stride: int, start: Path, root: Path, tmp_path: Path) -> None:
    """Against the stored map, enlarged, resized as labels are, cut and mirrored by hand."""
    out = written(start, root, tmp_path / "soft", stride)
    image = images(root)[0]
    sample = packed(image, out, PIPELINE)
    stored = torch.from_numpy(np.load(out / f"{image.stem}.npy")).float()
    height, width = (int(n) for n in sample.metainfo["ori_shape"])
    large = torch.nn.functional.interpolate(stored[None], (height, width), mode="bilinear", align_corners=False)[0]
    rows = torch.arange(80) * height // 80
    columns = torch.arange(96) * width // 96
    resized = large[:, rows][:, :, columns]
    np.random.seed(3)  # noqa: NPY002
    top, left = np.random.randint(0, 80 - 40 + 1), np.random.randint(0, 96 - 56 + 1)  # noqa: NPY002
    expected = resized[:, top : top + 40, left : left + 56].flip(2)
    assert sample.soft_label.data.dtype == torch.float16
    torch.testing.assert_close(sample.soft_label.data.float(), expected, atol=1e-3, rtol=0)


def test_a_training_from_disk_has_the_labels_of_the_frozen_copy(start: Path, root: Path, tmp_path: Path) -> None:
    """Crops of the image's size: what is stored is what the copy says of them."""
    out = written(start, root, tmp_path / "soft", 1)
    steps = []
    for name, terms in (("copy", {}), ("disk", dict(initial_labels=str(out)))):
        cfg = training(root, tmp_path / name, label_network="initial", threshold=0.0, **terms)
        for loader in (
            cfg["train_dataloader"]["dataset"]["dataset"],
            cfg["custom_hooks"][0]["target_dataloader"]["dataset"],
        ):
            loader["pipeline"] = [step for step in loader["pipeline"] if step["type"] != "RandomFlip"]
            for step in loader["pipeline"]:
                if step["type"] == "SyncCrop":
                    step["crop_size"] = tiny.SIZE
        steps.append(tiny.pipa_hook(tiny.train(cfg, load_from=start)).pipa)
    copied, stored = steps
    assert stored.initial is None
    assert torch.equal(copied.last["target_image"], stored.last["target_image"])
    with torch.no_grad():
        logits = teacher_logits(copied.initial.eval(), copied.last["target_image"])
    best = logits.softmax(1).topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-3  # elsewhere half precision may decide otherwise
    assert clear.float().mean() > 0.8
    labels = [step.last["pseudo_label"] for step in steps]
    assert torch.equal(labels[0], logits.argmax(1))
    assert torch.equal(labels[0][clear], labels[1][clear])
    assert len(labels[0].unique()) > 1


def test_labels_of_two_networks_or_pictures_never_mix(
    start: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every training ends in a file of one name, and two folders may have pictures of one name."""
    out = written(start, root, tmp_path / "soft", 1)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    assert cli.main(["soft-labels", str(start), str(root / "target"), "--out", str(out), "--stride", "1"]) == 0
    assert f"0 soft labels written to {out}, {len(images(root))} were there" in capsys.readouterr().out

    other = tmp_path / "other" / start.name
    other.parent.mkdir()
    content = torch.load(start, weights_only=False)
    content["state_dict"]["decode_head.conv_seg.bias"] += 1
    torch.save(content, other)
    first = images(root)[0]
    replaced = tmp_path / "replaced" / first.name
    replaced.parent.mkdir()
    replaced.write_bytes(images(root)[1].read_bytes())
    for checkpoint, picture, said in (
        (other, first, "soft_labels.json: the soft labels there are of another network; choose another --out"),
        (start, replaced, f"{first.stem}.npy: is of another picture of that name; remove it or choose another --out"),
    ):
        assert cli.main(["soft-labels", str(checkpoint), str(picture), "--out", str(out), "--stride", "1"]) == 1
        assert said in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    (out / f"{first.stem}.npy").unlink()
    assert cli.main(["soft-labels", str(start), str(replaced), "--out", str(out), "--stride", "1"]) == 0
    assert (out / f"{first.stem}.npy").read_bytes() == before[f"{images(root)[1].stem}.npy"]

    index = json.loads((out / "soft_labels.json").read_text())
    del index["sha256"]  # as they once were written
    (out / "soft_labels.json").write_text(json.dumps(index))
    assert cli.main(["soft-labels", str(start), str(first), "--out", str(out), "--stride", "1"]) == 1
    said = "soft_labels.json: expected 'sha256', a digest of the network's weights, got an index without"
    assert said in capsys.readouterr().err

    new = tmp_path / "new"
    assert cli.main(["soft-labels", str(start), str(tmp_path / "none.png"), "--out", str(new)]) == 1
    assert not new.exists()
    (out / "soft_labels.json").write_text('{"cla')
    assert cli.main(["soft-labels", str(start), str(first), "--out", str(out)]) == 1
    assert "soft_labels.json: expected the index of `pipa soft-labels`, got no such JSON" in capsys.readouterr().err


def test_refusals(start: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = written(start, root, tmp_path / "soft", 4)
    again = ["soft-labels", str(start), str(root / "target"), "--out", str(out), "--stride"]
    assert cli.main([*again, "4"]) == 0
    assert "0 soft labels written" in capsys.readouterr().out
    assert cli.main([*again, "2"]) == 1
    assert "the soft labels there are of stride 4, not 2" in capsys.readouterr().err

    def refused(error: type[Exception], message: str, **terms: Any) -> None:
        terms = {"label_network": "initial", "initial_labels": str(out), **terms}
        with pytest.raises(error, match=message):
            tiny.train(training(root, tmp_path / "w", **terms))

    refused(ValueError, "initial='stored': expected label_network='initial'", label_network="teacher")
    refused(FileNotFoundError, "soft_labels.json: not there; write", initial_labels=str(tmp_path))
    lost = out / f"{images(root)[2].stem}.npy"
    lost.rename(tmp_path / "kept.npy")
    refused(FileNotFoundError, f"{lost.name}: not there, nor 0 more")
    with pytest.raises(DataError, match=f"{lost.name}: no soft label of"):
        packed(images(root)[2], out, PIPELINE)
    np.save(lost, np.zeros((3, 4, 4), np.float32))
    with pytest.raises(DataError, match=r"expected probabilities \(K, h, w\) in float16, got \(3, 4, 4\) float32"):
        packed(images(root)[2], out, PIPELINE)
    index = json.loads((out / "soft_labels.json").read_text())
    for classes, message in (
        (index["classes"][:2], "expected 3 classes, as the network has, got 2"),
        ([index["classes"][0], "moon", index["classes"][2]], "class 1: expected .* as the data set has, got 'moon'"),
    ):
        (out / "soft_labels.json").write_text(json.dumps({**index, "classes": classes}))
        refused(ValueError, message)


def test_no_file_of_others_is_replaced(
    start: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / f"{images(root)[1].stem}.npy"
    np.save(own, np.arange(5))
    assert cli.main(["soft-labels", str(start), str(root / "target"), "--out", str(tmp_path)]) == 1
    assert f"{own}: is there and no soft label that an index names" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [own.name]
    assert np.load(own).tolist() == [0, 1, 2, 3, 4]


def test_soft_labels_are_of_the_pictures_that_train(start: Path, root: Path, tmp_path: Path) -> None:
    """Names alone do not say so: a picture may have been replaced, or another folder have one of that name."""
    data = tmp_path / "data"
    shutil.copytree(root, data)
    out = written(start, data, tmp_path / "soft", 4)
    terms = {"label_network": "initial", "initial_labels": str(out)}
    tiny.train(training(data, tmp_path / "right", **terms))
    first, second = images(data)[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    said = rf"{first.stem}.npy: expected the soft label of .*{first.name}, got one of another picture of that name"
    with pytest.raises(ValueError, match=said):
        tiny.train(training(data, tmp_path / "replaced", **terms))
    first.write_bytes(content)
    beside = first.parent / "more" / first.name
    beside.parent.mkdir()
    beside.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=r"expected the soft label of .*more.*, got one of another picture"):
        tiny.train(training(data, tmp_path / "beside", **terms))


def test_soft_labels_lie_as_predictions_do(root: Path, tmp_path: Path) -> None:
    """A test pipeline may mirror the picture, and a very narrow one is extended for its resizing."""
    narrow = tmp_path / "narrow.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1, 400, 3), dtype=np.uint8)).save(narrow)
    cfg = training(root, tmp_path)
    steps = [dict(type="Resize", scale=(128, 128), keep_ratio=True), dict(type="RandomFlip", prob=1.0)]
    cfg["test_pipeline"] = [dict(type="LoadImage"), *steps, dict(type="PackSegInputs")]
    config = Config(cfg)
    checkpoint = small_segmentors.checkpoint(config, tmp_path / "any.pth", describe(config))
    segmenter = pipa.load(checkpoint)
    assert segmenter.prepare(narrow).extended == (13, 400)
    for file, size in ((images(root)[0], (128, 128)), (narrow, (1, 128))):
        arguments = ["soft-labels", str(checkpoint), str(file), "--out", str(tmp_path / "soft"), "--stride", "1"]
        assert cli.main(arguments) == 0
        stored = np.load(tmp_path / "soft" / f"{file.stem}.npy").astype(np.float32)
        assert stored.shape[1:] == size
        label = segmenter.predict(file).label_hw
        at = [((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, label.shape, strict=True)]
        ranked = np.sort(stored, 0)
        clear = ranked[-1] - ranked[-2] > 0.01
        assert clear.mean() > 0.2
        assert (stored.argmax(0) == label[np.ix_(*at)])[clear].mean() > 0.95
