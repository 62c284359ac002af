"""DeepLab-v2's head, alone, on ResNet-101 and inside HRDA; projection heads on any encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import nn

import pipa.mmseg  # noqa: F401  (registers)
from pipa.mmseg.models.segmentors.step_adapter import (
    backbone_features,
    segmentor_channels,
    segmentor_outputs,
    teacher_logits,
)
from pipa.networks.projection import ProjectionHead, concatenate

RESNET = {
    "type": "ResNetV1c",
    "depth": 101,
    "base_channels": 4,
    "stem_channels": 8,
    "dilations": (1, 1, 2, 4),
    "strides": (1, 2, 1, 1),
    "norm_cfg": {"type": "BN"},
    "contract_dilation": True,
}
HEAD: dict[str, Any] = {"type": "DeepLabV2Head", "in_channels": 128, "in_index": 3, "num_classes": 5}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def build(**kwargs: Any) -> Any:
    cfg = {"type": "EncoderDecoder", "backbone": RESNET, "decode_head": HEAD, "test_cfg": {"mode": "whole"}, **kwargs}
    return MODELS.build(ConfigDict(cfg)).eval()


def test_sum_of_four_atrous_convolutions() -> None:
    head = MODELS.build({**HEAD, "in_channels": 7, "in_index": 0})
    assert sorted(head.state_dict()) == [
        f"aspp_modules.{i}.conv.{kind}" for i in range(4) for kind in ("bias", "weight")
    ]
    x = torch.randn(2, 7, 30, 31)
    expected = torch.zeros(2, 5, 30, 31)
    for rate, branch in zip((6, 12, 18, 24), head.aspp_modules, strict=True):
        expected += nn.functional.conv2d(x, branch.conv.weight, branch.conv.bias, padding=rate, dilation=rate)
    torch.testing.assert_close(head([x]), expected)
    head.init_weights()
    assert head.aspp_modules[0].conv.weight.std().item() == pytest.approx(0.01, rel=0.2)
    with pytest.raises(ValueError, match="dilations must be positive"):
        MODELS.build({**HEAD, "dilations": (6, 0)})


def test_on_resnet_101() -> None:
    model = build()
    assert sum(isinstance(m, nn.Conv2d) for m in model.backbone.modules()) == 106
    image = torch.randn(2, 3, 41, 57)
    out = segmentor_outputs(model.train(), image)
    assert out.heads[0].logits.shape == (2, 5, 6, 8)
    out.heads[0].logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert teacher_logits(model.eval(), image).shape == (2, 5, 41, 57)


def test_inside_hrda() -> None:
    head = {**HEAD, "type": "HRDAHead", "single_scale_head": "DeepLabV2Head", "dilations": (1, 2)}
    model = build(type="HRDAEncoderDecoder", decode_head=head, hr_crop_size=(32, 32))
    image = torch.randn(1, 3, 64, 96)
    out = segmentor_outputs(model, image)
    assert [h.logits.shape[2:] for h in out.heads] == [(8, 12), (4, 4)]
    assert teacher_logits(model, image).shape == (1, 5, 64, 96)


@pytest.mark.parametrize("hidden", [None, 6])
def test_projection_fits_the_encoder(hidden: int | None) -> None:
    model = build().train()
    model.backbone.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    assert segmentor_channels(model) == [16, 32, 64, 128]
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    head = ProjectionHead(240, out_channels=10, hidden=hidden)
    maps = backbone_features(model, torch.randn(2, 3, 41, 33))
    embedding = head(maps)
    assert embedding.shape == (2, 10, *maps[0].shape[2:])
    assert head.project[0].out_channels == (hidden or 240)
    torch.testing.assert_close(head(concatenate(maps)), embedding)
    with pytest.raises(ValueError, match=r"expected \(B, 240, H, W\), got \(2, 16,"):
        head(maps[0])
    with pytest.raises(ValueError, match="channels must be positive"):
        ProjectionHead(3, 0)
