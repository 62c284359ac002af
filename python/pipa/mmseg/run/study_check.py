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
    found = []
    for metric in config.val_evaluator:
        kind = metric.get("type")
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        if isinstance(kind, type) and issubclass(kind, DomainIoUMetric) and metric.get("prefix") is None:
            return
        found.append(str(metric.get("type")))
    raise ValueError(
        f"{place}: val_evaluator: expected a DomainIoUMetric without prefix, whose mIoU and IoU.CLASS make the score, "
        f"got {', '.join(found[:-1]) or 'none'}"
    )
