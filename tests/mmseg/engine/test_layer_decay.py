"""Learning rates of an encoder's layers, by value; and a step of the optimiser follows them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("timm")

from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmseg.registry import MODELS

import pipa.mmseg  # noqa: F401  (registers)
import tiny
import tiny_vit


def model(kind: str, **changes: Any) -> Any:
    cfg = tiny.model("daformer")
    del cfg["data_preprocessor"]
    cfg["backbone"] = tiny_vit.config(kind, **changes)
    cfg["decode_head"]["in_channels"] = [tiny_vit.DIM] * 4
    return MODELS.build(ConfigDict(cfg))


def rates(net: Any, **paramwise: Any) -> dict[str, float]:
    cfg = {
        "constructor": "LayerDecayConstructor",
        "optimizer": {"type": "SGD", "lr": 0.01, "weight_decay": 0.1},
        "paramwise_cfg": {"custom_keys": {"head": {"lr_mult": 10.0}}, "norm_decay_mult": 0.0, **paramwise},
    }
    groups = build_optim_wrapper(net, cfg).optimizer.param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    assert len(groups) == len([p for p in net.parameters() if p.requires_grad])
    return {names[id(group["params"][0])]: group["lr"] for group in groups}


@pytest.mark.parametrize("kind", list(tiny_vit.NAMES))
def test_rates_of_every_layer(kind: str) -> None:
    found = rates(model(kind), layer_decay=0.9)
    for name, rate in found.items():
        inner = name.removeprefix("backbone.vit.")
        if name.startswith("decode_head"):
            expected = 0.1
        elif inner.startswith("blocks."):
            expected = 0.01 * 0.9 ** (3 - int(inner.split(".")[1]))
        elif inner.startswith(("patch_embed", "cls_token", "pos_embed", "reg_token")):
            expected = 0.01 * 0.9**4
        else:
            assert inner.startswith("norm.") or name.startswith("backbone.pyramid.")
            expected = 0.01
        assert rate == pytest.approx(expected), name
    assert {round(rate, 8) for rate in found.values()} == {0.1, 0.01, 0.009, 0.0081, 0.00729, 0.006561}


def test_a_step_moves_layers_by_their_rates() -> None:
    net = model("dinov2")
    cfg = {
        "constructor": "LayerDecayConstructor",
        "optimizer": {"type": "SGD", "lr": 0.5},
        "paramwise_cfg": {"layer_decay": 0.5},
    }
    wrapper = build_optim_wrapper(net, cfg)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    wrapper.step()
    for place, moved in (("cls_token", 0.5 / 16), ("blocks.0.norm1.bias", 0.5 / 8), ("blocks.3.ls1.gamma", 0.5)):
        name = f"backbone.vit.{place}"
        change = before[name] - net.get_parameter(name)
        torch.testing.assert_close(change, torch.full_like(change, moved))


def test_weight_decay_keys_and_adapters_stay() -> None:
    pytest.importorskip("peft")
    found = rates(model("dinov2", encoder="lora"), layer_decay=0.9)
    adapters = {name: rate for name, rate in found.items() if ".lora_" in name}
    assert len(adapters) == 2 * 2 * 4
    assert set(adapters.values()) == {0.01}
    assert not [name for name in found if "base_layer" in name or "cls_token" in name]


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        ({"layer_decay": 1.5}, r"layer_decay: expected a number in \(0, 1\], got 1.5"),
        ({}, r"layer_decay: expected a number in \(0, 1\], got None"),
        (
            {"layer_decay": 0.9, "layer_decay_module": "encoder"},
            "layer_decay_module: the model has no module 'encoder'",
        ),
        (
            {"layer_decay": 0.9, "layer_decay_module": "decode_head"},
            "layer_decay_module: expected an encoder with blocks, got 'decode_head'",
        ),
    ],
)
def test_refusals(paramwise: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rates(model("dinov2"), **paramwise)
