"""A red picture stays red: in what the network sees, in the overlay, and in the reports."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

import pipa
from pipa.commands import cli, demo
from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.run.train import load_config
from small_segmentors import checkpoint, shrink

RED = (200, 30, 10)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    config = shrink(load_config("toy_pipa"))
    return checkpoint(config, tmp_path_factory.mktemp("model") / "random.pth", describe(config))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), RED).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def embedded(page: Path) -> list[np.ndarray]:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


@pytest.mark.parametrize("how", ["file", "array", "pillow"])
def test_the_network_sees_red_where_it_learnt_red(how: str, model: Path, photo: Path) -> None:
    """The first channel of the input is red: the preprocessor's mean and deviation are those of RGB."""
    source: Any = {"file": photo, "array": np.asarray(Image.open(photo)), "pillow": Image.open(photo)}[how]
    prepared = pipa.load(model).prepare(source)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(prepared.inputs[0, :, 3, 5].cpu(), (torch.tensor(RED) - mean) / std)
    assert prepared.image_hwc[0, 0].tolist() == list(RED)


def test_overlay_and_index_page_are_red(model: Path, photo: Path, tmp_path: Path) -> None:
    segmenter = pipa.load(model)
    prediction = segmenter.predict(photo)
    color = np.asarray(segmenter.palette)[prediction.label_hw]
    expected = np.rint(np.asarray(RED) * 0.45 + color * 0.55)
    np.testing.assert_allclose(prediction.overlay(), expected, atol=1)
    assert cli.main(["predict", str(model), str(photo), "--out", str(tmp_path / "out"), "--report"]) == 0
    overlay = np.asarray(Image.open(tmp_path / "out" / "red_overlay.png"))
    np.testing.assert_array_equal(overlay[:48, :64], prediction.overlay())
    picture, shown = embedded(tmp_path / "out" / "index.html")
    assert (picture == RED).all()
    np.testing.assert_array_equal(shown, prediction.overlay())


def test_the_demo_shows_its_target_in_true_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The panels' picture comes through `samples`, their prediction through the same pipeline as `pipa test`."""
    monkeypatch.setenv("PIPA_DATA", str(tmp_path))
    place = tmp_path / "target"
    for folder, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelTrainIds")):
        (place / folder / "val").mkdir(parents=True)
        picture = Image.new("RGB", (64, 48), RED) if folder == "leftImg8bit" else Image.new("L", (64, 48), 1)
        picture.save(place / folder / "val" / f"toy_{suffix}.png")
    ((image, label),) = demo.samples()
    assert (image == RED).all()
    assert (label == 1).all()
