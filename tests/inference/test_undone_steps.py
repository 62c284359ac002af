"""A prediction lies on the picture: test pipelines whose steps cannot be taken back are refused by every command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

import pipa
from pipa.commands import cli
from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.run.train import load_config
from small_segmentors import checkpoint, scene

pytestmark = pytest.mark.usefixtures("toy_as_data")

LOAD, LABEL, PACK = dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")
PAD = dict(type="Pad", size=(320, 128))
ROTATE = dict(type="RandomRotate", prob=1.0, degree=30)
# The steps of a test pipeline, the place of the one that is refused, and what every command says of it.
REFUSED: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "Pad": ([LOAD, PAD, LABEL, PACK], 1, "Pad cannot stand in a test pipeline: it pads the picture"),
    "Pad of label": ([LOAD, LABEL, PAD, PACK], 2, "Pad cannot stand in a test pipeline: it pads the picture"),
    "mmseg's Pad": ([LOAD, {**PAD, "type": "mmseg.Pad"}, LABEL, PACK], 1, "Pad cannot stand in a test pipeline"),
    "CenterCrop": (
        [LOAD, dict(type="CenterCrop", crop_size=(64, 64)), LABEL, PACK],
        1,
        "CenterCrop cannot stand in a test pipeline: it cuts the picture",
    ),
    "SyncCrop": (
        [LOAD, LABEL, dict(type="SyncCrop", crop_size=(64, 64)), PACK],
        2,
        "SyncCrop cannot stand in a test pipeline: it is random",
    ),
    "RandomRotate": ([LOAD, LABEL, ROTATE, PACK], 2, "RandomRotate cannot stand in a test pipeline: it is random"),
    "applied by chance": (
        [LOAD, dict(type="RandomApply", transforms=[ROTATE]), LABEL, PACK],
        1,
        "RandomApply cannot stand in a test pipeline: it is random",
    ),
    "mirrored by chance": (
        [LOAD, dict(type="RandomFlip", prob=0.5), LABEL, PACK],
        1,
        "RandomFlip cannot stand in a test pipeline: it is random",
    ),
    "colours by chance": (
        [LOAD, dict(type="PhotoMetricDistortion"), LABEL, PACK],
        1,
        "PhotoMetricDistortion cannot stand in a test pipeline: it is random",
    ),
}
# Only what is compared with a label goes wrong here, so a prediction goes on.
LATE = {
    "Resize": dict(type="Resize", scale=(128, 64)),
    "RandomFlip": dict(type="RandomFlip", prob=1.0),
}


@pytest.fixture(scope="module")
def model(toy_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPA_DATA", str(toy_pair))
        config = load_config("toy_pipa")
    return checkpoint(config, tmp_path_factory.mktemp("model") / "random.pth", describe(config))


def written(folder: Path, steps: list[dict[str, Any]]) -> Path:
    file = folder / "mine.py"
    file.write_text(
        f"_base_ = 'toy_pipa'\nsteps = {steps!r}\nlog_level = 'ERROR'\n"
        "val_dataloader = dict(dataset=dict(pipeline=steps))\ntest_dataloader = dict(dataset=dict(pipeline=steps))\n"
    )
    return file


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_undone_is_refused_everywhere(
    case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, step, said = REFUSED[case]
    file, picture = str(written(tmp_path, steps)), tmp_path / "a.png"
    Image.fromarray(scene(128, 230)).save(picture)
    work = ["--work-dir", str(tmp_path / "work")]
    for argv, place in (
        (["predict", file, str(model), str(picture), "--out", str(tmp_path / "out")], "test_pipeline"),
        (["test", file, str(model), *work], "test_dataloader.dataset.pipeline"),
        (["train", file, *work], "val_dataloader.dataset.pipeline"),
    ):
        assert cli.main(argv) == 1
        assert f"pipa {argv[0]}: {place}[{step}]: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["doctor", file, "--no-iteration", "--max-files", "1", "--workers", "1"]) == 1
    report = capsys.readouterr().out.splitlines()
    for loader in ("val", "test"):
        (line,) = [one for one in report if f" {loader}_dataloader.dataset.pipeline[{step}] " in one]
        assert said in line


@pytest.mark.parametrize("name", LATE)
def test_a_label_stays_as_it_is(
    name: str, model: Path, toy_pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predictions are resized and mirrored back, so labels must not be changed with the picture."""
    late, early = [LOAD, LABEL, LATE[name], PACK], [LOAD, LATE[name], LABEL, PACK]
    work = ["--work-dir", str(tmp_path / "work")]
    assert cli.main(["test", str(written(tmp_path, late)), str(model), *work]) == 1
    said = f"test_dataloader.dataset.pipeline[2]: {name} stands after LoadLabel and changes the label too"
    assert said in capsys.readouterr().err
    (label,) = sorted((toy_pair / "target/gtFine/val").rglob("*_labelTrainIds.png"))
    (picture,) = sorted((toy_pair / "target/leftImg8bit/val").rglob("*.png"))
    found = pipa.load(model, config=str(written(tmp_path, late))).predict(picture).label_hw
    assert cli.main(["test", str(written(tmp_path, early)), str(model), *work]) == 0
    told = capsys.readouterr().out.splitlines()
    right = np.asarray(Image.open(label))
    accuracy = 100 * (found == right)[right != 255].mean()
    assert [float(line.split()[-1]) for line in told if line.startswith("aAcc ")] == [pytest.approx(accuracy, abs=0.01)]


def test_grey_of_the_loader_is_not_guessed(model: Path, tmp_path: Path) -> None:
    grey = dict(type="LoadImageFromFile", color_type="grayscale")
    segmenter = pipa.load(model, config=str(written(tmp_path, [grey, LABEL, PACK])))
    image = scene(60, 80)
    Image.fromarray(image).save(tmp_path / "a.png")
    coloured = pipa.load(model).predict(tmp_path / "a.png").label_hw
    assert (segmenter.predict(tmp_path / "a.png").label_hw != coloured).any()
    for source in (image, Image.open(tmp_path / "a.png")):
        with pytest.raises(ValueError, match=r"^image: expected a file, because .* LoadImageFromFile reads it as grey"):
            segmenter.predict(source)


def test_a_device_is_one_of_torch(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(scene(60, 80)).save(tmp_path / "a.png")
    for name, said in (
        ("foo", "expected cpu, cuda, cuda:1 or another of torch's, got 'foo'"),
        ("cuda:99", "'cuda:99'"),
    ):
        assert cli.main(["predict", str(model), str(tmp_path / "a.png"), "--device", name]) == 1
        line = capsys.readouterr().err.splitlines()[0]
        assert line.startswith("pipa predict: device: ")
        assert said in line


def test_a_folder_of_a_training_is_no_checkpoint(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "iter_2.pth").write_bytes(model.read_bytes())
    commands = (
        ["test", "toy_pipa", str(work), "--work-dir", str(tmp_path / "logs")],
        ["predict", str(work), str(tmp_path)],
        ["export", str(work), "--out", str(tmp_path / "net.pth")],
    )
    for argv in commands:
        assert cli.main(argv) == 1
        said = (
            f"{work}: expected one checkpoint, found the folder of a training, which has 1; the last is {work}/iter_2"
        )
        assert said in capsys.readouterr().err
    (work / "iter_2.pth").unlink()
    assert cli.main(commands[0]) == 1
    assert f"{work}: expected a checkpoint, found a folder without model.safetensors" in capsys.readouterr().err
