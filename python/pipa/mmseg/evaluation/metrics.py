"""mIoU with named subsets of the classes, and the IoU of each class as a scalar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

from pipa.mmseg.evaluation.ignored import IgnoresAsData


@METRICS.register_module()
class DomainIoUMetric(IgnoresAsData, IoUMetric):
    """mmseg's IoUMetric, plus averages over subsets of the classes.

    SYNTHIA -> Cityscapes is published as the mean over the 16 (or 13) classes that SYNTHIA labels:

        val_evaluator = dict(type="DomainIoUMetric", subsets=dict(mIoU16=SYNTHIA_16, mIoU13=SYNTHIA_13))

    The IoU of a class is the same in every average: pixels of classes outside of the subset still count as ground truth
    and as predictions, as in the published evaluations. Areas are summed in float64 (mmseg sums them in float32, which
    is exact up to 16.7 million pixels only).

    Args:
        subsets: name of the metric -> class names (or ids).
        per_class: also return `IoU.NAME` for each class.
        ignore_index: id of pixels that do not count; None takes the data set's.

    >>> import torch
    >>> import pipa.mmseg
    >>> metric = pipa.mmseg.DomainIoUMetric(subsets=dict(mIoU_ground=["road"]))
    >>> metric.dataset_meta = dict(classes=("road", "sky"))
    >>> label, prediction = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]])
    >>> metric.process({}, [dict(pred_sem_seg=dict(data=prediction), gt_sem_seg=dict(data=label))])
    >>> found = metric.evaluate(1)
    >>> float(found["mIoU"]), float(found["mIoU_ground"])
    (50.0, 50.0)
    """

    def __init__(
        self,
        *,
        subsets: Mapping[str, Sequence[str | int]] | None = None,
        per_class: bool = True,
        ignore_index: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ignore_index=ignore_index, **kwargs)
        self.subsets = dict(subsets or {})
        self.per_class = per_class

    def compute_metrics(self, results: list) -> dict[str, float]:
        results = [tuple(area.double() for area in areas) for areas in results]
        metrics = super().compute_metrics(results)
        if self.format_only or not results:
            return metrics
        intersect, union = (torch.stack([areas[i] for areas in results]).sum(0) for i in (0, 1))
        iou = 100 * intersect / union  # NaN where a class neither occurs nor is predicted
        names = list(self.dataset_meta["classes"])
        if self.per_class:
            metrics.update({f"IoU.{name}": round(float(value), 2) for name, value in zip(names, iou, strict=True)})
        for key, members in self.subsets.items():
            unknown = [name for name in members if isinstance(name, str) and name not in names]
            if unknown:
                raise ValueError(f"DomainIoUMetric: subset {key} names {unknown}, which are no classes of {names}")
            ids = [names.index(member) if isinstance(member, str) else member for member in members]
            metrics[key] = round(float(iou[ids].nanmean()), 2)
        return metrics
