"""Checkpoints in the layouts of DAFormer, HRDA, MIC and PiPa load in one step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import pipa
from pipa.mmseg.checkpoints.config_text import read_config_text
from small_segmentors import scene

TREES = ["DAFormer", "HRDA", "MIC_seg", "PiPa", "PiPa_DAFormer"]
TEXT = """
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='HRDAEncoderDecoder', scales=[1, 0.5], hr_crop_size=[64, 64], feature_scale=0.5, crop_coord_divisible=8,
    decode_head=dict(type='HRDAHead', decoder_params=dict(fusion_cfg=dict(type='aspp', dilations=(1, 6, 12, 18)))),
    test_cfg=dict(mode='slide', batched_slide=True, stride=[64, 64], crop_size=[128, 128]))
data = dict(test=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(192, 96), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='Normalize', mean=[120.0, 110.0, 100.0], std=[50.0, 51.0, 52.0], to_rgb=True)])]))
"""


def released(golden: Path, name: str, path: Path, text: str | None = None) -> Path:
    shapes = json.loads((golden / "keys" / f"{name}.json").read_text())
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * 0.05 if shape else torch.tensor(0)
        state[key] = value.abs() + 0.5 if key.endswith("running_var") else value
    meta = {"CLASSES": tuple(f"c{i}" for i in range(19)), "PALETTE": [[i, i, i] for i in range(19)]}
    torch.save({"state_dict": state, "meta": {**meta, "config": text} if text else meta}, path)
    return path


@pytest.mark.parametrize(
    ("tree", "kind"),
    [
        *(pytest.param(tree, "segmentor", marks=pytest.mark.slow) for tree in TREES),
        pytest.param("HRDA", "uda", marks=pytest.mark.slow),
        ("PiPa_DAFormer", "uda"),
    ],
)
def test_a_released_checkpoint_loads_in_one_step(tree: str, kind: str, golden: Path, tmp_path: Path) -> None:
    file = released(golden, f"{tree}_{kind}_mit_b0", tmp_path / "iter_40000_relevant.pth")
    segmenter = pipa.load(file)
    assert segmenter.classes == tuple(f"c{i}" for i in range(19))
    assert segmenter.palette[3] == (3, 3, 3)
    hrda = type(segmenter.network.model).__name__ == "HRDAEncoderDecoder"
    assert (segmenter.network.window is not None) == hrda
    prepared = segmenter.prepare(scene(32, 64))
    # DAFormer's test resizes to half of Cityscapes, HRDA's does not resize.
    assert tuple(prepared.inputs.shape[2:]) == ((32, 64) if hrda else (512, 1024))
    if kind == "uda":
        teacher, student = pipa.load(file, weights="teacher"), pipa.load(file, weights="student")
        first = next(iter(student.network.state_dict()))
        assert not torch.equal(teacher.network.state_dict()[first], student.network.state_dict()[first])


def test_its_config_text_says_how_it_is_used(golden: Path, tmp_path: Path) -> None:
    segmenter = pipa.load(released(golden, "HRDA_segmentor_mit_b0", tmp_path / "a.pth", TEXT))
    model = segmenter.network.model
    assert (model.hr_crop_size, segmenter.network.window.crop, segmenter.network.window.stride) == (
        (64, 64),
        (128, 128),
        (64, 64),
    )
    prepared = segmenter.prepare(scene(48, 96))
    assert tuple(prepared.inputs.shape[2:]) == (96, 192)
    picture = scene(96, 192)  # at that size nothing is resized
    right = (picture[5, 7] - np.array([120.0, 110.0, 100.0])) / np.array([50.0, 51.0, 52.0])
    np.testing.assert_allclose(segmenter.prepare(picture).inputs[0, :, 5, 7].cpu(), right, rtol=1e-5)
    prediction = segmenter.predict(scene(48, 96))
    assert prediction.label_hw.shape == (48, 96)


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "a = __import__('os')",
        "a = dict(**b)",
        "a = [x for x in y]",
        "a = open('x')",
        "a.b = 1",
        "a = (",
        "a = dict(1)",
    ],
)
def test_config_text_is_data(text: str) -> None:
    assert read_config_text(text) is None


def test_a_file_without_a_network_asks_for_its_config(tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: does not say how its network is built; give the config"):
        pipa.load(tmp_path / "a.pth")


@pytest.mark.parametrize("asked", ["os.system", "mmseg.nothing.Evil", "subprocess.run"])
def test_a_description_may_name_registered_components_only(asked: str, tmp_path: Path) -> None:
    described = {"format": 1, "model": {"type": asked}, "test_pipeline": [], "imports": [], "classes": None}
    torch.save({"state_dict": {}, "meta": {"inference": described}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: type .* is no registered component"):
        pipa.load(tmp_path / "a.pth")
