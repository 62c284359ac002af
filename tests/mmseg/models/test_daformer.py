"""DAFormerHead, MiT and the segmentor interface without recorded data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import nn

import pipa.mmseg  # noqa: F401  (registers)
from pipa.mmseg.models.backbones.mit import BLOCK_NORM_EPS, EMBED_NORM_EPS, MiT
from pipa.mmseg.models.decode_heads.fusion import PRESETS
from pipa.mmseg.models.segmentors.step_adapter import backbone_features, segmentor_outputs, teacher_logits
from pipa.networks import quiet_train

BN = {"type": "BN"}
MIT = {"type": "MiT", "embed_dims": 8, "num_layers": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def daformer_head(fusion: Any, **kwargs: Any) -> dict[str, Any]:
    return {
        "type": "DAFormerHead",
        "in_channels": [8, 16, 24, 32],
        "channels": 12,
        "num_classes": 5,
        "norm_cfg": BN,
        "decoder_params": {"embed_dims": 10, "fusion_cfg": fusion},
        **kwargs,
    }


def segmentor(head: dict[str, Any], backbone: dict[str, Any] = MIT, **kwargs: Any) -> nn.Module:
    cfg = {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, "test_cfg": {"mode": "whole"}, **kwargs}
    return MODELS.build(ConfigDict(cfg))


@pytest.mark.parametrize("fusion", [*PRESETS, {"type": "aspp", "dilations": (1, 3), "context_cfg": {"type": "isa"}}])
def test_every_fusion_gives_logits_and_gradients_everywhere(fusion: Any) -> None:
    model = segmentor(daformer_head(fusion)).train()
    out = segmentor_outputs(model, torch.randn(2, 3, 40, 56))
    assert [h.logits.shape for h in out.heads] == [(2, 5, 10, 14)]
    out.heads[0].logits.square().mean().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing


def test_the_order_of_the_maps_is_that_of_in_index() -> None:
    head = MODELS.build(ConfigDict(daformer_head("conv1"))).eval()
    maps = [torch.randn(1, c, 16 // s, 16 // s) for c, s in ((8, 1), (16, 2), (24, 4), (32, 8))]
    embedded = [head.embed_layers[str(i)](m) for i, m in enumerate(maps)]
    up = [nn.functional.interpolate(m, (16, 16), mode="bilinear") for m in embedded]
    expected = head.conv_seg(head.fuse_layer(torch.cat(up, 1)))
    torch.testing.assert_close(head(maps), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dims": [3, 4]}, "embed_dims must be one number or 4"),
        ({"fusion_cfg": "asp"}, "fusion_cfg must be a dict or one of"),
        ({"fusion_cfg": {"type": "asp"}}, "layer type must be one of"),
        ({"fusion_cfg": {"type": "conv", "kernel_size": 2}}, "kernel_size must be odd"),
        ({"fusion_cfg": {"type": "aspp", "dilations": ()}}, "dilations must be positive"),
        ({"embed_cfg": {"type": "mlp", "norm_cfg": BN}}, "takes neither norm_cfg nor act_cfg"),
        ({"embed_cfg": {"type": "id"}}, "keeps the channels"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], message: str) -> None:
    head = daformer_head("conv1")
    head["decoder_params"] = {**head["decoder_params"], **change}
    with pytest.raises(ValueError, match=message):
        MODELS.build(ConfigDict(head))


def test_unknown_decoder_params_are_refused() -> None:
    with pytest.raises(TypeError, match="unknown decoder_params: fusion"):
        MODELS.build(ConfigDict(daformer_head("conv1", decoder_params={"fusion": "isa"})))


def test_mit_norm_constants_and_drop_path() -> None:
    mit = MiT("b0", num_layers=(1, 1, 1, 1), drop_path_rate=0.3)
    assert list(mit.out_channels) == [32, 64, 160, 256]
    for i, (patch_embed, blocks, norm) in enumerate(mit.layers):
        block = blocks[0]
        assert (patch_embed.norm.eps, norm.eps) == (EMBED_NORM_EPS, BLOCK_NORM_EPS)
        assert (block.norm1.eps, block.norm2.eps) == (BLOCK_NORM_EPS, BLOCK_NORM_EPS)
        assert i == 3 or block.attn.norm.eps == EMBED_NORM_EPS
        assert block.attn.dropout_layer.drop_prob == pytest.approx(0.1 * i)
        assert block.ffn.dropout_layer.drop_prob == pytest.approx(0.1 * i)
    with pytest.raises(ValueError, match="arch must be one of"):
        MiT("b9")


def test_mit_equals_its_parent_with_the_same_constants() -> None:
    mit = MODELS.build(MIT).eval()
    parent = MODELS.build({**MIT, "type": "MixVisionTransformer"}).eval()
    parent.load_state_dict(mit.state_dict())
    names = dict(mit.named_modules())
    for name, module in parent.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = names[name].eps
    image = torch.randn(1, 3, 72, 40)
    for ours, theirs in zip(mit(image), parent(image), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def fcn(index: int, weight: float, **kwargs: Any) -> dict[str, Any]:
    return {
        "type": "FCNHead",
        "in_channels": (8, 16, 24, 32)[index],
        "in_index": index,
        "channels": 6,
        "num_convs": 1,
        "concat_input": False,
        "num_classes": 5,
        "norm_cfg": BN,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": weight},
        **kwargs,
    }


def test_plain_segmentor_with_auxiliary_heads() -> None:
    model = segmentor(fcn(3, 1.0), auxiliary_head=[fcn(2, 0.4), fcn(1, 0.2)]).eval()
    image = torch.randn(2, 3, 64, 64)
    out = segmentor_outputs(model, image)
    assert [(h.weight, h.region) for h in out.heads] == [(1.0, None), (0.4, None), (0.2, None)]
    assert [f.shape[1] for f in out.features] == [8, 16, 24, 32]
    assert out.detail is None
    full = teacher_logits(model, image)
    assert full.shape == (2, 5, 64, 64)
    torch.testing.assert_close(full, model.encode_decode(image, [{"img_shape": (64, 64)}]))
    for ours, theirs in zip(backbone_features(model, image), out.features, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_features_are_those_before_the_neck() -> None:
    neck = {"type": "FPN", "in_channels": [8, 16, 24, 32], "out_channels": 7, "num_outs": 4}
    model = segmentor({**fcn(3, 1.0), "in_channels": 7}, neck=neck).eval()
    image = torch.randn(1, 3, 64, 64)
    out = segmentor_outputs(model, image)
    assert (
        [f.shape[1] for f in out.features] == [f.shape[1] for f in backbone_features(model, image)] == [8, 16, 24, 32]
    )
    torch.testing.assert_close(out.heads[0].logits, model.decode_head(model.extract_feat(image)))


def test_cascade_puts_the_last_stage_first() -> None:
    ocr = {
        "type": "OCRHead",
        "in_channels": 32,
        "in_index": 3,
        "channels": 6,
        "ocr_channels": 4,
        "num_classes": 5,
        "norm_cfg": BN,
    }
    cfg = {"type": "CascadeEncoderDecoder", "num_stages": 2, "backbone": MIT, "decode_head": [fcn(3, 0.4), ocr]}
    model = MODELS.build(ConfigDict({**cfg, "test_cfg": {"mode": "whole"}})).eval()
    image = torch.randn(1, 3, 64, 64)
    out = segmentor_outputs(model, image)
    assert [h.weight for h in out.heads] == [1.0, 0.4]
    torch.testing.assert_close(teacher_logits(model, image), model.encode_decode(image, [{"img_shape": (64, 64)}]))


def test_not_a_segmentor() -> None:
    with pytest.raises(TypeError, match="not an mmsegmentation EncoderDecoder"):
        segmentor_outputs(nn.Conv2d(3, 3, 1), torch.randn(1, 3, 8, 8))


def test_quiet_train_silences_noise_only() -> None:
    model = segmentor(daformer_head("conv1", dropout_ratio=0.5), {**MIT, "drop_path_rate": 0.5}).train()
    image = torch.randn(2, 3, 32, 32)
    assert not torch.equal(teacher_logits(model, image), teacher_logits(model, image))
    quiet_train(model)
    torch.testing.assert_close(teacher_logits(model, image), teacher_logits(model, image))
    assert model.decode_head.fuse_layer.bn.training
