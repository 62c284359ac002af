"""Whether a run of a study can be trained and scored, said before anything is trained."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

from pipa.mmseg.evaluation.metrics import DomainIoUMetric
from pipa.mmseg.run.study_config import configure
from pipa.mmseg.run.study_length import evaluations as count_evaluations


def check_run(run: Mapping[str, Any], test: bool, evaluations: int, data_root: str | None = None) -> None:
    """Refuse a run that would fail, or have no score, after hours.

    Args:
        run, data_root: as for :func:`pipa.mmseg.run.study_config.configure`.
        test: the study looks at the test data at the end.
        evaluations: the score is the mean of the last so many.

    Raises:
        ValueError: names the method, its config, what was expected and what came.
    """
    place = f"{run['method']}: {run['config']}"
    try:
        config = configure(run, Path("work_dirs"), data_root)
    except ValueError as error:
        raise ValueError(f"{run['method']}: {error}") from error
    check_loop(config, place)
    check_metric(config, place)
    if test and config.get("test_dataloader") is None:
        raise ValueError(f"{place}: expected a test_dataloader, as the study says test: true, got none")
    if test and not any(issubclass(kind, IoUMetric) for kind, _ in metrics_of(config.get("test_evaluator"))):
        raise ValueError(f"{place}: test_evaluator: expected a DomainIoUMetric, as the study says test: true, got none")
    there = count_evaluations(config)
    if there < evaluations:
        raise ValueError(
            f"{place}: the score is the mean of the last {evaluations} evaluations, but the training has {there}; set "
            "train_cfg.val_interval in the study's settings"
        )
    for hook in config.custom_hooks:
        if "EarlyStopping" in str(hook.get("type")):
            raise ValueError(f"{place}: custom_hooks: expected trainings of one length, got {hook.get('type')}")


def check_loop(config: Config, place: str) -> None:
    """Settings of the loop, which check themselves when it is built, are known here already."""
    kind = config.train_cfg.get("type", IterBasedTrainLoop)
    kind = LOOPS.get(kind) if isinstance(kind, str) else kind
    known = inspect.signature(kind).parameters if isinstance(kind, type) else {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for key in config.train_cfg:
        if known and key not in (*known, "type"):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{place}: train_cfg: unknown setting {key!r}{hint}")


def check_metric(config: Config, place: str) -> None:
    """Scores are made of the scalars ``mIoU`` and ``IoU.CLASS``."""
    found = metrics_of(config.val_evaluator)
    if any(issubclass(kind, DomainIoUMetric) and metric.get("prefix") is None for kind, metric in found):
        return
    names = ", ".join(kind.__name__ for kind, _ in found[:-1])  # the last one is the study's own
    raise ValueError(
        f"{place}: val_evaluator: expected a DomainIoUMetric without prefix, whose mIoU and IoU.CLASS make the score, "
        f"got {names or 'none'}"
    )


def metrics_of(evaluator: Any) -> list[tuple[type, Mapping[str, Any]]]:
    """Classes and configs of an evaluator's metrics."""
    given = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator] if evaluator else []
    kinds = [(METRICS.get(m["type"]) if isinstance(m.get("type"), str) else m.get("type"), m) for m in given]
    return [(kind, metric) for kind, metric in kinds if isinstance(kind, type)]
