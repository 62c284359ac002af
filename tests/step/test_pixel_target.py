"""The pixel contrast on mixed images (`pixel_target`), against the loss of the same name on what the step mixed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pipa import PixelContrastLoss
from small_nets import OFF, SmallNet, small_batch, small_step

PLAIN: dict[str, Any] = {"classes": [[0, 1], [2, 3]]}


class ConvNet(SmallNet):
    """Without batch statistics: a copy gives the same maps again."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()


@pytest.mark.parametrize("label_weight", ["share", "confident"])
def test_mixed_pixels_count_where_their_label_does(label_weight: str) -> None:
    on = {"mix_weight": 1.0, "pixel_weight": 0.5, "pixel_target": True, "pixel_sampling": "all"}
    student, step = small_step(ConvNet(), **{**OFF, **on, "label_weight": label_weight, "threshold": 0.3})
    before, head = copy.deepcopy(student), copy.deepcopy(step.heads["pixel_head"])
    log = step(*small_batch(), draws=PLAIN)
    last = step.last
    label = last["mixed_label"].masked_fill(last["mixed_weight"] == 0, 255)
    unsure = (last["mixed_weight"] == 0).float().mean()
    assert (0 < unsure < 1) == (label_weight == "confident")
    embedding = head(before(last["mixed_image"])[1])
    expected = 0.5 * PixelContrastLoss(sampling="all")(embedding, label)
    torch.testing.assert_close(log["loss_pixel_mix"], expected.detach(), rtol=1e-5, atol=1e-6)
    parts = sum(value for name, value in log.items() if name.startswith("loss_"))
    torch.testing.assert_close(log["loss"], parts)


def test_it_reaches_the_encoder_and_leaves_the_rest_alone() -> None:
    grads, logs = [], []
    for on in (False, True):
        torch.manual_seed(3)  # of the student's weights
        student, step = small_step(ConvNet(), **{**OFF, "mix_weight": 1.0, "pixel_weight": 0.5, "pixel_target": on})
        logs.append(step(*small_batch(), draws=PLAIN))
        grads.append(student.backbone[0].weight.grad.clone())
    assert "loss_pixel_mix" not in logs[0]
    for name in ("loss_source", "loss_pixel", "loss_mix"):
        torch.testing.assert_close(logs[0][name], logs[1][name], rtol=0, atol=0)
    assert not torch.equal(*grads)


def test_a_batch_without_a_sure_pixel_gives_the_mixed_source_pixels_alone() -> None:
    """Pasted source pixels keep their label and weight 1 even where no pseudo-label counts."""
    on = {"mix_weight": 1.0, "pixel_weight": 1.0, "pixel_target": True, "label_weight": "confident", "threshold": 1.0}
    _, step = small_step(ConvNet(), **{**OFF, **on, "pixel_sampling": "all"})
    log = step(*small_batch(), draws=PLAIN)
    pasted = step.last["mix_mask"].reshape(step.last["mixed_label"].shape).bool()
    assert torch.equal(step.last["mixed_weight"] > 0, pasted)
    assert 0 < log["loss_pixel_mix"] < float("inf")
