"""The network that a converted state dict describes: sizes, depths and fusion read from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import Tensor, nn

State = Mapping[str, Tensor]


def build_from_keys(state: State) -> nn.Module:
    """Builds the encoder or segmentor of a state dict with our names. ValueError if it describes none of ours.

    Only names and shapes are right: dilations and image scales leave no trace in weights and are the usual ones.
    """
    return MODELS.build(ConfigDict(config_from_keys(state)))


def config_from_keys(state: State) -> dict[str, Any]:
    """The config that :func:`build_from_keys` builds."""
    segmentor = any(name.startswith("backbone.") for name in state)
    encoder = encoder_config(_under(state, "backbone.") if segmentor else state)
    if not segmentor:
        return encoder
    head = _under(state, "decode_head.")
    config: dict[str, Any] = {"type": "EncoderDecoder", "backbone": encoder, "test_cfg": {"mode": "whole"}}
    if any(name.startswith("head.") for name in head):
        config.update(type="HRDAEncoderDecoder", decode_head=_hrda_config(head))
    else:
        config.update(decode_head=head_config(head))
    return config


def describes_ours(state: State) -> bool:
    """Whether :func:`config_from_keys` knows the network."""
    try:
        config_from_keys(state)
    except ValueError:
        return False
    return True


def encoder_config(state: State) -> dict[str, Any]:
    """Config of the ``MiT`` whose parameters these are."""
    dims, depths, reductions = [], [], []
    for stage in range(4):
        projection = state.get(f"layers.{stage}.0.projection.weight")
        if projection is None:
            raise ValueError(f"checkpoint: the encoder has no patch embedding of stage {stage + 1}")
        dims.append(projection.shape[0])
        blocks = [re.match(rf"layers\.{stage}\.1\.(\d+)\.", name) for name in state]
        depths.append(max((int(m[1]) for m in blocks if m), default=-1) + 1)
        reduction = state.get(f"layers.{stage}.1.0.attn.sr.weight")
        reductions.append(1 if reduction is None else reduction.shape[2])
    hidden = state.get("layers.0.1.0.ffn.layers.0.weight")
    return {
        "type": "MiT",
        "in_channels": state["layers.0.0.projection.weight"].shape[1],
        "embed_dims": dims[0],
        "num_heads": tuple(dim // dims[0] for dim in dims),
        "num_layers": tuple(depths),
        "sr_ratios": tuple(reductions),
        "mlp_ratio": 4 if hidden is None else hidden.shape[0] // dims[0],
        "qkv_bias": any(name.endswith("attn.attn.in_proj_bias") for name in state),
    }


def head_config(state: State) -> dict[str, Any]:
    """Config of the ``DAFormerHead`` whose parameters these are."""
    embeds = sorted(int(m[1]) for m in map(re.compile(r"embed_layers\.(\d+)\.proj\.weight").match, state) if m)
    if "conv_seg.weight" not in state or not embeds:
        raise ValueError("checkpoint: decode_head is neither DAFormer's nor HRDA's (no conv_seg or no embed_layers)")
    weights = [state[f"embed_layers.{i}.proj.weight"] for i in embeds]
    classes, channels = state["conv_seg.weight"].shape[:2]
    config: dict[str, Any] = {
        "type": "DAFormerHead",
        "in_channels": [w.shape[1] for w in weights],
        "in_index": embeds,
        "channels": channels,
        "num_classes": classes,
        "norm_cfg": {"type": "BN"},
        "decoder_params": {"embed_dims": [w.shape[0] for w in weights], "fusion_cfg": _fusion(state)},
    }
    if classes == 1:
        config["threshold"] = 0.5
    return config


def _hrda_config(state: State) -> dict[str, Any]:
    config = {**head_config(_under(state, "head.")), "type": "HRDAHead", "single_scale_head": "DAFormerHead"}
    attention = _under(state, "scale_attention.")
    if not attention:
        return {**config, "fixed_attention": 0.5}
    classes, width = attention["conv_seg.weight"].shape[:2]
    return {**config, "attention_classwise": classes == config["num_classes"], "attention_embed_dim": width}


def _fusion(state: State) -> dict[str, Any]:
    for prefix, kind in (("fuse_layer.1.", "rawconv_and_aspp"), ("fuse_layer.", "aspp")):
        part = _under(state, f"{prefix}aspp_modules.")
        if part:
            branches = 1 + max(int(name.split(".")[0]) for name in part)
            first = part.get("0.conv.weight")
            dilations = [1, 6, 12, 18, 24, 30][:branches]
            if first is not None and first.shape[2] == 3:
                dilations = [6, 12, 18, 24, 30, 36][:branches]
            fusion = {
                "type": kind,
                "dilations": dilations,
                "sep": any("depthwise_conv" in name for name in part),
                "pool": f"{prefix}image_pool.1.conv.weight" in state,
            }
            if kind == "rawconv_and_aspp":
                fusion["kernel_size"] = state["fuse_layer.0.weight"].shape[2]
            return fusion
    if "fuse_layer.in_conv.conv.weight" in state:
        inner = state["fuse_layer.global_relation.query_project.0.conv.weight"]
        return {"type": "isa", "isa_channels": inner.shape[0]}
    if "fuse_layer.conv.weight" in state:
        return {"type": "conv", "kernel_size": state["fuse_layer.conv.weight"].shape[2]}
    raise ValueError("checkpoint: the fusion layer of decode_head is of no known kind")


def _under(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
