"""What fails, fails alone and says what failed: a picture of a batch, an output that cannot be written, a cut video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

import pipa
from pipa.commands import cli
from pipa.inference.segmenter import Segmenter
from pipa.inference.video import Writer
from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.run.train import load_config
from small_segmentors import checkpoint, scene, shrink


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    config = shrink(load_config("toy_pipa"))
    return checkpoint(config, tmp_path_factory.mktemp("model") / "random.pth", describe(config))


@pytest.fixture
def predict(model: Path) -> Callable[..., int]:
    return lambda images, *options: cli.main(["predict", str(model), str(images), *map(str, options)])


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(scene(20, 30, i)).save(folder / f"{i}.png")
    return folder


def film(path: Path, frames: int, height: int = 48, width: int = 64) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (width, height))
    for i in range(frames):
        writer.write(scene(height, width, i)[:, :, ::-1].copy())
    writer.release()
    return path


def test_one_picture_fails_without_its_batch(
    model: Path,
    predict: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    segmenter = pipa.load(model)
    files = sorted(photos(tmp_path / "photos", 3).iterdir())
    bad = segmenter.prepare(files[1]).inputs
    alone = {file: segmenter.predict(file).label_hw for file in files}
    bands = Segmenter._bands

    def spoilt(self: Segmenter, items: Any, inputs: torch.Tensor, *rest: Any) -> Any:
        for part, band in bands(self, items, inputs, *rest):
            wrong = [i for i, one in enumerate(inputs) if torch.equal(one[None], bad)]
            band[wrong] = float("nan")
            yield part, band

    monkeypatch.setattr(Segmenter, "_bands", spoilt)
    told: list[Any] = []
    found = list(
        segmenter.stream(files, batch_size=3, on_error=lambda source, error: told.append((source, str(error))))
    )
    assert [prediction.path for prediction in found] == [files[0], files[2]]
    for prediction in found:
        np.testing.assert_array_equal(prediction.label_hw, alone[prediction.path])
    assert [source for source, _ in told] == [files[1]]
    assert told[0][1].startswith(f"{files[1]}: the network's logits are not finite")

    assert predict(tmp_path / "photos", "--out", tmp_path / "out", "--batch-size", 3) == 1
    said = capsys.readouterr()
    assert "2 image(s) segmented" in said.out
    assert f"{files[1]}: the network's logits are not finite" in said.err
    assert not [file for file in (files[0], files[2]) if str(file) in said.err]
    assert sorted(path.name for path in (tmp_path / "out").glob("*_label.png")) == ["0_label.png", "2_label.png"]


@pytest.mark.parametrize("classes", [1, 2])
def test_views_of_a_sure_network_are_averaged(classes: int) -> None:
    """Probabilities of exactly 0 and 1 have no finite logarithm."""

    def averaged(logits: torch.Tensor, flip: bool) -> torch.Tensor:
        class Fixed(Segmenter):
            def _bands(self, items: Any, inputs: torch.Tensor, window: Any) -> Any:
                yield slice(None), logits.flip(3) if mirrored.pop() else logits

        mirrored = [True, False] if flip else [False]
        network = type("Network", (), {"align_corners": False, "classes": ("a", "b")})()
        segmenter = object.__new__(Fixed)
        segmenter.network = network
        return segmenter._averaged([], torch.zeros(1, 3, 4, 6), flip, (1.0,), None)

    sure = torch.full((1, classes, 4, 6), 500.0)
    sure[:, :, :, ::2] = -500.0
    sure[:, 1:] *= -1
    assert torch.isfinite(averaged(sure, flip=True)).all()
    mild = torch.randn(1, classes, 4, 6, generator=torch.Generator().manual_seed(0))
    got = averaged(mild, flip=True)
    if classes == 1:  # the mean of the two views' probabilities, written out
        torch.testing.assert_close(got.sigmoid(), mild.sigmoid())
    else:
        torch.testing.assert_close(got.exp(), mild.softmax(1))


@pytest.mark.parametrize("views", [["--flip"], ["--scales", "1", "1.25"]], ids=str)
def test_a_sure_network_sees_mirrored_and_resized_pictures(views: list[str], model: Path, tmp_path: Path) -> None:
    """A probability of exactly 0 has no finite logarithm, and resizing to the picture makes NaN of an infinite one."""
    content = torch.load(model, weights_only=False)
    content["state_dict"]["decode_head.conv_seg.weight"] *= 1e4
    pipeline = content["meta"]["inference"]["test_pipeline"]
    pipeline.insert(1, {"type": "Resize", "scale": (64, 48), "keep_ratio": False})
    torch.save(content, tmp_path / "sure.pth")
    picture, out = tmp_path / "large.png", tmp_path / "out"
    Image.fromarray(scene(90, 130)).save(picture)
    assert cli.main(["predict", str(tmp_path / "sure.pth"), str(picture), "--out", str(out), *views]) == 0
    assert (out / "large_label.png").is_file()


@pytest.mark.parametrize("video", [False, True])
def test_an_output_that_cannot_be_written_is_no_fault_of_the_picture(
    video: bool, predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = film(tmp_path / "drive.avi", 2) if video else photos(tmp_path / "photos", 2)
    (tmp_path / "file").write_text("mine")
    assert predict(source, "--out", tmp_path / "file") == 1
    said = capsys.readouterr().err
    assert f"--out {tmp_path / 'file'}: expected a folder to write to, got: File exists" in said
    assert "0.png" not in said
    assert (tmp_path / "file").read_text() == "mine"


def test_frames_are_counted(predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = film(tmp_path / "drive.avi", 4), tmp_path / "out"
    for wrong in (0, -1):
        assert predict(path, "--out", out, "--frames", wrong) == 1
        assert f"--frames: expected 1 or more, got {wrong}" in capsys.readouterr().err
    assert predict(photos(tmp_path / "photos", 1), "--out", out, "--frames", 3) == 1
    assert "--frames: is for videos and cameras" in capsys.readouterr().err


def test_a_video_that_was_cut_is_told(
    predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = film(tmp_path / "drive.avi", 4), tmp_path / "out"
    made = pipa.inference.video.Video.__init__

    def promised(self: Any, source: str) -> None:
        made(self, source)
        self.count = 9

    monkeypatch.setattr(pipa.inference.video.Video, "__init__", promised)
    assert predict(path, "--out", out) == 1
    assert "drive.avi: expected 9 frames, as the file says, but 4 can be decoded" in capsys.readouterr().err
    assert (out / "drive_overlay.mp4").is_file()
    assert predict(path, "--out", tmp_path / "three", "--frames", 3) == 0


def test_odd_frames_lose_nothing(tmp_path: Path) -> None:
    """OpenCV would leave out the last row and column."""
    frame = np.zeros((33, 47, 3), np.uint8)
    frame[-1], frame[:, -1] = 255, 255
    writer = Writer(tmp_path / "odd.mp4", 5.0)
    writer.add(frame)
    writer.close()
    good, found = cv2.VideoCapture(str(tmp_path / "odd.mp4")).read()
    assert good
    assert found.shape == (34, 48, 3)
    assert found[-2:].mean() > 200
    assert found[:-4, :-4].mean() < 30


def test_a_folder_may_be_called_like_a_video(predict: Callable[..., int], tmp_path: Path) -> None:
    assert predict(photos(tmp_path / "drive.mp4", 2), "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("*_label.png"))) == 2


def test_weights_of_data_parallel_are_weights(model: Path, tmp_path: Path) -> None:
    """torch puts ``module.`` before each name; a training starts from such a file, so it is tested and used too."""
    content = torch.load(model, weights_only=False)
    wrapped = {**content, "state_dict": {f"module.{key}": value for key, value in content["state_dict"].items()}}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    picture = scene(20, 30)
    expected, found = (pipa.load(path).predict(picture) for path in (model, tmp_path / "wrapped.pth"))
    np.testing.assert_array_equal(found.label_hw, expected.label_hw)


@pytest.mark.parametrize("state", [{"optimizer": {"lr": 1}}, {1: torch.zeros(2)}, {}])
def test_what_is_no_network_is_not_exported(
    state: dict[Any, Any], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(model, weights_only=False)
    torch.save({**content, "state_dict": state}, tmp_path / "none.pth")
    assert cli.main(["export", str(tmp_path / "none.pth"), "--out", str(tmp_path / "out.pth")]) == 1
    assert "none.pth: expected the weights of a network by name, got" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()
