"""Low-rank adapters (LoRA) in checkpoints: merged into the weights beside them, so that a prediction needs no peft."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Settings of `ViTPyramid(encoder="lora", lora=...)`.
LORA: dict[str, Any] = {"rank": 16, "alpha": 16.0, "dropout": 0.0, "targets": ("attn.qkv", "attn.proj")}
# What peft puts between a layer's name and its parameters.
BASE = ".base_layer"


def without_adapters(
    description: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A network with the same function and no adapters: its description and weights; others as they are."""
    backbone = description["model"].get("backbone") or {}
    if backbone.get("encoder") != "lora":
        return dict(description), dict(state)
    plain = copy.deepcopy(dict(description))
    settings = plain["model"]["backbone"].pop("lora", None)
    plain["model"]["backbone"]["encoder"] = "full"
    return plain, merged(state, settings)


def merged(state: Mapping[str, Tensor], lora: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """Weights of a network without adapters that computes the same: W + (alpha / rank) B A.

    Args:
        state: weights of a network with adapters; without any it is returned as it is.
        lora: the settings it was built with.
    """
    settings = {**LORA, **(lora or {})}
    scale = float(settings["alpha"]) / int(settings["rank"])
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".lora_" in key:
            continue
        layer = key.removesuffix(".weight").removesuffix(BASE)
        down, up = (state.get(f"{layer}.lora_{half}.default.weight") for half in "AB")
        if key.endswith(f"{BASE}.weight") and down is not None and up is not None:
            value = (value.double() + scale * (up.double() @ down.double())).to(value.dtype)
        found[key.replace(BASE, "")] = value
    return found
