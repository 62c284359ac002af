"""Load a config, train, test, export: what the commands `pipa train`, `test` and `export` do."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

import pipa.mmseg  # noqa: F401  (registers)
from pipa.files.plain import SUFFIXES
from pipa.mmseg.checkpoints.weights import choose, fill
from pipa.mmseg.engine.data_check_hook import DataCheckHook
from pipa.mmseg.engine.launcher import init_launcher
from pipa.mmseg.engine.progress import ProgressHook
from pipa.mmseg.engine.start_checks import check_tested, hook_places, refuse
from pipa.mmseg.mmengine_compat import build_runner, values_of
from pipa.mmseg.models.segmentors.step_adapter import core_model, main_head
from pipa.mmseg.run.checkpoint_file import read_named
from pipa.mmseg.run.config import read_config
from pipa.mmseg.run.options import apply, without_workers
from pipa.mmseg.run.options import parse as options_of
from pipa.mmseg.run.pipeline_steps import check_evaluated
from pipa.mmseg.run.values import check_values

__all__ = ["evaluate_checkpoint", "hush", "load_config", "load_weights", "load_with", "train", "weights_of"]


def hush() -> None:
    """Only errors of mmengine reach the screen: its remarks would tear progress bars apart."""
    MMLogger.get_current_instance().setLevel("ERROR")


def load_config(config: str | Path, options: Sequence[str] = (), work_dir: str | None = None) -> Config:
    """A config by path or shipped name, with ``KEY=VALUE`` overrides; ``data_root=FOLDER`` reaches every data set.

    A config in Python is a program; YAML and JSON are read as data (:mod:`pipa.mmseg.run.data_config`).

    Raises:
        ValueError: no such config, an override of a setting that is not there, or a misspelt setting of the runner.
    """
    return load_with(config, options_of(options), work_dir)


def load_with(config: str | Path, overrides: Sequence[tuple[str, Any]], work_dir: str | None = None) -> Config:
    """As :func:`load_config`, with overrides that are values already."""
    path = Path(config)
    if not path.is_file():
        if len(path.parts) > 1 or path.suffix in SUFFIXES:
            raise ValueError(f"{config}: no such config file (`pipa configs` lists the shipped ones)")
        from pipa.configs import path_of

        path = path_of(str(config))
    loaded = apply(lambda layer: read_config(path, layer.get("data_root"), layer), overrides)
    without_workers(values_of(loaded))
    window = (loaded.get("model") or {}).get("test_cfg") or {}
    if window.get("mode") == "slide" and not {"crop_size", "stride"} <= window.keys():
        raise ValueError(f"{path}: model.test_cfg: expected crop_size and stride for windows, got {dict(window)}")
    check_keys(loaded, path)
    if work_dir is not None:
        loaded.work_dir = work_dir
    elif loaded.get("work_dir") is None:
        loaded.work_dir = f"work_dirs/{path.stem}"
    return loaded


def check_keys(config: Config, path: Path) -> None:
    """Refuse top-level keys that look like a misspelt setting of the runner (mmengine would ignore them in silence)."""
    known = [name for name in inspect.signature(Runner.__init__).parameters if name not in ("self", "cfg")]
    known += ["custom_imports", "target_dataloader", "pipa"]
    for key in config:
        if key in known or key.startswith("_"):
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.88)
        if near:
            raise ValueError(f"{path}: unknown setting {key!r}; did you mean {near[0]!r}?")


def train(
    config: Config,
    resume: bool = False,
    launcher: str = "none",
    threads: int | None = None,
    overwrite: bool = False,
) -> Runner:
    """Train with mmengine's Runner: progress bar, all losses in the log, TensorBoard scalars where it is installed.

    Args:
        resume: go on from ``load_from`` where the config has one, else from what ``last_checkpoint`` names. A config
            that says ``resume = True`` does so whatever is given here.
        overwrite: remove the checkpoints of an earlier training in the work folder; without it they are an error.

    Raises:
        ValueError: a value that no training can have, a step of the validation's pipeline that a prediction cannot take
            back, ``overwrite`` beside a resume, or without a SafeCheckpointHook.
    """
    check_values(config)
    check_evaluated(config, "val_dataloader")
    if overwrite and (resume or config.get("resume")):
        asks = "--resume" if resume else "the config's resume=True"
        raise ValueError(f"{asks} goes on with the folder's training and --overwrite removes it: choose one")
    if threads is not None:
        torch.set_num_threads(threads)
    init_launcher(config, launcher)
    if resume:
        config.resume = True
    if overwrite:
        hook = (config.get("default_hooks") or {}).get("checkpoint") or {}
        if hook.get("type") != "SafeCheckpointHook":
            raise ValueError("--overwrite needs default_hooks.checkpoint of type SafeCheckpointHook")
        hook["overwrite"] = True
    hooks = [*(config.get("custom_hooks") or []), {"type": ProgressHook.__name__}]
    if not hook_places(config):  # PipaHook looks at the data itself
        hooks.append({"type": DataCheckHook.__name__})
    config.custom_hooks = hooks
    add_tensorboard(config)
    runner = build_runner(config)
    try:
        runner.train()
    finally:  # an error must not leave the bar running and the cursor hidden
        for hook in runner.hooks:
            if isinstance(hook, ProgressHook):
                hook.close()
    return runner


def add_tensorboard(config: Config) -> None:
    """Also write scalars for TensorBoard, unless the config chooses its own backends."""
    if config.get("visualizer") is not None or importlib.util.find_spec("tensorboard") is None:
        return
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    # Without a name: mmengine takes the run's own, and a second training in one process gets a visualizer of its own.
    config.visualizer = {"type": "SegLocalVisualizer", "vis_backends": backends}


def evaluate_checkpoint(config: Config, checkpoint: str | Path, teacher: bool = False) -> dict[str, float]:
    """Metrics of a checkpoint on ``test_dataloader``.

    Raises:
        ValueError: the weights do not fit the model, the data has other classes than the checkpoint or the model, a
            value of the config, or a step of the test pipeline that a prediction cannot take back.
    """
    drop_training(config)
    check_values(config)
    check_evaluated(config, "test_dataloader")
    content = read_named(checkpoint)
    runner = build_runner(config)
    fill(runner.model, choose(content, str(checkpoint), "teacher" if teacher else "auto"), str(checkpoint))
    core = core_model(runner)
    head = main_head(core) if hasattr(core, "decode_head") else None
    refuse(list(check_tested(runner, head, content, str(checkpoint))))
    return runner.test()


def drop_training(config: Config) -> None:
    """Keep only what a test needs: no training data has to be there."""
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "val_dataloader", "val_cfg"):
        config[key] = None
    config.val_evaluator = None
    config.load_from, config.resume = None, False
    config.custom_hooks = [h for h in (config.get("custom_hooks") or []) if h.get("type") != "PipaHook"]


def weights_of(checkpoint: str | Path, teacher: bool = False) -> dict[str, torch.Tensor]:
    """Weights of the student or the teacher in a checkpoint of a training, a converted or an exported file.

    Raises:
        ValueError: the file holds no such weights.
    """
    return choose(read_named(checkpoint), str(checkpoint), "teacher" if teacher else "auto")


def load_weights(model: torch.nn.Module, checkpoint: str | Path, teacher: bool = False) -> None:
    """Load weights strictly: a missing or unexpected key is an error that names it."""
    fill(model, weights_of(checkpoint, teacher), str(checkpoint))
