"""The config of one training of a study: what the study says of it, its length, and what the study needs to work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pipa.mmseg.engine.checkpoint_hook import SafeCheckpointHook
from pipa.mmseg.engine.repeatable import RepeatableHook
from pipa.mmseg.engine.start_checks import is_pipa
from pipa.mmseg.evaluation.pseudo_labels import PseudoLabelMetric
from pipa.mmseg.run.python_config import hooks as pipa_hooks
from pipa.mmseg.run.study_length import set_iterations, val_interval
from pipa.mmseg.run.train import hush, load_with


def configure(run: Mapping[str, Any], folder: Path, data_root: str | None = None) -> Config:
    """The config of a run.

    Args:
        run: ``config``, ``adapt``, ``settings``, ``iterations`` and ``seed`` (:class:`pipa.study.definition.Run`).
        folder: of the run.
        data_root: folder of the data sets, for the config's variable of that name; as the config has it if None.

    Raises:
        ValueError: no such config, one whose length is no number of iterations, or a setting that it does not have or
            that nothing follows from.
    """
    hush()
    settings = list(run["settings"].items())
    if data_root is not None:
        settings.insert(0, ("data_root", data_root))
    try:
        config = load_with(run["config"], settings, str(folder))
    except ValueError as error:  # written for the command line, whose options these are here
        raise ValueError(f"{run['config']}: {error}".replace("--cfg-options ", "setting ")) from error
    save_by_iterations(config, run["config"])
    if config.train_cfg.get("dynamic_intervals"):  # mmengine takes tuples only, and YAML has none
        config.train_cfg.dynamic_intervals = [tuple(pair) for pair in config.train_cfg.dynamic_intervals]
    watch_pseudo_labels(config)  # while the hook that has the threshold is still there
    hooks = list(config.get("custom_hooks") or [])
    if not run["adapt"]:
        hooks = [hook for hook in hooks if not is_pipa(hook)]
    config.custom_hooks = [*hooks, {"type": RepeatableHook.__name__}]
    if run["iterations"] is not None:
        set_iterations(config, run["iterations"], run["config"])
    config.randomness = {**(config.get("randomness") or {}), "seed": run["seed"]}
    config.visualizer = {"type": "SegLocalVisualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    config.log_level = "ERROR"
    return config


def digest(config: Config) -> str:
    """SHA-256 of what a config says, but for the seed and the place of the run."""
    content = {key: value for key, value in config.to_dict().items() if key != "work_dir"}
    content["randomness"] = {key: value for key, value in content["randomness"].items() if key != "seed"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


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
        interval = val_interval(loop)
    hooks["checkpoint"] = {"type": SafeCheckpointHook.__name__, "interval": interval, "max_keep_ckpts": 1}
    config.default_hooks = hooks


def watch_pseudo_labels(config: Config) -> None:
    """Each evaluation also says what the pseudo-labels are worth, at the threshold that the config trains with.

    Source-only training is measured at it too, where the config has a PipaHook: else the two would not compare.
    """
    given = [config.get("pipa") or {}, *pipa_hooks(config)]
    threshold = next((place["threshold"] for place in reversed(given) if "threshold" in place), None)
    metrics = config.val_evaluator if isinstance(config.val_evaluator, (list, tuple)) else [config.val_evaluator]
    config.val_evaluator = [*metrics, {"type": PseudoLabelMetric.__name__, "threshold": threshold}]


def threshold_of(config: Config) -> float:
    """The threshold at which a configured run counts its pseudo-labels."""
    return PseudoLabelMetric(threshold=config.val_evaluator[-1]["threshold"]).threshold
