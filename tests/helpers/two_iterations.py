"""A composed config as it is shipped, but for its sizes, through two iterations, and what they must have done."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import mmengine.runner.runner
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor

import layouts
from pipa.configs import list_configs
from pipa.mmseg.run.train import load_config
from pipa.step import default_settings
from small_segmentors import narrow
from tiny import pipa_hook

# tests/mmseg/run/test_runs_NAME.py -> the networks whose configs it runs.
RUNS = {
    "daformer": ("daformer",),
    "hrda": ("hrda",),
    "deeplab": ("deeplabv2_r101",),
    "dino": ("dinov2_vitb14", "dinov2_vitl14", "dinov3_vitb16", "dinov3_vitl16"),
}
NETWORKS = tuple(itertools.chain(*RUNS.values()))
DOMAINS = ("gta2cs", "synthia2cs", "gta_synthia2cs", "cs2acdc", "cs2darkzurich")
IMAGE = (80, 128)
# Side of the crop.
CROPS = dict.fromkeys(NETWORKS, 64) | {"hrda": 80, "dinov2_vitb14": 56, "dinov2_vitl14": 56}

# The last word of everything that may differ from the shipped config: sizes of images, crops, networks, batches and
# trainings, places of files, and how much is printed.
OF_THE_NETWORK = {
    *("arch", "embed_dim", "embed_dims", "num_heads", "num_layers", "depth", "base_channels", "stem_channels"),
    *("in_channels", "channels", "attention_embed_dim", "init_cfg"),
}
OF_IMAGES = {
    *("crop_size", "hr_crop_size", "half_crop", "size", "stride", "scale", "source_scale", "target_scale"),
    *("synthia_scale", "patch_size", "top", "bottom", "left", "right", "min_pixels"),
}
OF_THE_TRAINING = {
    *("batch_size", "num_workers", "persistent_workers", "max_iters", "warmup_iters", "begin", "end"),
    *("val_interval", "interval", "work_dir", "load_from", "experiment_name", "log_level", "window_size"),
}
# Of the iteration's settings: channels of the projections, pixels, iterations and batches.
OF_THE_STEP = {"pixel_dim", "patch_dim", "projection_hidden", "patch_size", "patch_warmup", "mask_block"} | {
    *("prototype_batches", "prototype_min_pixels"),
}
VALIDATED = ("source_only", "pipa_mic")
TERMS = ("pixel", "distribution", "feature_distance", "mix", "patch", "mask", "target", "structure", "regularizer")


def names(runs: str) -> list[str]:
    """Composed configs that a file of tests runs."""
    return [name for name, _ in list_configs() if parts(name)[1] in RUNS[runs]]


def parts(name: str) -> tuple[str, str, str]:
    """Domains, network and method; two empty ones of a config that is a file of its own."""
    for domains, network in itertools.product(DOMAINS, NETWORKS):
        if name.startswith(f"{domains}_{network}_"):
            return domains, network, name.removeprefix(f"{domains}_{network}_")
    return name, "", ""


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return layouts.domains(tmp_path_factory.mktemp("data"), IMAGE)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    """The data in its place; without mmengine's account of environment and config, which takes longer than a run."""
    monkeypatch.setenv("PIPA_DATA", str(data))
    monkeypatch.setattr(mmengine.runner.runner, "collect_env", dict)
    monkeypatch.setattr(Config, "pretty_text", property(lambda self: ""))
    monkeypatch.setattr(Config, "dump", lambda self, *_: "")


# -- sizes -------------------------------------------------------------------------------------------------------------


