"""`PipaHook` turns a supervised mmsegmentation config into a PiPa training.

    custom_imports = dict(imports=["pipa.mmseg"])
    custom_hooks = [dict(type="PipaHook", target_dataloader=dict(...))]

Life cycle (mmengine's order): before_run adds the projection heads, so that the optimiser knows them; init_weights;
load or resume, where the hook keeps what its own part of the checkpoint holds; before_train makes teacher and ImageNet
model and takes over ``train_step``; every checkpoint carries all that an exact resume needs.
"""

from __future__ import annotations

import copy
import itertools
import logging
from functools import partial
from types import MethodType
from typing import Any, Unpack

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from pipa.environment import Finding
from pipa.group import Group
from pipa.mmseg.checkpoints.description import describe_in
from pipa.mmseg.checkpoints.resume import need_state
from pipa.mmseg.datasets.check import check_pairing
from pipa.mmseg.datasets.soft_labels import check_soft_labels
from pipa.mmseg.engine.iteration import Iteration
from pipa.mmseg.engine.launcher import TIMEOUT
from pipa.mmseg.engine.network_options import Tuning
from pipa.mmseg.engine.nonfinite_guard import NonFiniteGuard
from pipa.mmseg.engine.pipa_state import HEADS, collect, restore
from pipa.mmseg.engine.start_checks import (
    NAME,
    check_built,
    check_config,
    check_others,
    hook_places,
    refuse,
)
from pipa.mmseg.engine.target_loader import build_target_loader, check_loaders
from pipa.mmseg.evaluation.teacher import evaluate
from pipa.mmseg.mmengine_compat import InfiniteIterator, accumulative_counts, is_resuming, is_training, start_file
from pipa.mmseg.models.segmentors.embedding import build_heads, embedding
from pipa.mmseg.models.segmentors.head_map import HEAD, check_head_map
from pipa.mmseg.models.segmentors.step_adapter import core_model, main_head
from pipa.mmseg.models.sliding import TorchDraws
from pipa.settings import HOOK_DEFAULTS, HookSettings, default_settings, native_step
from pipa.step import PipaStep
from pipa.step_networks import frozen_copy, wanted_heads


