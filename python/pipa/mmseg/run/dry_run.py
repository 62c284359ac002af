"""The start of a training, run for `pipa doctor`: the training's own runner, hooks, loaders and first iteration.

Nothing is kept: the work folder is a temporary one, and no checkpoint is written. Errors are collected instead of
ending it, as far as what follows does not need what failed.
"""

from __future__ import annotations

import copy
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from pipa.environment import ERROR, NOTE, WARNING, Finding
from pipa.mmseg.datasets.target_pipeline import as_target
from pipa.mmseg.engine.data_check_hook import data_findings
from pipa.mmseg.engine.pipa_hook import PipaHook
from pipa.mmseg.engine.start_checks import (
    StartError,
    check_config,
    check_evaluated,
    check_others,
    class_names,
    classes_of,
    hook_places,
    need_labels,
    pipa_hooks,
    same_classes,
    sound,
)
from pipa.mmseg.engine.valid_mask import valid_mask
from pipa.mmseg.mmengine_compat import build_runner
from pipa.mmseg.models.segmentors.embedding import embedding
from pipa.mmseg.models.segmentors.step_adapter import main_head
from pipa.settings import HOOK_DEFAULTS, default_settings
from pipa.step import PipaStep
from pipa.step_checks import check_call

UNSEEN = "not looked at"


class _Enough(Exception):
    """The dry run has seen what it was to see."""


def dry_run(config: Mapping[str, Any], iteration: bool = True) -> list[Finding]:
    """Findings of a training's start; the last ones say what was not looked at.

    Args:
        config: a whole config. iteration: also run one iteration, with every term on its way (no warm-up).
    """
    findings = [*check_config(config), *check_others(config)]
    absent = [key for key in ("model", "train_dataloader", "train_cfg", "optim_wrapper") if not config.get(key)]
    if absent:
        text = f"the model, its loss and one iteration: the config has no {', '.join(absent)}"
        return [*findings, Finding(NOTE, UNSEEN, text)]
    first = _First(findings)
    last = _Last(findings, iteration)
    with tempfile.TemporaryDirectory(prefix="pipa-doctor-") as folder, _quiet():
        try:
            runner = build_runner(_prepared(config, folder))
            runner.hooks.insert(0, first)
            runner.hooks.append(last)
            runner.train()
        except _Enough:
            pass
        except StartError as error:
            findings += error.findings
        except Exception as error:  # anything a training may raise
            findings.append(_found(error, config))
    seen = list(dict.fromkeys(findings))
    return seen + list(_unseen(config, first, last, iteration, any(f.level == ERROR for f in seen)))


