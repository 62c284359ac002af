"""Names of released parameters -> names of ours.

Released DAFormer, HRDA, MIC and PiPa networks keep SegFormer's names for the encoder; ours are mmsegmentation's
(``MixVisionTransformer``). The names of the heads are the same on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# The prefix has no numbers among its parts, so that our own `layers.0.1.0.norm1` is not taken for SegFormer's `norm1`.
_ENCODER = re.compile(
    r"^(?P<prefix>(?:[A-Za-z_]\w*\.)*?)(?P<part>patch_embed|block|norm)(?P<stage>[1-4])\.(?P<rest>.+)$"
)
# Inside a block; the projections of query, key and value become one matrix, see `convert_state_dict`.
_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attn.attn.out_proj",
    "attn.sr": "attn.sr",
    "attn.norm": "attn.norm",
    "attn.q": "attn.attn.in_proj",
    "attn.kv": "attn.attn.in_proj",
    "mlp.fc1": "ffn.layers.0",
    "mlp.dwconv.dwconv": "ffn.layers.1",
    "mlp.fc2": "ffn.layers.4",
}


def rename(key: str) -> str:
    """Our name of a released parameter; a name that is not SegFormer's is returned as it is.

    ``attn.q`` and ``attn.kv`` of a block share one name, because one matrix of ours holds both.
    """
    match = _ENCODER.match(key)
    if match is None:
        return key
    prefix, stage, rest = match["prefix"], int(match["stage"]) - 1, match["rest"]
    if match["part"] == "norm":
        return f"{prefix}layers.{stage}.2.{rest}"
    if match["part"] == "patch_embed":
        return f"{prefix}layers.{stage}.0.{re.sub(r'^proj[.]', 'projection.', rest)}"
    block, _, inner = rest.partition(".")
    module, _, parameter = inner.rpartition(".")
    if module not in _BLOCK:
        return key
    joint = "_" if module in ("attn.q", "attn.kv") else "."
    return f"{prefix}layers.{stage}.1.{block}.{_BLOCK[module]}{joint}{parameter}"


def convert_state_dict(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames and reshapes a released state dict (any prefix, whole or part) for our modules.

    Works for gradients as well as for values: query and key-value matrices are stacked to ``(3 D, D)``, the linear
    layers of Mix-FFN become 1x1 convolutions, everything else keeps its tensor. Raises ValueError if only one of
    ``attn.q`` and ``attn.kv`` is there.
    """
    converted: dict[str, Tensor] = {}
    for key, value in official.items():
        name = rename(key)
        if ".attn.kv." in key and name != key:
            continue
        if ".attn.q." in key and name != key:
            other = key.replace(".attn.q.", ".attn.kv.")
            if other not in official:
                raise ValueError(f"checkpoint: {key} has no {other} beside it")
            value = torch.cat([value, official[other]])
        elif name.endswith((".ffn.layers.0.weight", ".ffn.layers.4.weight")) and value.dim() == 2:
            value = value[:, :, None, None]
        converted[name] = value
    for key in official:
        if rename(key) not in converted:
            raise ValueError(f"checkpoint: {key} has no {key.replace('.attn.kv.', '.attn.q.')} beside it")
    return converted
