"""Quality of a network's sure predictions: what its pseudo-labels are worth, measured with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from pipa.mmseg.evaluation.ignored import IgnoresAsData
from pipa.settings import default_settings


@METRICS.register_module()
class PseudoLabelMetric(IgnoresAsData, BaseMetric):
    """How many labelled pixels a network is sure of, and how many of those it is right about.

    For understanding a training on a target whose validation images have labels; nothing of it reaches the training.
    Ids that are no class count nowhere. Beside the mIoU in a config:

        val_evaluator = [dict(type="DomainIoUMetric"), dict(type="PseudoLabelMetric")]

    With ``PipaHook`` the teacher's numbers come under ``teacher/``. Per cent, NaN where there is no such pixel:

    - ``sure``: labelled pixels whose largest softmax reaches the threshold.
    - ``sure_right``: those of the sure ones whose class is right.
    - ``found.NAME``: labelled pixels of a class that are sure and right (the recall of its pseudo-labels).
    - ``right.NAME``: pixels surely taken for a class that are of it (their precision).

    Args:
        threshold: from this probability on a pixel is sure; the default of the step's ``threshold`` if None.
        ignore_index: id of pixels that do not count; None takes the data set's.

    >>> import torch
    >>> import pipa.mmseg
    >>> metric = pipa.mmseg.PseudoLabelMetric(threshold=0.9)
    >>> metric.dataset_meta = dict(classes=("road", "sky"))
    >>> logits = torch.tensor([[[5.0, 5.0, 0.1]], [[0.0, 0.0, 0.0]]])  # road, road, unsure
    >>> sample = dict(seg_logits=dict(data=logits), gt_sem_seg=dict(data=torch.tensor([[0, 1, 1]])))
    >>> metric.process({}, [sample])
    >>> found = metric.evaluate(1)
    >>> round(found["sure"], 1), found["sure_right"], found["found.road"], found["right.road"]
    (66.7, 50.0, 100.0, 50.0)
    """

    def __init__(self, *, threshold: float | None = None, ignore_index: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = default_settings()["threshold"] if threshold is None else threshold
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count the pixels of a batch of predictions that carry ``seg_logits`` (C, H, W) and ``gt_sem_seg``."""
        for sample in data_samples:
            logits_chw = sample["seg_logits"]["data"]
            if logits_chw.shape[0] < 2:
                raise ValueError("PseudoLabelMetric: expected a map of logits for each class, got one map for all")
            label_hw = sample["gt_sem_seg"]["data"].squeeze(0).to(logits_chw.device)
            self.results.append(counts(logits_chw, label_hw, self.threshold, self.ignore_index).cpu())

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        labelled_c, taken_c, right_c = torch.stack(results).sum(0).double()
        metrics = {
            "sure": percent(taken_c.sum(), labelled_c.sum()),
            "sure_right": percent(right_c.sum(), taken_c.sum()),
        }
        for i, name in enumerate(self.dataset_meta["classes"]):
            metrics[f"found.{name}"] = percent(right_c[i], labelled_c[i])
            metrics[f"right.{name}"] = percent(right_c[i], taken_c[i])
        return metrics


def counts(logits_chw: torch.Tensor, label_hw: torch.Tensor, threshold: float, ignore_index: int) -> torch.Tensor:
    """int64 [3, C]: labelled pixels of each class, sure ones taken for it, and sure ones that are of it."""
    classes = logits_chw.shape[0]
    probability_hw, class_hw = logits_chw.float().softmax(0).max(0)
    labelled_hw = (label_hw != ignore_index) & (label_hw >= 0) & (label_hw < classes)
    sure_hw = labelled_hw & (probability_hw >= threshold)
    parts = (label_hw[labelled_hw], class_hw[sure_hw], class_hw[sure_hw & (class_hw == label_hw)])
    return torch.stack([torch.bincount(part.flatten().long(), minlength=classes) for part in parts])


def percent(part: torch.Tensor, whole: torch.Tensor) -> float:
    return float(100 * part / whole)
