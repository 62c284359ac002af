"""The length of a study's trainings: shortened or lengthened with all that counts iterations, and their evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from pipa.mmseg.engine.start_checks import is_pipa
from pipa.settings import default_settings

# mmengine's IterBasedTrainLoop evaluates so often, and from so early on, where the config does not say.
VAL_INTERVAL, VAL_BEGIN = 1000, 1
# What schedules count in iterations, beside begin and end.
COUNTED = ("milestones", "periods", "step_size", "T_max")
# Schedules whose shape is given by begin, end and these; the others have rates per iteration, or wait for a metric.
SCALABLE = ("Constant", "Linear", "Poly", "MultiStep", "Step", "CosineAnnealing", "CosineRestart")


def val_interval(loop: Mapping[str, Any]) -> int:
    return int(loop.get("val_interval", VAL_INTERVAL))


def set_iterations(config: Config, iterations: int, name: str) -> None:
    """Shorten or lengthen a training; evaluations, checkpoints, schedules and the warm-up of the patch term scale.

    Raises:
        ValueError: a schedule whose shape is no matter of iterations alone.
    """
    loop = config.train_cfg
    scale = iterations / loop.max_iters

    def scaled(value: int) -> int:
        return max(1, round(value * scale))

    loop.max_iters = iterations
    loop.val_interval = scaled(val_interval(loop))
    if "val_begin" in loop:
        loop.val_begin = scaled(loop.val_begin)
    if loop.get("dynamic_intervals"):
        loop.dynamic_intervals = [(scaled(begin), scaled(step)) for begin, step in loop.dynamic_intervals]
    config.default_hooks.checkpoint.interval = scaled(config.default_hooks.checkpoint.interval)
    given = config.get("param_scheduler") or []
    for schedule in given if isinstance(given, (list, tuple)) else [given]:
        kind = schedule.get("type")
        kind = kind if isinstance(kind, str) else kind.__name__
        if not kind.startswith(SCALABLE) or schedule.get("by_epoch", True):
            raise ValueError(
                f"{name}: iterations: expected schedules by iterations (by_epoch=False) of {', '.join(SCALABLE)}, "
                f"which scale with the length, got {kind} with by_epoch={schedule.get('by_epoch', True)}"
            )
        schedule.begin = round(schedule.get("begin", 0) * scale)
        if "end" in schedule:
            schedule.end = scaled(schedule.end)
        for key in COUNTED:
            if isinstance(schedule.get(key), int):
                schedule[key] = scaled(schedule[key])
            elif schedule.get(key) is not None:
                schedule[key] = [scaled(value) for value in schedule[key]]
    shared = config.get("pipa") or {}
    own = list(filter(is_pipa, config.custom_hooks))
    if "patch_warmup" not in shared:
        for hook in own:
            hook.setdefault("patch_warmup", default_settings()["patch_warmup"])
    for place in (shared, *own):
        if "patch_warmup" in place:
            place["patch_warmup"] = round(place["patch_warmup"] * scale)


def evaluations(config: Config) -> int:
    """How often a training is evaluated: at multiples of the interval from ``val_begin`` on, and at its end."""
    loop = config.train_cfg
    steps = [(0, val_interval(loop)), *sorted(loop.get("dynamic_intervals") or [])]
    last = loop.max_iters
    count = 0
    for iteration in range(loop.get("val_begin", VAL_BEGIN), last + 1):
        interval = [step for begin, step in steps if begin <= iteration][-1]
        count += iteration % interval == 0 or iteration == last
    return count
