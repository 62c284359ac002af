"""What a resume finds in a checkpoint, held against what the config asks for: honoured, or named.

A checkpoint keeps the config it was saved under as plain values. Schedules and settings of the optimiser follow the
config that resumes (mmengine would take the old ones out of the checkpoint without a word); a change of the network, of
its terms or of how its parameters are grouped is refused; every other difference is named once.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from pipa.files.torch_file import CheckpointError
from pipa.settings import default_settings
from pipa.step_networks import wanted_heads

RECORD = "pipa_config"
# Change the speed, not what is learned.
_FREE_ENDS = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "threads", "ahead", "data_root")
_HONOURED = ("train_cfg", "param_scheduler", "optim_wrapper.optimizer", "optim_wrapper.paramwise_cfg")
# Without these the state in the checkpoint does not fit the training.
_REFUSED = ("model.", "optim_wrapper.optimizer.type")
# Decide into which groups the optimiser's parameters go: its state lies in the checkpoint group by group.
_GROUPING = ("optim_wrapper.paramwise_cfg", "optim_wrapper.constructor")
_ABSENT = "nothing"


def record(config: Mapping[str, Any]) -> str:
    """The config as plain JSON, for a checkpoint."""
    return json.dumps(_jsonable(config), sort_keys=True)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of every single setting of a nested config."""
    nested = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not nested or (isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value)):
        yield place, value
        return
    for key, inner in nested:
        yield from leaves(inner, f"{place}.{key}" if place else str(key))