class _First(Hook):
    """Before all other hooks: a batch of each loader, and what can be known of the iteration without running it."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        self.batches: dict[str, Any] = {}
        self.step_checked = False

    def before_run(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        hook = next((h for h in runner.hooks if isinstance(h, PipaHook)), None)
        if hook is None:  # PipaHook looks at the data itself
            self.findings += data_findings(runner)
        loaders = {"train_dataloader": runner.train_loop.dataloader}
        if hook is not None:
            own = hook.target_cfg is not None
            target = hook.target_cfg or runner.cfg.get("target_dataloader")
            if target is not None:
                with self._finding("target_dataloader", runner.cfg):
                    place = f"{hook_places(runner.cfg)[0]}." if own else ""
                    loader = Runner.build_dataloader(copy.deepcopy(target), seed=runner.seed)
                    as_target(loader.dataset)
                    loaders[f"{place}target_dataloader"] = loader
        if runner.val_loop is not None:
            loaders["val_dataloader"] = runner.val_loop.dataloader
        if runner.cfg.get("test_dataloader"):
            with self._finding("test_dataloader", runner.cfg):
                loaders["test_dataloader"] = Runner.build_dataloader(copy.deepcopy(runner.cfg.test_dataloader))
                self._compare_test(runner, loaders["test_dataloader"].dataset, model)
        for place, loader in loaders.items():
            with self._finding(place, runner.cfg):
                training = "train" in place or "target" in place
                batch = model.data_preprocessor(next(iter(loader)), training)
                self.batches[place.rpartition(".")[2]] = batch
                if place == "train_dataloader":
                    need_labels(batch["data_samples"])
                elif "target" in place:
                    mask = valid_mask(batch["data_samples"])
                    if mask is not None and not mask.any():
                        text = "no pixel of the first batch may have a pseudo-label: padding and margins cover all"
                        self.findings.append(Finding(WARNING, place, text, "make the margins or the padding smaller"))
        if hook is not None and {"train_dataloader", "target_dataloader"} <= set(self.batches):
            with self._finding(hook_places(runner.cfg)[0], runner.cfg):
                hook.use(runner.cfg)
                adapter, dims = embedding(hook.dims)
                hook.check_head_maps(model)
                step = PipaStep(model, adapter=adapter, seed=0, **sound(hook.settings(model)), **dims)
                images = [self.batches[name]["inputs"] for name in ("train_dataloader", "target_dataloader")]
                self.step_checked = True
                check_call(step, images[0], images[1], True)

    def _compare_test(self, runner: Runner, data: Any, model: Any) -> None:
        """What `pipa test` would refuse of the test data."""
        head = main_head(model) if hasattr(model, "decode_head") else None
        evaluator = runner.build_evaluator(copy.deepcopy(runner.cfg.get("test_evaluator") or []))
        evaluator.dataset_meta = data.metainfo
        self.findings += check_evaluated("test", data, evaluator, classes_of(head))
        trained = class_names(runner.train_loop.dataloader.dataset)
        if len(trained) == len(class_names(data)):  # another number is told already
            self.findings += same_classes("test", data, trained, "train_dataloader")

    @contextmanager
    def _finding(self, place: str, config: Any) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            found = _found(error, config)
            where = found.where if found.where != "training" else place
            self.findings.append(Finding(ERROR, where, found.found, found.fix))


class _Last(Hook):
    """After all other hooks: ends the run before the first iteration, or after it."""

    def __init__(self, findings: list[Finding], iteration: bool) -> None:
        self.findings = findings
        self.iteration = iteration
        self.ran = False

    def before_run(self, runner: Runner) -> None:
        if not self.iteration or any(f.level == ERROR for f in self.findings):
            raise _Enough

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self.ran = True
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # What a save asks of the hooks, without the file.
        state, hub = dict(model.state_dict()), copy.deepcopy(runner.message_hub.state_dict())
        meta = dict(iter=runner.iter + 1, epoch=runner.epoch, cfg=runner.cfg.pretty_text, seed=runner.seed)
        checkpoint = {"meta": meta, "message_hub": hub, "state_dict": state, "optimizer": {}, "param_schedulers": []}
        runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        losses = {k: float(v.detach()) for k, v in (outputs or {}).items() if k[:4] == "loss" and torch.is_tensor(v)}
        shown = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        self.findings.append(Finding(NOTE, "training", f"one iteration ran: {shown}"))
        raise _Enough


def _prepared(config: Mapping[str, Any], folder: str) -> Config:
    """The config of a run that leaves nothing behind: own folder, no workers, no resume, no warm-up."""
    cfg = Config(copy.deepcopy(dict(config)))
    cfg.work_dir, cfg.resume, cfg.launcher, cfg.log_level = folder, False, "none", "ERROR"
    cfg.visualizer = None
    cfg.experiment_name = Path(folder).name
    if cfg.get("load_from") and not Path(str(cfg.load_from)).is_file():
        cfg.load_from = None
    for loader in _loaders(cfg):
        loader.num_workers = 0
        for key in ("persistent_workers", "prefetch_factor", "timeout"):
            loader.pop(key, None)
    saving = (cfg.get("default_hooks") or {}).get("checkpoint")
    if saving is not None:
        saving.update(interval=-1, save_last=False)
    for hook in pipa_hooks(cfg).values():
        hook.patch_warmup = 0
    return cfg


def _loaders(cfg: Any) -> Iterator[Any]:
    hooks = [hook for hook in cfg.get("custom_hooks") or [] if isinstance(hook, dict)]
    for holder in (cfg, *hooks):
        for key in ("train_dataloader", "target_dataloader", "val_dataloader", "test_dataloader"):
            if holder.get(key):
                yield holder[key]


def _found(error: Exception, config: Mapping[str, Any]) -> Finding:
    """An exception as a finding; the place is that of a setting it names, where it names one."""
    text = str(error).strip() or type(error).__name__
    text = text.splitlines()[0] if isinstance(error, ValueError) else f"{type(error).__name__}: {text.splitlines()[0]}"
    return Finding(ERROR, _place(text, config), text, "correct it, then run the check again")


def _place(text: str, config: Mapping[str, Any]) -> str:
    """The setting that a message begins with or that the config gives; else the training as a whole."""
    words = [word for word in re.findall(r"\w+", text) if word in default_settings() or word in HOOK_DEFAULTS]
    if not words or not re.match(rf"(patch sampler: )?{words[0]}\b", text):
        return "training"
    place = next(iter(hook_places(config)), "custom_hooks[0]")
    for where, given in ((place, _hook(config)), ("pipa", config.get("pipa") or {})):
        named = next((word for word in words if word in given), None)
        if named is not None:
            return f"{where}.{named}"
    return f"{place}.{words[0]}"


def _hook(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(pipa_hooks(config).values()), {})


def _unseen(config: Mapping[str, Any], first: _First, last: _Last, iteration: bool, failed: bool) -> Iterator[Finding]:
    """What nobody looked at, so that a good report is not taken for more than it is."""
    if not last.ran:
        why = "because of the errors above" if failed else "the start ended before it"
        yield Finding(NOTE, UNSEEN, f"one iteration ({why if iteration else '--no-iteration'})")
    if hook_places(config) and not first.step_checked:
        yield Finding(NOTE, UNSEEN, "sizes of patches and counts of pixels (they need a batch of both domains)")
    if config.get("load_from") and not Path(str(config["load_from"])).is_file():
        yield Finding(NOTE, UNSEEN, f"the weights of load_from ({config['load_from']})")
    yield Finding(NOTE, UNSEEN, "loader workers, several processes, memory of later iterations, a whole validation")


@contextmanager
def _quiet() -> Iterator[None]:
    """Log lines of the dry run do not reach the screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
