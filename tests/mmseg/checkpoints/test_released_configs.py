"""The released configs' heads build as they are written, and the optimizer groups come out as recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmseg.registry import MODELS

import pipa.mmseg  # noqa: F401  (registers)
from pipa.mmseg.checkpoints.keys import convert_state_dict

# The keys of a released segmentor config that ours takes with the same meaning.
HRDA_KEYS = ("scales", "hr_crop_size", "feature_scale", "crop_coord_divisible", "hr_slide_inference")


def released_model(golden: Path, tree: str) -> Any:
    """The released config with MiT-B0 in place of B5 (and its channels in the head)."""
    torch.set_num_threads(1)
    recorded = json.loads((golden / "keys" / f"{tree}_config.json").read_text())
    model = recorded["model"]
    settings = {key: {**recorded, **model}[key] for key in HRDA_KEYS if key in {**recorded, **model}}
    head = {**model["decode_head"], "in_channels": [32, 64, 160, 256]}
    cfg = {"type": model["type"], "backbone": {"type": "MiT", "arch": "b0"}, "decode_head": head, **settings}
    return MODELS.build(ConfigDict({**cfg, "test_cfg": model["test_cfg"]}))


@pytest.mark.parametrize("tree", ["DAFormer", "HRDA", "MIC_seg", "PiPa", "PiPa_DAFormer"])
def test_released_heads_build_with_the_recorded_parameters(golden: Path, tree: str) -> None:
    model = released_model(golden, tree)
    shapes = json.loads((golden / "keys" / f"{tree}_segmentor_mit_b0.json").read_text())
    state = {
        key: torch.zeros(()).expand(s) for key, s in shapes.items() if key.startswith(("backbone.", "decode_head."))
    }
    expected = {name: tuple(value.shape) for name, value in convert_state_dict(state).items()}
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected


@pytest.mark.parametrize("tree", ["DAFormer", "HRDA"])
def test_optimizer_groups(golden: Path, tree: str) -> None:
    """Heads x10, encoder norms without decay: asked for by kind, since `norm` is no part of our norms' names."""
    model = released_model(golden, tree)
    paramwise = {"custom_keys": {"head": {"lr_mult": 10.0}, "pos_block": {"decay_mult": 0.0}}, "norm_decay_mult": 0.0}
    optimizer = {"type": "AdamW", "lr": 6e-5, "betas": (0.9, 0.999), "weight_decay": 0.01}
    wrapper = build_optim_wrapper(model, ConfigDict(optimizer=optimizer, paramwise_cfg=paramwise))
    names = {id(p): name for name, p in model.named_parameters()}
    ours = {
        names[id(p)]: (group["lr"] / 6e-5, group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for p in group["params"]
    }
    recorded = json.loads((golden / "keys" / f"{tree}_optgroups_mit_b0.json").read_text())
    recorded = {k.removeprefix("model."): torch.tensor(v) for k, v in recorded.items() if k.startswith("model.")}
    expected = {name: value[:2].tolist() for name, value in convert_state_dict(recorded).items()}
    assert set(ours) == set(expected)
    for name, values in expected.items():
        assert ours[name] == pytest.approx(values), name
