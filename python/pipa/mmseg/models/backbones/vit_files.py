"""Weights of plain transformers from local files: the released DINOv2 and DINOv3, timm's, those of transformers.

The names and shapes that each layout has are those of the file's publisher; timm's own converters bring the released
ones to its names.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipa.files.torch_file import CheckpointError, load_plain
from pipa.inference.export.safetensors import SUFFIX, read_safetensors
from pipa.mmseg.checkpoints.adapters import BASE
from pipa.mmseg.models.backbones.encoder_mode import adapted
from pipa.mmseg.models.backbones.pretrained import check_weights

# Containers in which files of trainings keep the network.
_INSIDE = ("state_dict", "model", "teacher")
_PREFIXES = ("module.", "backbone.", "encoder.", "vit.", "model.", "dinov2.", "dinov3_vit.")
# transformers' names (DINOv2 and DINOv3) and the released ones.
_TRANSFORMERS = (
    (r"^(encoder\.|model\.)?layer\.(\d+)\.", r"blocks.\2."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.(attention\.)?(query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.)?(key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.)?(value|v_proj)\.", ".attn.v."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
GUIDE = (
    "get it from its publisher (DINOv2: https://github.com/facebookresearch/dinov2, Apache-2.0; DINOv3: "
    "https://github.com/facebookresearch/dinov3, its own licence) and put it there, or set init_cfg=None"
)


def load_vit(vit: nn.Module, path: str | Path) -> Tensor | None:
    """Fill a transformer of timm from a local ``.pth`` or ``.safetensors`` file.

    Args:
        vit: made by ``timm.create_model``, with or without adapters.

    Returns:
        The mask token ``(D,)`` of the pretraining, where the file has one.

    Raises:
        FileNotFoundError: with where to get the file.
        CheckpointError: no such content, another architecture or size; the message names file, weight and shapes.
        ValueError: an address instead of a file.
    """
    if "://" in str(path):
        raise ValueError(f"{path}: expected a local file; nothing is downloaded")
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the encoder's weights are not there; {GUIDE}")
    content = read_safetensors(path) if path.suffix.lower() == SUFFIX else load_plain(path)
    state = released_names(content, str(path))
    token = state.get("mask_token")
    target = {name.replace(BASE, ""): value for name, value in vit.state_dict().items() if ".lora_" not in name}
    state = timm_names(vit, state, str(path))
    hint = "is it the file of this model_name?"
    check_weights(path, state, target, "the encoder", hint)
    extra = sorted(set(state) - set(target) - {"head.weight", "head.bias"})
    if extra:
        raise CheckpointError(f"{path}: holds {extra[0]}, which the encoder has not; {hint}")
    layers = set(adapted(vit))
    own = {}
    for name in target:
        layer, _, kind = name.rpartition(".")
        own[f"{layer}{BASE}.{kind}" if layer in layers else name] = state[name]
    vit.load_state_dict(own, strict=False)
    return None if token is None else token.reshape(-1)


def released_names(content: dict[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors of a file under the names of the released DINOv2 and DINOv3 (or timm's, which stay)."""
    for key in _INSIDE:
        if isinstance(content.get(key), dict):
            content = content[key]
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    while state and any(all(key.startswith(prefix) for key in state) for prefix in _PREFIXES):
        state = {key.partition(".")[2]: value for key, value in state.items()}
    if not state:
        raise CheckpointError(f"{where}: expected the weights of a transformer, found no tensors")
    if any(key.startswith("embeddings.") for key in state):
        state = from_transformers(state)
    # Released trainings group their blocks: blocks.0.11.norm1.
    return {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", key): value for key, value in state.items()}


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of transformers' ``Dinov2Model`` and ``DINOv3ViTModel`` as released; query, key and value in one."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, name in _TRANSFORMERS:
            key = re.sub(pattern, name, key)
        found[key] = value
    if "pos_embed" not in found and "register_tokens" in found:  # DINOv3 has no table of positions
        found["storage_tokens"] = found.pop("register_tokens")
    for key in [key for key in found if key.endswith(".attn.q.weight")]:
        name = key.removesuffix("q.weight")
        found[f"{name}qkv.weight"] = torch.cat([found.pop(f"{name}{part}.weight") for part in "qkv"])
        parts = [found.pop(f"{name}{part}.bias", None) for part in "qkv"]
        if any(part is not None for part in parts):
            like = next(part for part in parts if part is not None)
            parts = [torch.zeros_like(like) if part is None else part for part in parts]
            found[f"{name}qkv.bias"] = torch.cat([part for part in parts if part is not None])
    return found


def timm_names(vit: nn.Module, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Through the converter of timm that belongs to the transformer's class; positions are resampled to its size."""
    state = masked_biases(state)
    biases = [key for key in state if key.endswith("attn.qkv.bias") and "storage_tokens" in state]
    if biases and any(bool(state[key].any()) for key in biases) and not has_parameter(vit, "q_bias"):
        raise CheckpointError(f"{where}: {biases[0]} is not zero; choose the model_name that ends in _qkvb")
    convert = importlib.import_module(type(vit).__module__).checkpoint_filter_fn
    if "pos_embed" in state and "mask_token" not in state and "register_tokens" in state:
        state["mask_token"] = state["register_tokens"][:, :1]  # by it timm's converter knows DINOv2's names
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each absent bias
        return dict(convert(dict(state), vit))


def has_parameter(vit: nn.Module, name: str) -> bool:
    """Whether some layer has a parameter of this name."""
    return any(key.rpartition(".")[2] == name for key, _ in vit.named_parameters())


def masked_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv3 multiplies the bias of qkv by a mask, in which keys are zero."""
    found = dict(state)
    for key in [key for key in state if key.endswith(".attn.qkv.bias_mask")]:
        bias = key.removesuffix("_mask")
        found[bias] = state[bias] * found.pop(key).nan_to_num(nan=1.0)
    return found
