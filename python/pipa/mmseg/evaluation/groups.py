"""Areas of each class by group of images (a drive, a city), from which any mean over groups can be made later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.runner.amp import autocast
from mmseg.evaluation import IoUMetric


def group_of(path: str | Path) -> str:
    """The part of a file's name before its first underscore: drive, sequence or city in the usual data sets."""
    return Path(path).stem.split("_", 1)[0]


@torch.no_grad()
def areas_by_group(model: Any, loop: Any) -> dict[str, dict[str, list[int]]]:
    """``intersect`` and ``union`` in pixels of each class, by :func:`group_of`, on the data of a loop.

    Raises:
        ValueError: the loop's evaluator has no IoUMetric.
    """
    metric = next((metric for metric in loop.evaluator.metrics if isinstance(metric, IoUMetric)), None)
    if metric is None:
        raise ValueError("test: the evaluator needs an IoUMetric (DomainIoUMetric) for the areas of each drive")
    groups: dict[str, torch.Tensor] = {}
    training = model.training
    model.eval()
    try:
        for batch in loop.dataloader:
            with autocast(enabled=getattr(loop, "fp16", False)):
                outputs = model.val_step(batch)
            loop.evaluator.process(data_samples=outputs, data_batch=batch)
            for sample, areas in zip(outputs, metric.results, strict=True):
                own = torch.stack([area.double() for area in areas[:2]])
                name = group_of(sample.img_path)
                groups[name] = groups[name] + own if name in groups else own
            for one in loop.evaluator.metrics:
                one.results.clear()
    finally:
        model.train(training)
    return {
        name: {"intersect": total[0].long().tolist(), "union": total[1].long().tolist()}
        for name, total in sorted(groups.items())
    }