def shrink(name: str, work: Path, start: Path | None = None) -> Config:
    """The config with small sizes: by its own variables where it has them, so that all that follows from them does.

    start: the checkpoint to start from; without one it is made.
    """
    shipped = load_config(name)
    side = CROPS[parts(name)[1]]
    sizes = dict(crop_size=f"({side}, {side})", source_scale="(160, 100)", max_iters=2, warmup_iters=1, num_workers=0)
    options = [f"{key}={value}" for key, value in sizes.items() if key in shipped]
    # ProDA's batch is another than that of the rest.
    cfg = load_config(name, [*options, f"batch_size={shipped.batch_size // 2 + 1}"], str(work))
    cfg.model.backbone.init_cfg = None
    if cfg.model.backbone.type == "ResNet":
        cfg.model.backbone.depth = 50
    narrow(cfg.model)
    if "pipa" in cfg:
        # Two iterations, of which the second is past the warm-up.
        small = dict(pixel_dim=8, patch_dim=8, projection_hidden=8, patch_warmup=1)
        small |= dict(mask_block=16 if "token" not in cfg else cfg.token, prototype_batches=1, prototype_min_pixels=1)
        if parts(name)[1] == "hrda":
            small["patch_size"] = (64, 64)
        if "token" in cfg:
            small["patch_size"] = (3 * cfg.token, 3 * cfg.token)
        cfg.pipa.update({key: value for key, value in small.items() if key in cfg.pipa or key == "projection_hidden"})
        for step in cfg.target_dataloader.dataset.pipeline:
            if step.type == "PseudoMargins":
                step.update({key: width // 15 for key, width in step.items() if key != "type"})
    if cfg.train_dataloader.dataset.type == "RareClassSampling":
        cfg.train_dataloader.dataset.min_pixels = 10
    cfg.train_cfg.val_interval = 2 if parts(name)[2] in VALIDATED else 100
    cfg.default_hooks.logger.interval = cfg.log_processor.window_size = 1
    cfg.experiment_name, cfg.log_level = f"{work.parent.name}-{work.name}", "WARNING"
    cfg.load_from = str(start or trained(cfg.model, work / "start.pth"))
    changed = {key for key in differences(shipped, cfg) if key.rsplit(".", 1)[-1] not in allowed(key)}
    assert not changed, changed
    return cfg


def allowed(key: str) -> set[str]:
    return OF_THE_STEP if key.startswith("pipa.") else OF_THE_NETWORK | OF_IMAGES | OF_THE_TRAINING


def differences(a: Any, b: Any, name: str = "") -> set[str]:
    """Dotted names of the values that differ; positions in a list are not named."""
    if isinstance(a, (dict, Config)) and isinstance(b, (dict, Config)):
        keys = set(a.keys()) | set(b.keys())
        return {d for key in keys for d in differences(a.get(key), b.get(key), f"{name}.{key}".lstrip("."))}
    lists = isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b)
    if lists and all(isinstance(value, dict) for value in (*a, *b)):
        return {d for x, y in zip(a, b, strict=True) for d in differences(x, y, name)}
    return set() if a == b else {name}


def trained(model: ConfigDict, path: Path) -> Path:
    """A checkpoint whose network is sure of what it sees, as one that was trained: masks and shares then count."""
    register_all_modules(init_default_scope=True)
    torch.manual_seed(1)
    built = MODELS.build(ConfigDict(model.to_dict()))
    with torch.no_grad():
        for key, weight in built.decode_head.named_parameters():
            if "conv_seg.weight" in key or "aspp_modules" in key:
                weight.mul_(30)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": built.state_dict(), "meta": {}}, path)
    return path


# -- the run -----------------------------------------------------------------------------------------------------------


def acting(cfg: Config, iteration: int) -> set[str]:
    """The terms that the settings of a config switch on in an iteration (0, 1, ...)."""
    s = {**default_settings(), **cfg.pipa}
    on = {"source"} | {term for term in TERMS if s[f"{term}_weight"] > 0}
    if iteration < s["patch_warmup"]:
        on -= {"patch"}
    if s["distillation_weight"] > 0:
        on |= {"distillation"}
    if "feature_distance" in on and s["feature_distance_target"]:
        on |= {"feature_distance_target"}
    for term in {"pixel", "distribution"} & on:
        if "mix" in on and s[f"{term}_target"]:
            on |= {f"{term}_mix"}
    return on


def check(name: str, work: Path, start: Path | None = None) -> None:
    """Two iterations of a config from a checkpoint (None: one made here), and a validation for some methods."""
    lines = run(shrink(name, work, start))
    domains, _, method = parts(name)
    if method in VALIDATED:
        check_validation(lines, domains, teacher=method != "source_only")


class StartHook(Hook):
    """Keeps the weights that the training starts from, those of the projection heads among them."""

    def before_train(self, runner: Runner) -> None:
        self.weights = {key: p.detach().clone() for key, p in runner.model.named_parameters()}


def run(cfg: Config) -> list[dict[str, Any]]:
    """Train; every term is there when it acts, finite and above 0, and all weights have moved. Returns the log."""
    start = StartHook()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(start, "LOWEST")
    runner.train()
    (file,) = Path(cfg.work_dir).glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    log = [line for line in lines if "loss" in line]
    assert len(log) == 2
    for i, line in enumerate(log):
        losses = {key: value for key, value in line.items() if "loss" in key}
        assert all(np.isfinite(value) and value > 0 for value in losses.values()), losses
        if "pipa" in cfg:
            assert {key.removeprefix("loss_") for key in losses} - {"loss"} == acting(cfg, i)
            assert sum(losses.values()) == pytest.approx(2 * line["loss"], rel=1e-4)
            assert line["pseudo_weight"] > 0
    trained = {key: p for key, p in runner.model.named_parameters() if p.requires_grad}
    assert {key.split(".")[0] for key in trained} >= {"backbone", "decode_head"}
    assert [key for key, p in trained.items() if torch.equal(p, start.weights[key])] == []
    if "pipa" in cfg:
        check_step(cfg, pipa_hook(runner).pipa, start.weights)
    return lines


def check_step(cfg: Config, step: Any, start: dict[str, Tensor]) -> None:
    """The teacher has moved, if only by a step of the warm-up; memories are filled; batch and crop are as said."""
    assert not all(torch.equal(p, start[key]) for key, p in step.teacher.named_parameters())
    for memory, setting in (("prototypes", "prototype_labels"), ("distribution", "distribution_weight")):
        found = getattr(step._native, memory)
        assert (found is not None) == bool(cfg.pipa.get(setting))
        assert found is None or float(found[0].abs().sum()) > 0
    assert (step.initial is not None) == (cfg.pipa.get("label_network") == "initial")
    shape = (cfg.train_dataloader.batch_size, 3, *cfg.model.data_preprocessor.size)
    assert step.last["source_image"].shape == step.last["target_image"].shape == shape


def check_validation(lines: list[dict[str, Any]], domains: str, teacher: bool) -> None:
    """The metrics that the domains name, of the student and of the teacher where there is one."""
    (val,) = (line for line in lines if "mIoU" in line)
    metrics = {"mIoU", "mIoU16", "mIoU13"} if domains == "synthia2cs" else {"mIoU"}
    assert {key for key in val if "mIoU" in key} == metrics | (
        {f"teacher/{key}" for key in metrics} if teacher else set()
    )
