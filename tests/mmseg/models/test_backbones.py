"""Encoders beyond MiT through the same heads: timm's and mmpretrain's extractors (plain ViTs: test_vit)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmseg.registry import MODELS

import pipa.mmseg  # noqa: F401  (registers)
from pipa.mmseg.models.segmentors.step_adapter import (
    backbone_features,
    segmentor_channels,
    segmentor_outputs,
    teacher_logits,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def segmentor(backbone: dict[str, Any], channels: list[int], **kwargs: Any) -> Any:
    head = {
        "type": "DAFormerHead",
        "in_channels": channels,
        "channels": 8,
        "num_classes": 4,
        "norm_cfg": {"type": "BN"},
    }
    cfg = {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, "test_cfg": {"mode": "whole"}, **kwargs}
    return MODELS.build(ConfigDict(cfg))


@pytest.mark.parametrize(
    ("name", "settings", "channels"),
    [
        ("resnet10t", {"out_indices": (1, 2, 3, 4)}, [64, 128, 256, 512]),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 64, "window_size": 2, "embed_dim": 8, "num_heads": (1, 2, 2, 2)},
            [8, 16, 32, 64],
        ),
    ],
)
def test_timm_encoders(name: str, settings: dict[str, Any], channels: list[int]) -> None:
    pytest.importorskip("timm")
    model = segmentor({"type": "TimmEncoder", "model_name": name, **settings}, channels)
    assert model.backbone.out_channels == channels
    out = segmentor_outputs(model.train(), torch.randn(2, 3, 64, 64))
    assert [m.shape[1] for m in out.features] == channels
    assert out.heads[0].logits.shape == (2, 4, 16, 16)
    out.heads[0].logits.square().mean().backward()


def test_timm_plain_vit_with_a_pyramid_neck() -> None:
    pytest.importorskip("timm")
    backbone = {
        "type": "TimmEncoder",
        "model_name": "vit_small_patch14_dinov2",
        "embed_dim": 16,
        "depth": 4,
        "num_heads": 2,
        "out_indices": (0, 1, 2, 3),
        "dynamic_img_size": True,
        "dynamic_img_pad": True,
    }
    neck = {"type": "Feature2Pyramid", "embed_dim": 16, "norm_cfg": {"type": "BN"}}
    model = segmentor(backbone, [16] * 4, neck=neck).eval()
    image = torch.randn(1, 3, 56, 70)
    # The pixel term sees the encoder's own maps, the head those of the neck.
    assert [tuple(m.shape[1:]) for m in backbone_features(model, image)] == [(16, 4, 5)] * 4
    assert [tuple(m.shape[1:]) for m in model.extract_feat(image)] == [
        (16, 16, 20),
        (16, 8, 10),
        (16, 4, 5),
        (16, 2, 2),
    ]
    assert teacher_logits(model, torch.randn(1, 3, 60, 70)).shape == (1, 4, 60, 70)


@pytest.mark.parametrize(
    "backbone",
    [
        {
            "type": "mmpretrain.ConvNeXt",
            "arch": {"depths": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
            "out_indices": (0, 1, 2, 3),
            "gap_before_final_norm": False,
        },
        {
            "type": "mmpretrain.SwinTransformer",
            "arch": {"embed_dims": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]},
            "img_size": 64,
            "window_size": 2,
            "out_indices": (0, 1, 2, 3),
        },
    ],
    ids=lambda backbone: backbone["type"],
)
def test_mmpretrain_encoders(backbone: dict[str, Any]) -> None:
    pytest.importorskip("mmpretrain")
    with torch.no_grad():
        channels = [m.shape[1] for m in MODELS.build(ConfigDict(backbone))(torch.randn(1, 3, 64, 64))]
    model = segmentor(backbone, channels)
    out = segmentor_outputs(model.train(), torch.randn(2, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in out.features] == [(c, 16 >> i, 16 >> i) for i, c in enumerate(channels)]
    assert segmentor_channels(model) == channels
    out.heads[0].logits.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())
    assert teacher_logits(model.eval(), torch.randn(1, 3, 64, 96)).shape == (1, 4, 64, 96)


def test_timm_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install .pipa-rs\[timm\]"):
        MODELS.build({"type": "TimmEncoder", "model_name": "resnet10t"})