@HOOKS.register_module()
class PipaHook(Hook):
    """Domain adaptation for any dense mmsegmentation model.

    Heads with other losses than the plain cross entropy of one map (samplers, class weights, Dice, ...) train with them
    on source images; pseudo-labels are compared with the main map.

    Args:
        target_dataloader: config of the loader of unlabelled target images (its labels are never read); the config's
            top-level ``target_dataloader`` when not given.
        pixel_dim, patch_dim, projection_hidden, projection_layers: of the projection heads, see :class:`pipa.PipaStep`.
            ``projection_layers="head"``: they read the map that the decode head classifies.
        evaluate_teacher: evaluate the teacher after the student at each validation; its metrics are logged and saved
            under ``teacher/``, so ``save_best="teacher/mIoU"`` keeps the best teacher.
        initial_labels: folder of stored soft labels of the target (``pipa soft-labels``), in place of a frozen copy of
            the network that the training starts from.
        joined: with several processes, every term and draw is that of the joined batch, as if one process had it all.
            False: each process is a small training of its own whose gradients are averaged, which exchanges less.
        gradient_interval: log the gradient norms of each loss term, of student and encoder, every that many iterations;
            0: never.
        check_interval: on accelerators, look for NaN and infinite losses every that many iterations (each look costs a
            synchronisation), and for gradients when no gradient scaler does. On the CPU every iteration is checked.
        nonfinite: what a NaN or infinite loss or gradient does: "stop" the training, or "skip" the iteration on all
            processes. The batch is kept in ``work_dir/nonfinite_iter_N.pt``.
        nonfinite_limit: with "skip", so many iterations in a row stop the training.
        num_classes: number of classes; taken from the decode head when not given.
        compile, activation_checkpointing, channels_last: see :class:`pipa.mmseg.engine.network_options.Tuning`.
        **settings: settings of the iteration, see :class:`pipa.settings.StepSettings`. Mean and standard deviation of
            the images come from the model's data preprocessor.

    A top-level ``pipa = dict(...)`` of the config gives arguments and settings too, so that several base files can
    contribute and one option of the command line (``pipa.pixel_weight=0.2``) changes one of them. What the hook itself
    is given wins.

    Raises:
        ValueError: no target loader, gradient accumulation, an unknown setting, a model or loss the iteration cannot
            honour, or source and target batches of different size.

    >>> from mmseg.registry import HOOKS
    >>> import pipa.mmseg
    >>> images = dict(type="FolderDataset", data_root="data/mine", classes="classes.json", unlabelled=True, pipeline=[])
    >>> target = dict(batch_size=2, num_workers=2, sampler=dict(type="DrawSampler", stream=1), dataset=images)
    >>> hook = HOOKS.build(dict(type="PipaHook", target_dataloader=target, pixel_weight=0.1))  # in custom_hooks
    >>> HOOKS.build(dict(type="PipaHook", target_dataloader=target, nonfinite="go on"))
    Traceback (most recent call last):
    ValueError: nonfinite: expected 'stop' or 'skip', got 'go on'
    """

    # Before every hook that reads metrics, logs or saves.
    priority = "HIGHEST"

    def __init__(
        self,
        target_dataloader: dict[str, Any] | None = None,
        **arguments: Unpack[HookSettings],
    ) -> None:
        self.target_cfg = target_dataloader
        self._arguments: dict[str, Any] = {**arguments}
        self._configure(self._arguments)
        self.pipa: PipaStep | None = None
        self._banks: list[Any] | None = None
        self._saved: dict[str, Any] | None = None
        self._imagenet: nn.Module | None = None
        self._heads: nn.ModuleDict | None = None
        self._group: Group | None = None
        self.iteration: Iteration | None = None

    def _configure(self, arguments: dict[str, Any]) -> None:
        """Split arguments into the hook's own and the settings of the iteration; an unknown name is an error."""
        own = {**HOOK_DEFAULTS, **{key: value for key, value in arguments.items() if key in HOOK_DEFAULTS}}
        self.dims = {key: own[key] for key in ("pixel_dim", "patch_dim", "projection_hidden", "projection_layers")}
        self.evaluate_teacher = own["evaluate_teacher"]
        self.joined = own["joined"]
        self.prototype_batches, self.initial_labels = own["prototype_batches"], own["initial_labels"]
        self.gradient_interval, self.check_interval = own["gradient_interval"], own["check_interval"]
        self.guard = NonFiniteGuard(own["nonfinite"], own["nonfinite_limit"])
        self.num_classes = own["num_classes"]
        self.tuning = Tuning(own["compile"], own["activation_checkpointing"], own["channels_last"])
        self.options = {key: value for key, value in arguments.items() if key not in HOOK_DEFAULTS}

    def use(self, config: Any) -> None:
        """Take what the hook was not given from the config's top level."""
        self._configure({**config.get("pipa", {}), **self._arguments})
        if self.target_cfg is None:
            self.target_cfg = config.get("target_dataloader")

    # -- before training ---------------------------------------------------------------------------------------------

    def before_run(self, runner: Runner) -> None:
        if not is_training(runner):
            return  # validation or test: nothing of the training is needed
        core = core_model(runner)
        counts = accumulative_counts(runner.optim_wrapper)
        if counts != 1:
            raise ValueError(
                "PipaHook: optim_wrapper.accumulative_counts must be 1 (one iteration has several backward passes), "
                f"got {counts}; use a larger batch or more processes instead"
            )
        self.use(runner.cfg)
        found = self.findings(runner, core)
        refuse(found)  # what is left are warnings
        for finding in [*found, *check_pairing(runner.cfg.to_dict())]:
            runner.logger.warning(f"{finding.where}: {finding.found}; {finding.fix}")
        self.tuning.check(runner)
        self.check_head_maps(core)
        native = {**default_settings(), **self.settings(core)}
        native_step(self.settings(core), 0)
        wants = wanted_heads(native)
        terms = {name: name in wants for name in ("pixel", "patch")}
        if any(terms.values()):
            self._heads = build_heads(core, terms, self.dims)
            core.add_module(HEADS, self._heads)
            # The optimiser was built a moment ago, without the heads: build it again, and the schedules on it.
            runner.optim_wrapper = runner.build_optim_wrapper(copy.deepcopy(runner.cfg.optim_wrapper))
            runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
            if runner.cfg.get("param_scheduler") is not None:
                runner.param_schedulers = runner.build_param_scheduler(copy.deepcopy(runner.cfg.param_scheduler))

    def check_head_maps(self, core: Any) -> None:
        """Refuse "head" where the segmentor does not show the map that its head classifies."""
        given = {**self.dims, **self.options}
        for name in ("projection_layers", "prototype_layer"):
            if given.get(name) == HEAD:
                check_head_map(core, main_head(core), bool(self.tuning.compile), name)

    def findings(self, runner: Runner, core: Any) -> list[Finding]:
        """What is wrong with the config, for a training or for `pipa doctor`."""
        config = dict(runner.cfg)
        if not hook_places(config):  # a hook that was made without a config
            own = dict(type=NAME, target_dataloader=self.target_cfg, **self._arguments)
            config["custom_hooks"] = [*(config.get("custom_hooks") or []), own]
        head = main_head(core)
        found = [*check_config(config), *check_others(config, runner.hooks)]
        return found + list(check_built(runner, core, head, self.num_classes or head.num_classes))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if not is_training(runner):
            return
        # The model still has the weights of init_weights here: those are the ImageNet features.
        self._keep_imagenet(core_model(runner))
        saved = checkpoint.get("pipa")
        if is_resuming(runner):
            need_state(checkpoint, str(start_file(runner)))
            if saved is None:
                raise ValueError("resume: the checkpoint holds no 'pipa' part; it was not saved by a PiPa training")
            self._saved = saved
        if self._heads is not None and saved is not None and "heads" in saved:
            checkpoint["state_dict"].update({f"{HEADS}.{k}": v for k, v in saved["heads"].items()})

    def before_train(self, runner: Runner) -> None:
        core = core_model(runner)
        self._keep_imagenet(core)
        heads = core._modules.pop(HEADS, None)  # the teacher must not copy them
        try:
            self._group = self._processes(runner)
            self.pipa = self._build_step(core, runner.seed, self._group if self.joined else None)
        finally:
            if heads is not None:
                core.add_module(HEADS, heads)
        crops = torch.Generator()
        if self.pipa.group is not None and isinstance(getattr(core, "rng", None), TorchDraws):
            core.rng = TorchDraws(crops)  # HRDA's detail crop is one for the batch
        if self._saved is not None:
            restore(self.pipa, self._imagenet, self._saved, runner.logger)
            self.guard.skipped = self._saved.get("skipped", 0)
            self._saved = None
        self.tuning.apply(
            core,
            self.pipa.teacher,
            self._imagenet,
            optimizer=runner.optim_wrapper.optimizer,
            keep_graph=self.gradient_interval > 0,
        )
        loader = self._target_loader(runner, soft=self.initial_labels is not None)
        check_loaders(runner.train_dataloader, loader, runner.logger)
        if self.initial_labels is not None:
            check_soft_labels(loader.dataset, self.initial_labels, self.pipa.settings["num_classes"])
        self._start_prototypes(runner, core)
        for sampler in (runner.train_dataloader.sampler, loader.sampler):
            if hasattr(sampler, "skip") and hasattr(sampler, "seed"):
                sampler.seed = runner.seed  # the seed of the checkpoint, when this run resumes one
        target = InfiniteIterator(loader)
        target.skip_iter(runner.iter)
        self.iteration = iteration = Iteration(
            self.pipa,
            target,
            self.guard,
            self.tuning,
            crops,
            self._group,
            gradient_interval=self.gradient_interval,
            check_interval=self.check_interval,
        )
        runner.model.train_step = MethodType(
            lambda _model, data, optim_wrapper: iteration.run(runner, core, data, optim_wrapper), runner.model
        )

    def _target_loader(self, runner: Runner, soft: bool = False) -> Any:
        return build_target_loader(self.target_cfg or {}, runner.seed, self.initial_labels if soft else None)

    def _start_prototypes(self, runner: Runner, core: nn.Module) -> None:
        """First values of the prototypes, from a loader of its own: the training's draws stay what they are."""
        assert self.pipa is not None
        used = self.pipa.settings
        prototypes = used["prototype_labels"] or used["structure_weight"] > 0
        if (prototypes or used["distribution_weight"] > 0) and get_world_size() > 1 and not self.joined:
            raise ValueError(
                "PipaHook: prototypes and class distributions are those of the joined batch; with several processes "
                "they need joined=True"
            )
        if not prototypes or self.prototype_batches == 0 or self.pipa.iteration > 0:
            return
        batches = itertools.islice(InfiniteIterator(self._target_loader(runner)), self.prototype_batches)
        prepare: Any = core.data_preprocessor
        self.pipa.start_prototypes(self.tuning.image(prepare(batch, False)["inputs"]) for batch in batches)

    def _processes(self, runner: Runner) -> Group | None:
        if get_world_size() == 1:
            return None
        options = runner.cfg.get("env_cfg", {}).get("dist_cfg", {})
        return Group(timeout=options.get("timeout", TIMEOUT))

    def _keep_imagenet(self, core: nn.Module) -> None:
        native = {**default_settings(), **self.settings(core)}
        if self._imagenet is None and native["feature_distance_weight"] > 0:
            heads = core._modules.pop(HEADS, None)
            self._imagenet = frozen_copy(core)
            if heads is not None:
                core.add_module(HEADS, heads)

    def settings(self, core: nn.Module) -> dict[str, Any]:
        """Settings of the iteration, with those that the model's head and preprocessor say."""
        classes = self.num_classes or main_head(core).num_classes
        settings = {"num_classes": classes, "ignore_index": main_head(core).ignore_index, **self.options}
        pre = core.data_preprocessor
        if getattr(pre, "_enable_normalize", False):
            # Grey or single-valued settings are spread over the three channels.
            for name in ("mean", "std"):
                settings.setdefault(name, getattr(pre, name).flatten().tolist())
        return settings

    def _build_step(self, core: nn.Module, seed: int, group: Group | None) -> PipaStep:
        settings = self.settings(core)

        step = PipaStep(
            core,
            imagenet=self._imagenet,
            adapter=embedding(self.dims)[0],
            heads=self._heads,
            backward=self._backward,
            group=group,
            seed=seed,
            initial=None if self.initial_labels is None else "stored",
            **settings,
        )
        step.tell = partial(print_log, logger="current", level=logging.WARNING)
        return step.to(next(core.parameters()).device)

    # -- one iteration -----------------------------------------------------------------------------------------------

    def _backward(self, loss: Tensor) -> None:
        assert self.iteration is not None  # made in before_train
        self.iteration.backward(loss)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if self.iteration is not None and not self.iteration.ran:
            raise ValueError(
                "PipaHook: another hook or wrapper has replaced the model's train_step, so the training is no domain "
                "adaptation; take it out"
            )
        if self.iteration is not None:
            self.iteration.ran = False

    # -- validation and checkpoints ----------------------------------------------------------------------------------

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self.pipa is None or not self.evaluate_teacher or metrics is None:
            return
        for name, value in evaluate(runner, self.pipa.teacher).items():
            metrics[f"teacher/{name}"] = value

    def gather_state(self, runner: Runner) -> None:
        """Before a checkpoint, on all processes: without a joined batch, each one has a memory bank of its own."""
        alone = self.pipa is not None and self.pipa.group is None
        if self.pipa is not None and alone and get_world_size() > 1 and self.pipa._native.bank is not None:
            self._banks = all_gather_object([tensor.cpu() for tensor in self.pipa._native.bank])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if self.pipa is None:
            return
        describe_in(checkpoint, runner)
        own = collect(self.pipa, self._imagenet, checkpoint["state_dict"])
        checkpoint["pipa"] = {**own, "banks": self._banks, "skipped": self.guard.skipped}
        self._banks = None
