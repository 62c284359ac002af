"""A PiPa training small enough to be run, killed and resumed by tests: 64 px images, an encoder of 8 channels."""

from __future__ import annotations

import copy
import multiprocessing
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

import layouts
import pipa.mmseg

SIZE = (64, 64)
CLASSES = 3

ENCODER: dict[str, Any] = dict(
    type="MiT",
    embed_dims=8,
    num_layers=(1, 1, 1, 1),
    num_heads=(1, 2, 3, 4),
    sr_ratios=(2, 1, 1, 1),
    drop_path_rate=0.2,
)
HEAD: dict[str, Any] = dict(
    in_channels=[8, 16, 24, 32], channels=12, num_classes=CLASSES, norm_cfg=dict(type="BN"), dropout_ratio=0.3
)
# Every term is on, and the patch term starts after a few iterations, so that a resume can fall on either side.
TERMS: dict[str, Any] = dict(
    pixel_dim=8,
    patch_dim=8,
    projection_hidden=8,
    pixel_max_anchors=64,
    patch_size=(48, 48),
    patch_warmup=2,
    mask_weight=1.0,
    mask_block=16,
    feature_distance_weight=0.005,
    feature_distance_classes=[1, 2],
    evaluate_teacher=False,
)


def data(root: Path) -> Path:
    """Source and target images below `root`."""
    layouts.folder(root / "source", count=5, size=SIZE)
    layouts.folder(root / "target", count=6, size=SIZE, labelled=False)
    return root


def model(kind: str) -> dict[str, Any]:
    """`daformer`, or `hrda` with a random detail crop."""
    pre = dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=SIZE,
    )
    parts = dict(data_preprocessor=pre, backbone=copy.deepcopy(ENCODER), test_cfg=dict(mode="whole"))
    if kind == "daformer":
        params = dict(embed_dims=8, fusion_cfg="conv1")
        head = dict(type="DAFormerHead", **HEAD, decoder_params=params)
        return dict(type="EncoderDecoder", decode_head=head, **parts)
    head = dict(type="HRDAHead", **HEAD, attention_embed_dim=6)
    return dict(type="HRDAEncoderDecoder", decode_head=head, hr_crop_size=(32, 32), **parts)


def daformer(noise: bool = True) -> Any:
    """DAFormer in training mode, of seed 0; without noise its passes draw nothing."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    register_all_modules(init_default_scope=True)
    cfg = model("daformer")
    if not noise:
        cfg["backbone"]["drop_path_rate"] = cfg["decode_head"]["dropout_ratio"] = 0.0
    return MODELS.build(ConfigDict(cfg)).train()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Source images, their labels in blocks of 8 pixels, target images."""
    source, target = torch.randn(2, 2, 3, *SIZE)
    return source, torch.randint(0, CLASSES, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2), target


def loader(root: Path, stream: int, workers: int, batch: int = 2) -> dict[str, Any]:
    labelled = stream == 0
    dataset = dict(
        type="FolderDataset",
        data_root=str(root / ("source" if labelled else "target")),
        classes="classes.json",
        unlabelled=not labelled,
        pipeline=[
            dict(type="LoadImage"),
            *([dict(type="LoadLabel")] if labelled else []),
            dict(type="SyncCrop", crop_size=(48, 48), **(dict(cat_max_ratio=0.75) if labelled else {})),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackSegInputs" if labelled else "PackUnlabelled"),
        ],
    )
    if labelled:
        dataset = dict(type="RareClassSampling", dataset=dataset, min_pixels=50, min_crop_ratio=0.5)
    return dict(
        batch_size=batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        sampler=dict(type="DrawSampler", stream=stream),
        dataset=dataset,
    )


def config(
    root: Path,
    work_dir: Path,
    kind: str = "daformer",
    iterations: int = 6,
    workers: int = 0,
    batch: int = 2,
    **terms: Any,
) -> dict[str, Any]:
    """A whole mmengine config as plain values."""
    hook = dict(type="PipaHook", target_dataloader=loader(root, 1, workers, batch), **{**TERMS, **terms})
    return dict(
        default_scope="mmseg",
        model=model(kind),
        train_dataloader=loader(root, 0, workers, batch),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=10**6),
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
            paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0), norm=dict(decay_mult=0.0))),
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
            dict(type="PolyLR", power=1.0, by_epoch=False, begin=3, end=100),
        ],
        default_hooks=dict(
            checkpoint=dict(type="SafeCheckpointHook", interval=1),
            logger=dict(type="LoggerHook", interval=1000),
        ),
        custom_hooks=[hook],
        randomness=dict(seed=7),
        work_dir=str(work_dir),
        log_level="WARNING",
    )


def train(cfg: dict[str, Any], resume: bool = False, load_from: str | Path | None = None, threads: int = 1) -> Runner:
    """Run a training to its end in this process."""
    register_all_modules(init_default_scope=False)
    cfg = copy.deepcopy(cfg)
    cfg["resume"], cfg["load_from"] = resume, None if load_from is None else str(load_from)
    torch.set_num_threads(threads)
    Path(cfg["work_dir"]).mkdir(parents=True, exist_ok=True)
    runner = Runner.from_cfg(Config(cfg, filename=None))
    runner.train()
    return runner


def everything(runner: Runner) -> dict[str, Any]:
    """All that decides how a training goes on: weights, optimiser, schedules, teacher, memory bank, counters."""
    hook = pipa_hook(runner)
    core = pipa.mmseg.models.segmentors.step_adapter.core_model(runner)
    return dict(
        student=core.state_dict(),
        teacher=hook.pipa.teacher.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
        schedules=[scheduler.state_dict() for scheduler in runner.param_schedulers],
        bank=hook.pipa._native.bank,
        prototypes=hook.pipa._native.prototypes,
        distribution=hook.pipa._native.distribution,
        initial=None if hook.pipa.initial is None else hook.pipa.initial.state_dict(),
        iteration=(hook.pipa.iteration, runner.iter),
    )


def pipa_hook(runner: Runner) -> Any:
    return next(hook for hook in runner.hooks if type(hook).__name__ == "PipaHook")


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Names of the entries in which two nested states differ in any bit."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [name]
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            return [f"{name} (keys)"]
        return [d for key in a for d in differences(a[key], b[key], f"{name}.{key}")]
    if isinstance(a, (list, tuple)):
        if not isinstance(b, (list, tuple)) or len(a) != len(b):
            return [f"{name} (length)"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{name}.{i}")]
    return [] if a == b else [f"{name}: {a!r} != {b!r}"]


def child(
    cfg: dict[str, Any],
    log: str,
    result: str | None = None,
    resume: bool = False,
    file_limit: int = 0,
    threads: int = 1,
) -> None:
    """Body of a process of its own: train, write `everything` to `result`, all output to `log`.

    file_limit: the largest file in bytes that the system lets this process write; 0 is no limit.
    """
    os.setpgid(0, 0)  # signals to the group reach this training and its workers alone
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    done = train(cfg, resume=resume, threads=threads)
    if result is not None and done.iter >= done.max_iters:
        torch.save(everything(done), result)


def children(cfgs: list[dict[str, Any]], log: str, threads: int) -> None:
    """As `child`, for several trainings one after the other, with more than one thread in torch."""
    for cfg in cfgs:
        child(cfg, log, threads=threads)
        torch.rand(400, 400) @ torch.rand(400, 400)


def processes() -> Any:
    """Starts processes that have imported everything already, forked from a server that has done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny"])
    here = str(Path(__file__).resolve().parent)  # the server finds this file by the environment only
    if here not in os.environ.get("PYTHONPATH", ""):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return context
