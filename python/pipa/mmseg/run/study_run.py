"""One training of a study: its config, its training, and what is kept of it."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from pipa._core import __version__
from pipa.files.numbered import numbered
from pipa.mmseg.datasets.samplers import DrawSampler
from pipa.mmseg.engine.checkpoint_hook import SafeCheckpointHook
from pipa.mmseg.engine.pipa_hook import PipaHook
from pipa.mmseg.engine.repeatable import EVALUATIONS, LOG, RepeatableHook, read_lines, read_progress, seed_all
from pipa.mmseg.engine.start_checks import is_pipa
from pipa.mmseg.engine.whole_start import WholeStart
from pipa.mmseg.evaluation.embeddings import ClassMeans, class_means, layout
from pipa.mmseg.evaluation.groups import areas_by_group
from pipa.mmseg.evaluation.pseudo_labels import PseudoLabelMetric
from pipa.mmseg.models.segmentors.step_adapter import backbone_features, core_model
from pipa.mmseg.run.train import check_option, hush, load_config, train
from pipa.settings import default_settings


def configure(run: Mapping[str, Any], folder: Path) -> Config:
    """The config of a run.

    Args:
        run: ``config``, ``adapt``, ``settings``, ``iterations`` and ``seed`` (:class:`pipa.study.definition.Run`).
        folder: of the run.

    Raises:
        ValueError: no such config, one whose length is no number of iterations, or a setting that it does not have.
    """
    hush()
    config = load_config(run["config"], [], str(folder))
    save_by_iterations(config, run["config"])
    hooks = list(config.get("custom_hooks") or [])
    if not run["adapt"]:
        hooks = [hook for hook in hooks if not is_pipa(hook)]
    config.custom_hooks = hooks
    place = next((f"custom_hooks.{i}" for i, hook in enumerate(hooks) if is_pipa(hook)), None)
    for key, value in run["settings"].items():
        if key.startswith("pipa."):
            if place is None:
                raise ValueError(f"{run['config']}: has no PipaHook to take the setting {key}")
            key = f"{place}{key.removeprefix('pipa')}"  # what the hook itself is given wins
        check_option(config, key)
        config.merge_from_dict({key: value})
    if config.train_cfg.get("dynamic_intervals"):  # mmengine takes tuples only, and YAML has none
        config.train_cfg.dynamic_intervals = [tuple(pair) for pair in config.train_cfg.dynamic_intervals]
    if run["iterations"] is not None:
        set_iterations(config, run["iterations"])
    watch_pseudo_labels(config)
    config.custom_hooks = [*config.custom_hooks, {"type": RepeatableHook.__name__}]
    config.randomness = {**(config.get("randomness") or {}), "seed": run["seed"]}
    config.visualizer = {"type": "SegLocalVisualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    config.log_level = "ERROR"
    return config


def save_by_iterations(config: Config, name: str) -> None:
    """The checkpoint that a study goes on from is its own business: whole, in the run's folder, of an iteration.

    Raises:
        ValueError: the training counts epochs.
    """
    loop = config.get("train_cfg") or {}
    if "max_iters" not in loop:
        raise ValueError(f"{name}: train_cfg: expected max_iters, as a study counts iterations, got {dict(loop)}")
    hooks = dict(config.get("default_hooks") or {})
    given = hooks.get("checkpoint") or {}
    interval = given.get("interval", -1)
    safe = given.get("type") in (SafeCheckpointHook, SafeCheckpointHook.__name__)
    if given.get("by_epoch", not safe) or interval < 1:  # mmengine's counts epochs unless it is told otherwise
        interval = loop.get("val_interval", loop["max_iters"])
    hooks["checkpoint"] = {"type": SafeCheckpointHook.__name__, "interval": interval, "max_keep_ckpts": 1}
    config.default_hooks = hooks


def watch_pseudo_labels(config: Config) -> None:
    """Each evaluation also says what the pseudo-labels are worth, at the threshold of the training."""
    given = [config.get("pipa") or {}, *filter(is_pipa, config.custom_hooks)]
    threshold = next((place["threshold"] for place in reversed(given) if "threshold" in place), None)
    metrics = config.val_evaluator if isinstance(config.val_evaluator, (list, tuple)) else [config.val_evaluator]
    config.val_evaluator = [*metrics, {"type": PseudoLabelMetric.__name__, "threshold": threshold}]


def set_iterations(config: Config, iterations: int) -> None:
    """Shorten or lengthen a training; evaluations, checkpoints, schedules and the warm-up of the patch term scale."""
    loop = config.train_cfg
    scale = iterations / loop.max_iters

    def scaled(value: int) -> int:
        return max(1, round(value * scale))

    loop.max_iters = iterations
    loop.val_interval = scaled(loop.val_interval)
    if loop.get("dynamic_intervals"):
        loop.dynamic_intervals = [(scaled(begin), scaled(step)) for begin, step in loop.dynamic_intervals]
    config.default_hooks.checkpoint.interval = scaled(config.default_hooks.checkpoint.interval)
    for schedule in config.param_scheduler:
        schedule.begin, schedule.end = round(schedule.begin * scale), scaled(schedule.end)
    shared = config.get("pipa") or {}
    own = list(filter(is_pipa, config.custom_hooks))
    if "patch_warmup" not in shared:
        for hook in own:
            hook.setdefault("patch_warmup", default_settings()["patch_warmup"])
    for place in (shared, *own):
        if "patch_warmup" in place:
            place["patch_warmup"] = round(place["patch_warmup"] * scale)


def run_once(
    run: Mapping[str, Any], folder: Path, test: bool = False, weights: str | None = None
) -> dict[str, Any] | None:
    """Train from the newest checkpoint in ``folder``, or from the start.

    Args:
        run: as for :func:`configure`.
        test: at the end, and only then, look at ``test_dataloader`` too, with student and teacher.
        weights: checkpoint that the start takes its weights from; those of the config if None.

    Returns:
        Evaluations, log, areas on the test data and versions; None where a signal ended the training before its last
        iteration.
    """
    config = configure(run, folder)
    resume = bool(numbered(folder))
    if weights is not None:
        config.load_from = weights
    if resume:  # else mmengine would resume from the file that the training only starts from
        config.load_from = None
    if config.get("load_from") is not None:
        config.custom_hooks = [*config.custom_hooks, {"type": WholeStart.__name__}]
    runner = train(config, resume=resume, threads=1 if not torch.cuda.is_available() else None)
    if runner.iter < runner.max_iters:
        return None
    return {
        "embedding": embedding(runner),
        "evaluations": read_lines(folder / EVALUATIONS),
        "log": read_lines(folder / LOG),
        "test": final_test(runner) if test else None,
        "classes": list(runner.val_dataloader.dataset.metainfo["classes"]),
        "seconds": read_progress(folder)["seconds"],
        "versions": versions(),
    }


@torch.no_grad()
def embedding(runner: Runner, batches: int = 16) -> dict[str, float]:
    """Layout of classes and domains in the student's encoder: on training crops of the source, and on validation data.

    A training on target labels has the target on both sides.

    Args:
        batches: of training crops; validation images are taken whole, all of them.
    """
    core = core_model(runner)
    training = core.training
    core.eval()

    def pairs(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            data = core.data_preprocessor(batch, False)
            yield data["inputs"], torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data["data_samples"]])

    def means(loader: Iterable[Any]) -> ClassMeans:
        return class_means(pairs(loader), partial(backbone_features, core), classes)

    classes = len(runner.val_dataloader.dataset.metainfo["classes"])
    seed_all(runner.seed, 0, runner.max_iters)
    sampler = runner.train_dataloader.sampler
    if isinstance(sampler, DrawSampler):
        sampler.skip(0)  # the first draws, wherever this process began
    try:
        source = means(itertools.islice(runner.train_dataloader, batches))
        return layout(source, means(runner.val_dataloader))
    finally:
        core.train(training)


def final_test(runner: Runner) -> dict[str, Any]:
    """Areas by drive on the test data, of the student and of the teacher where there is one."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, PipaHook)), None)
    models = {"student": runner.model}
    if hook is not None and hook.pipa is not None:
        models["teacher"] = hook.pipa.teacher
    return {name: areas_by_group(model, runner.test_loop) for name, model in models.items()}


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    own = {"pipa": __version__, "torch": torch.__version__, "numpy": np.__version__}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {**own, "python": platform.python_version(), "device": device}
