"""Areas of each class by group of images (a drive, a city), from which any mean over groups can be made later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmseg.evaluation import IoUMetric

from pipa.mmseg.evaluation.teacher import processed


def group_of(path: str | Path) -> str:
    """The part of a file's name before its first underscore: drive, sequence or city in the usual data sets.

    A name without one is of its folder's group: each image a drive of its own would promise too much.

    >>> group_of("val/0016E5_07961.png"), group_of("val/seq3/000120.png")
    ('0016E5', 'seq3')
    """
    first, sign, _ = Path(path).stem.partition("_")
    return first if sign else Path(path).parent.name


def areas_by_group(model: Any, loop: Any) -> dict[str, dict[str, list[int]]]:
    """``intersect`` and ``union`` in pixels of each class, by :func:`group_of`, on the data of a loop.

    Raises:
        ValueError: the loop's evaluator has no IoUMetric.
    """
    metric = next((metric for metric in loop.evaluator.metrics if isinstance(metric, IoUMetric)), None)
    if metric is None:
        raise ValueError("test: the evaluator needs an IoUMetric (DomainIoUMetric) for the areas of each drive")
    groups: dict[str, torch.Tensor] = {}
    for outputs in processed(model, loop):
        for sample, areas in zip(outputs, metric.results, strict=True):
            own = torch.stack([area.double() for area in areas[:2]])
            name = group_of(sample.img_path)
            groups[name] = groups[name] + own if name in groups else own
        for one in loop.evaluator.metrics:
            one.results.clear()
    return {
        name: {"intersect": total[0].long().tolist(), "union": total[1].long().tolist()}
        for name, total in sorted(groups.items())
    }
