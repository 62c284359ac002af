"""Encoders beyond MiT through the same heads: a plain ViT with a pyramid, timm's and mmpretrain's extractors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from pipa.mmseg.models.backbones.vit import rotary, rotate
from pipa.mmseg.models.segmentors.step_adapter import (
    backbone_features,
    segmentor_channels,
    segmentor_outputs,
    teacher_logits,
)

VIT: dict[str, Any] = {"type": "ViTPyramid", "embed_dim": 16, "depth": 4, "num_heads": 2, "pretrain_size": 3}


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


@pytest.mark.parametrize("position", ["learned", "rotary"])
@pytest.mark.parametrize("registers", [0, 2])
def test_vit_with_daformer_head(position: str, registers: int) -> None:
    model = segmentor({**VIT, "position": position, "register_tokens": registers}, [16] * 4)
    model.init_weights()
    image = torch.randn(2, 3, 64, 96)
    out = segmentor_outputs(model.train(), image)
    assert [tuple(m.shape[1:]) for m in out.features] == [(16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3)]
    out.heads[0].logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert segmentor_channels(model) == model.backbone.out_channels
    assert teacher_logits(model.eval(), torch.randn(1, 3, 50, 77)).shape == (1, 4, 50, 77)


def test_vit_inside_hrda() -> None:
    head = {
        "type": "HRDAHead",
        "in_channels": [16] * 4,
        "channels": 8,
        "attention_embed_dim": 4,
        "num_classes": 4,
        "norm_cfg": {"type": "BN"},
    }
    backbone = {**VIT, "position": "rotary"}
    cfg = {"type": "HRDAEncoderDecoder", "backbone": backbone, "decode_head": head, "hr_crop_size": (64, 64)}
    model = MODELS.build(ConfigDict(cfg)).eval()
    image = torch.randn(1, 3, 128, 128)
    assert segmentor_outputs(model, image).heads[0].logits.shape == (1, 4, 32, 32)
    assert teacher_logits(model, image).shape == (1, 4, 128, 128)


def test_vit_block_against_a_slow_form() -> None:
    model = MODELS.build({**VIT, "pyramid": False, "register_tokens": 1}).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    image = torch.randn(1, 3, 48, 48)
    patches = model.patch_embed.proj(image).flatten(2)[0].T + model.pos_embed[0, 1:]
    tokens = torch.cat([model.cls_token[0] + model.pos_embed[0, :1], model.register_tokens[0], patches])
    for block in model.blocks:
        x = block.norm1(tokens)
        q, k, v = block.attn.qkv(x).split(16, dim=1)
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            heads.append(torch.softmax(q[:, h] @ k[:, h].T / 8**0.5, dim=1) @ v[:, h])
        tokens = tokens + block.ls1.gamma * block.attn.proj(torch.cat(heads, 1))
        tokens = tokens + block.ls2.gamma * block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(tokens))))
    expected = model.norm(tokens)[2:].T.reshape(1, 16, 3, 3)
    torch.testing.assert_close(model(image)[3], expected, atol=1e-4, rtol=1e-4)


def test_rotary_positions_are_relative_and_keep_norms() -> None:
    rotation = rotary(4, 4, 8, torch.zeros(1))
    q, k = torch.randn(8), torch.randn(8)

    def at(vector: Tensor, place: int) -> Tensor:
        tokens = torch.zeros(1, 1, 17, 8)
        tokens[0, 0, 1 + place] = vector
        rotated = rotate(tokens, rotation)
        assert torch.equal(rotated[:, :, 0], tokens[:, :, 0])
        return rotated[0, 0, 1 + place]

    torch.testing.assert_close(at(q, 9).norm(), q.norm())
    # The same step of one row and one column, from different places.
    torch.testing.assert_close(at(q, 0) @ at(k, 5), at(q, 10) @ at(k, 15))
    assert not torch.allclose(at(q, 0) @ at(k, 5), at(q, 0) @ at(k, 6))


def test_files_with_dinov3_names_load() -> None:
    model = MODELS.build({**VIT, "position": "rotary", "register_tokens": 2, "pyramid": False})
    state = {key.replace("register_tokens", "storage_tokens"): v.clone() for key, v in model.state_dict().items()}
    state["rope_embed.periods"] = torch.ones(2)
    state["mask_token"] = torch.zeros(1, 16)
    state["storage_tokens"] += 3
    for i in range(4):
        state[f"blocks.{i}.attn.qkv.bias"] = torch.ones(48)
        state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([torch.ones(16), torch.zeros(16), torch.ones(16)])
    model.load_state_dict(state)
    assert float(model.register_tokens.detach().mean()) == 3
    bias = model.blocks[2].attn.qkv.bias.detach()
    assert [float(part.mean()) for part in bias.split(16)] == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": "none"}, "position must be"),
        ({"num_heads": 3}, "must split into"),
        ({"position": "rotary", "num_heads": 8}, "multiple of 4"),
        ({"out_indices": (0, 1, 2)}, "four rising block numbers"),
        ({"out_indices": (0, 1, 2, 4)}, "four rising block numbers below 4"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build({**VIT, **change})


def test_too_small_an_image() -> None:
    with pytest.raises(ValueError, match="more than 16 pixels"):
        MODELS.build(VIT)(torch.randn(1, 3, 64, 16))


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