def differences(saved: str, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(setting, the checkpoint's value, the config's value) of what the two do not share."""
    old, new = dict(leaves(_settled(json.loads(saved)))), dict(leaves(_settled(_jsonable(config))))
    places = [*old, *(place for place in new if place not in old)]
    return [(p, old.get(p, _ABSENT), new.get(p, _ABSENT)) for p in places if old.get(p, _ABSENT) != new.get(p, _ABSENT)]


def _settled(config: Any) -> dict[str, Any]:
    """The parts of a config that a training is made of; variables of its file are none."""
    known = ("model", "train_dataloader", "target_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "pipa")
    kept = {key: config[key] for key in (*known, "randomness", "auto_scale_lr") if config.get(key) is not None}
    hooks = [hook for hook in config.get("custom_hooks") or [] if hook.get("type") != "ProgressHook"]
    kept["custom_hooks"] = {hook.get("type", str(i)): hook for i, hook in enumerate(hooks)}
    return kept


def need_state(checkpoint: Mapping[str, Any], name: str) -> None:
    """Refuse to resume from weights alone."""
    absent = [key for key in ("optimizer", "message_hub", "meta", "state_dict") if key not in checkpoint]
    if absent or "iter" not in checkpoint["meta"]:
        raise CheckpointError(
            f"{name}: holds weights but no training state ({', '.join(absent or ['meta.iter'])}), so nothing can be "
            "resumed from it; leave out --resume to start from these weights, or set load_from=None to go on from the "
            "work folder"
        )


def compare(runner: Runner, checkpoint: Mapping[str, Any], name: str) -> bool:
    """Name what differs between checkpoint and config; whether schedules or optimiser are to follow the config.

    Raises:
        CheckpointError: the file holds no training state, or that of another network, terms or optimiser.
    """
    need_state(checkpoint, name)
    saved = checkpoint["meta"].get(RECORD)
    if saved is None:
        runner.logger.warning(f"resume: {name} does not say which config it was saved under; nothing can be compared")
        return False
    honoured = []
    config = runner.cfg.to_dict()
    heads = _heads(json.loads(saved)) != _heads(_jsonable(config))
    groups = _group_sizes(checkpoint["optimizer"]) != _group_sizes(runner.optim_wrapper.state_dict())
    # Kinds first: what is of another kind differs in the rest too.
    found = sorted(differences(saved, config), key=lambda difference: not difference[0].endswith(".type"))
    for place, old, new in found:
        text = f"{place}: the checkpoint has {old!r}, the config {new!r}"
        grouped = groups and place.startswith(_GROUPING)
        if place.startswith(_REFUSED) or _term(place, old, new, heads) or grouped:
            raise CheckpointError(
                f"{name}: {text}; a training cannot change that on its way: resume with the checkpoint's value, or "
                "start anew with load_from"
            )
    for place, old, new in found:
        text = f"{place}: the checkpoint has {old!r}, the config {new!r}"
        if place.startswith(_HONOURED):
            honoured.append(place)
            runner.logger.warning(f"resume: {text}; the config's is taken")
        elif place == "randomness.seed":
            runner.logger.warning(f"resume: {text}; the checkpoint's is kept")
        elif not place.endswith(_FREE_ENDS):
            runner.logger.warning(f"resume: {text}; from here on the training is not the one that was interrupted")
    return any(not place.startswith("train_cfg") for place in honoured)


def _heads(config: Mapping[str, Any]) -> list[str]:
    """The projection heads that a training has."""
    hook = next((h for h in config.get("custom_hooks") or [] if "PipaHook" in str(h.get("type"))), None)
    return [] if hook is None else wanted_heads({**default_settings(), **(config.get("pipa") or {}), **hook})


def _group_sizes(optimizer: Mapping[str, Any]) -> list[int]:
    return [len(group["params"]) for group in optimizer.get("param_groups") or ()]


def _term(place: str, old: Any, new: Any, heads: bool) -> bool:
    """A term of the loss with parameters or networks of its own that one of the two has and the other has not.

    heads: one has projection heads that the other has not; the distribution contrast shares the pixel contrast's.
    """
    last = place.rsplit(".", 1)[-1]
    if last == "distribution_weight" or place.endswith("PipaHook.type"):
        return heads
    if last not in ("pixel_weight", "patch_weight", "feature_distance_weight", "pixel_dim", "patch_dim"):
        return last in ("projection_hidden", "projection_layers")
    if last.endswith("dim"):
        return True
    usual = default_settings()[last]
    on = [(usual if value == _ABSENT else value) > 0 for value in (old, new)]
    return on[0] != on[1]


def lacking(model: nn.Module, state: Mapping[str, Any], but: tuple[str, ...] = ()) -> tuple[list[str], int]:
    """Learned weights of the model that ``state`` does not have, or has in another shape; and how many it needs.

    but: beginnings of names that need not be there.
    """
    given = {key.removeprefix("module."): value for key, value in state.items()}
    own = model.state_dict()
    learned = [key for key in own if not key.startswith(("data_preprocessor.", *but))]
    return [key for key in learned if getattr(given.get(key), "shape", None) != own[key].shape], len(learned)


def check_fit(model: nn.Module, state: Mapping[str, Any], name: str, logger: Any, whole: bool) -> None:
    """Refuse weights that do not fit the model: mmengine loads what fits and logs the rest.

    Args:
        whole: all of the model must be there (a resume); else some of it (``load_from``), and the rest is named.
    """
    missing, count = lacking(model, state)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if missing and (whole or len(missing) == count):
        raise CheckpointError(
            f"{name}: {len(missing)} of the model's {count} weights are not in it or have another shape (first: "
            f"{missing[0]}; its own first: {next(iter(state), 'none')}); is it for another config, or does it need "
            "`pipa convert checkpoint`?"
        )
    if missing:
        logger.warning(f"{name}: {len(missing)} of {count} weights stay as they were made, first: {missing[0]}")


def own_settings(optimizers: OptimWrapper) -> list[dict[str, Any]]:
    """What the config gives the optimiser, per group of parameters, before a checkpoint replaces it."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizers.optimizer.param_groups]


def follow_config(runner: Runner, settings: list[dict[str, Any]]) -> None:
    """After a resume: settings of the optimiser and all schedules as if the config had been this one from the start.

    Schedules compute each rate from the one before, so they are built anew and stepped to the iteration.
    """
    groups = runner.optim_wrapper.optimizer.param_groups
    for group, own in zip(groups, settings, strict=True):
        group.update(own)
    if runner.cfg.get("param_scheduler") is None:
        return
    for group in groups:
        group["lr"] = group.pop("initial_lr", group["lr"])
        for key in [key for key in group if key.startswith("initial_")]:
            group.pop(key)
    schedulers = runner.build_param_scheduler(copy.deepcopy(runner.cfg.param_scheduler))
    for scheduler in schedulers:
        if scheduler.by_epoch:
            raise CheckpointError("resume: a schedule by epochs cannot change on the way; set by_epoch=False")
    for _ in range(runner.iter):
        for scheduler in schedulers:
            scheduler.step()
    runner.param_schedulers = schedulers
