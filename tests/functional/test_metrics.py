"""Metrics of the released evaluation, and its learning rate schedule with the schedulers of mmengine."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pipa import functional as F


def test_recorded_metrics(case):
    data = case("extras/metrics")
    matrix = F.confusion_matrix(data["pred"], data["gt"], 19)
    ours = F.iou_from_confusion(matrix)
    for name in ("aAcc", "IoU", "Acc", "Dice", "Fscore", "Precision", "Recall"):
        torch.testing.assert_close(ours[name], data[name], rtol=1e-6, atol=0)
    torch.testing.assert_close(ours["mIoU"], data["IoU"].mean(), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("error")
def test_arrays_of_any_memory_are_counted():
    """A flipped view, another byte order, one that must not be written to."""
    label = np.random.default_rng(0).integers(0, 3, (7, 9))
    other = np.random.default_rng(1).integers(0, 3, (7, 9))
    frozen = label.astype(np.uint8)
    frozen.flags.writeable = False
    pairs = [(label[::-1, ::-2], other[::-1, ::-2]), (label.astype(">u2"), other.astype(">i4")), (frozen, other)]
    for ours, theirs in pairs:
        counts = np.bincount(ours.reshape(-1).astype(int), minlength=3)
        assert F.class_counts(ours, 3).tolist() == counts.tolist()
        matrix = np.zeros((3, 3), int)
        np.add.at(matrix, (theirs.astype(int), ours.astype(int)), 1)
        assert F.confusion_matrix(ours, theirs, 3).tolist() == matrix.tolist()
    with pytest.raises(TypeError, match="prediction: expected a tensor or array of integers"):
        F.confusion_matrix(np.array(["a"]), np.array([0]), 3)


def test_a_class_that_is_nowhere_is_nan():
    ours = F.iou_from_confusion(F.confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 0]), 3))
    assert ours["IoU"].isnan().tolist() == [False, False, True]
    torch.testing.assert_close(ours["mIoU"], torch.tensor(0.25, dtype=torch.float64))


def test_schedule_of_the_released_configs(golden):
    """Linear warm-up times poly, as LinearLR and PolyLR of the shipped configs give it.

    mmengine reaches the end value one step before `end`, the released scheduler at `end`: hence the + 1.
    """
    pytest.importorskip("mmengine")
    from mmengine.optim.scheduler import LinearLR, PolyLR

    table = json.loads((golden / "extras" / "lr_schedule.json").read_text())
    groups = [dict(params=[torch.nn.Parameter(torch.zeros(1))], lr=lr) for lr in table["base"]]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    warm = LinearLR(
        optimizer, start_factor=table["warmup_ratio"], by_epoch=False, begin=0, end=table["warmup_iters"] + 1
    )
    poly = PolyLR(optimizer, power=table["power"], eta_min=0.0, by_epoch=False, begin=0, end=table["max_iters"] + 1)
    found = {}
    for iteration in range(table["max_iters"]):
        if str(iteration) in table["lr_at_iter"]:
            found[str(iteration)] = [g["lr"] for g in optimizer.param_groups]
        warm.step()
        poly.step()
    for iteration, expected in table["lr_at_iter"].items():
        assert found[iteration] == pytest.approx(expected, rel=1e-6), iteration
