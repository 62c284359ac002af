"""Shared by the parity tests of whole networks: small configs, loading of recorded cases, comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.models.utils import resize
from safetensors.torch import load_file
from torch import Tensor, nn

from pipa.mmseg.checkpoints.keys import convert_state_dict

BN = {"type": "BN", "requires_grad": True}
RELU = {"type": "ReLU"}
ASPP = {"type": "aspp", "dilations": (1, 6, 12, 18), "norm_cfg": BN, "act_cfg": RELU}
FUSION: dict[str, Any] = {
    "sepaspp": {**ASPP, "sep": True, "pool": False},
    "aspp": {**ASPP, "sep": False, "pool": False},
    "aspp_pool": {**ASPP, "sep": True, "pool": True},
    "conv1": {"type": "conv", "kernel_size": 1, "norm_cfg": BN, "act_cfg": RELU},
    "sepaspp_bottleneck": {**ASPP, "type": "rawconv_and_aspp", "kernel_size": 1, "sep": True, "pool": False},
}


def backbone(depths: tuple[int, ...]) -> dict[str, Any]:
    return {"type": "MiT", "embed_dims": 8, "num_layers": depths, "num_heads": (1, 2, 3, 4), "drop_path_rate": 0.1}


def head(fusion: str) -> dict[str, Any]:
    return {
        "type": "DAFormerHead",
        "in_channels": [8, 16, 24, 32],
        "in_index": [0, 1, 2, 3],
        "channels": 16,
        "num_classes": 19,
        "norm_cfg": BN,
        "align_corners": False,
        "decoder_params": {"embed_dims": 16, "fusion_cfg": FUSION[fusion]},
    }


def segmentor(tree: str) -> dict[str, Any]:
    """The small networks of the recorded training steps, without dropout and drop-path."""
    decode_head = {**head("sepaspp"), "dropout_ratio": 0.0}
    encoder = {**backbone((1, 1, 1, 1)), "drop_path_rate": 0.0}
    if tree == "HRDA":
        decode_head.update(type="HRDAHead", attention_embed_dim=16)
        return {"type": "HRDAEncoderDecoder", "backbone": encoder, "decode_head": decode_head, "hr_crop_size": (64, 64)}
    return {"type": "EncoderDecoder", "backbone": encoder, "decode_head": decode_head, "test_cfg": {"mode": "whole"}}


def load(root: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    path = root / f"{name}.safetensors"
    cases = json.loads((root / "README.json").read_text())["cases"]
    info = next(case for case in cases if case["file"] == f"{name}.npz")
    with np.load(root / f"{name}.npz") as data:
        arrays = {key: torch.from_numpy(data[key]) for key in data.files}
    arrays = {key: a.float() if a.dtype == torch.float16 else a for key, a in arrays.items()}
    return info, arrays, load_file(path)


def load_part(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load one of the networks of a recorded training state: `model`, `ema_model` or `imnet_model`.

    Recorded are only the teacher's batch statistics, as its first update copies the student's parameters, and only the
    encoder of the ImageNet network. What is not recorded keeps its random start.
    """
    part = convert_state_dict(
        {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}
    )
    missing, unexpected = model.load_state_dict(part, strict=False)
    buffers = {key for key, _ in model.named_buffers()}
    counters = {key for key in buffers if key.endswith("num_batches_tracked")}  # torch fills these in
    left_out = {
        "model": set(),
        "ema_model": set(model.state_dict()) - buffers,
        "imnet_model": {key for key in model.state_dict() if not key.startswith("backbone.")},
    }[name]
    assert not unexpected
    assert set(missing) - counters == left_out - counters


def loss_and_accuracy(logits: Tensor, label_b1hw: Tensor, weight_bhw: Tensor | None) -> tuple[Tensor, Tensor]:
    label = label_b1hw[:, 0].long()
    full = resize(logits, label.shape[1:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(full, label, ignore_index=255, reduction="none")
    loss = (loss if weight_bhw is None else loss * weight_bhw).mean()
    return loss, 100.0 * (full.argmax(1) == label).float().mean()


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Largest difference, relative to the largest value where that is above one."""
    actual = actual.detach()
    scale = max(1.0, float(expected.abs().max()))
    error = float((actual - expected).abs().max()) / scale
    assert error <= tolerance, f"{what}: {error:.2e} > {tolerance:.0e}"


def check_gradients(model: nn.Module, expected: dict[str, Tensor]) -> None:
    gradients = {name: p.grad for name, p in model.named_parameters()}
    expected = convert_state_dict(expected)
    assert set(expected) == set(gradients)
    for name, value in expected.items():
        close(gradients[name], value, 1e-4, name)


class Replay:
    """Gives recorded draws back and checks that they are asked for in the recorded way."""

    def __init__(self, draws: list[dict[str, Any]]) -> None:
        self.draws = list(draws)

    def randint(self, low: int, high: int) -> int:
        draw = self.draws.pop(0)
        assert [low, high] == draw["args"]
        return draw["out"]
