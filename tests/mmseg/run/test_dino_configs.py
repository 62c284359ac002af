"""The configs of foundation encoders are composed as named (test_runs_dino.py runs them); a small one learns."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmseg")
pytest.importorskip("timm")

import mmengine.runner.runner
from mmengine.config import Config
from mmengine.runner import Runner

import tiny_vit
from pipa import toy
from pipa.configs import list_configs, path_of
from pipa.mmseg.run.train import load_config

pytestmark = pytest.mark.slow

NETWORKS = {
    "dinov2_vitb14": ("vit_base_patch14_dinov2", 14, 768),
    "dinov2_vitl14": ("vit_large_patch14_dinov2", 14, 1024),
    "dinov3_vitb16": ("vit_base_patch16_dinov3", 16, 768),
    "dinov3_vitl16": ("vit_large_patch16_dinov3", 16, 1024),
}
SELF_TRAINING = {"source", "feature_distance", "feature_distance_target", "mix", "mask"}
TERMS: dict[str, set[str]] = {
    "source_only": set(),
    "self_training": SELF_TRAINING,
    "pipa": SELF_TRAINING | {"pixel", "patch"},
}
NAMES = [f"gta2cs_{network}_{method}" for network, method in itertools.product(NETWORKS, TERMS)]


def parts(name: str) -> tuple[str, str]:
    network, method = name.removeprefix("gta2cs_").split("_", 2)[:2], name
    return "_".join(network), next(m for m in TERMS if method.endswith(f"_{m}"))


@pytest.mark.parametrize("name", NAMES)
def test_composition(name: str) -> None:
    assert name in dict(list_configs())
    network, method = parts(name)
    timm_name, patch, channels = NETWORKS[network]
    cfg = Config.fromfile(path_of(name))
    assert (cfg.model.backbone.model_name, cfg.model.neck.embed_dim) == (timm_name, channels)
    assert tuple(cfg.model.decode_head.in_channels) == (channels,) * 4
    assert network.split("_")[0] in cfg.model.backbone.init_cfg.checkpoint
    side = 1024 // patch * patch
    assert tuple(cfg.crop_size) == tuple(cfg.model.data_preprocessor.size) == (side, side)
    crops = [
        s.crop_size
        for d in (cfg.source, cfg.target_pipeline)
        for s in (d.pipeline if "pipeline" in d else d)
        if s.type == "SyncCrop"
    ]
    assert [tuple(crop) for crop in crops] == [(side, side)] * 2
    optimizer = cfg.optim_wrapper
    assert optimizer.constructor == "LayerDecayConstructor"
    assert optimizer.paramwise_cfg.layer_decay == 0.9
    assert optimizer.optimizer.lr * optimizer.paramwise_cfg.custom_keys["head"].lr_mult == pytest.approx(2.8e-5)
    if method == "source_only":
        assert list(cfg.custom_hooks) == []
        return
    assert cfg.pipa.mask_block == 4 * patch
    assert all(n % patch == 0 for n in cfg.patch_size)
    weights = {
        term: cfg.pipa.get(f"{term}_weight", 0) for term in ("mix", "pixel", "patch", "mask", "feature_distance")
    }
    assert {term for term, weight in weights.items() if weight > 0} | {"source", "feature_distance_target"} == TERMS[
        method
    ]


def test_one_option_changes_what_is_trained() -> None:
    for mode, distance in (("frozen", 0.0), ("lora", 0.1)):
        cfg = load_config("gta2cs_dinov3_vitb16_pipa", [f"encoder={mode}"])
        assert cfg.model.backbone.encoder == mode
        assert cfg.pipa.feature_distance_weight == distance
        assert cfg.pipa.feature_distance_target == (distance > 0)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mmengine's account of environment and config, which takes longer than the iterations."""
    monkeypatch.setattr(mmengine.runner.runner, "collect_env", dict)
    monkeypatch.setattr(Config, "pretty_text", property(lambda self: ""))
    monkeypatch.setattr(Config, "dump", lambda self, *_: "")


def test_a_small_transformer_learns_the_toy_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing, with every term of the recipe: the loss on labelled images falls by a fifth."""
    toy.write(tmp_path / "toy", seed=0, train=8, val=2)
    monkeypatch.setenv("PIPA_DATA", str(tmp_path / "toy"))
    cfg = load_config("toy_pipa", ["max_iters=60", "warmup_iters=10"])
    crop = (96, 128)
    cfg.model.backbone = dict(**tiny_vit.config("dinov3"), pyramid=False)
    cfg.model.backbone.update(drop_path_rate=0.05, init_values=1.0)
    cfg.model.neck = dict(type="Feature2Pyramid", embed_dim=tiny_vit.DIM, norm_cfg=dict(type="BN"))
    cfg.model.decode_head.update(in_channels=(tiny_vit.DIM,) * 4, channels=32)
    cfg.model.decode_head.decoder_params.embed_dims = 32
    assert tuple(cfg.crop_size) == crop
    cfg.custom_hooks[0].update(
        label_flip=True,
        mask_weight=0.5,
        mask_kind="tokens",
        mask_block=32,
        feature_distance_weight=0.01,
        feature_distance_form="cosine",
        feature_distance_target=True,
        patch_align=16,
        patch_warmup=0,
        gradient_interval=0,
        evaluate_teacher=False,
    )
    cfg.optim_wrapper.update(constructor="LayerDecayConstructor", paramwise_cfg=dict(layer_decay=0.9))
    cfg.merge_from_dict({"train_cfg.val_interval": 1000, "default_hooks.logger.interval": 1})
    cfg.work_dir, cfg.experiment_name, cfg.log_level = str(tmp_path / "work"), "dino-toy", "WARNING"
    Runner.from_cfg(cfg).train()
    (file,) = (tmp_path / "work").glob("*/vis_data/scalars.json")
    losses = [line["loss_source"] for line in map(json.loads, file.read_text().splitlines()) if "loss_source" in line]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
