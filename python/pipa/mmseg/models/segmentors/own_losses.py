"""Losses of mmsegmentation's decode heads: which are the plain cross entropy of the step, and the others.

The others (several maps, samplers, class weights, sigmoid, Dice, Lovasz, boundaries, ...) are computed by the head
itself, from what its forward pass returned and the samples of the batch, as mmsegmentation trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures import SegDataSample
from torch import Tensor, nn

# Which of several maps predicts; the first one in all other heads.
MAIN_MAP = {"PIDHead": 1, "IterativeDecodeHead": -1}
# Heads without a map of logits.
POINTS = {"PointHead"}
MASKS = {"Mask2FormerHead", "MaskFormerHead", "SideAdapterCLIPHead"}


class Part(NamedTuple):
    """A head after its forward pass: its name in the log of losses, the head, and what it returned."""

    name: str
    head: Any
    output: Any


def check_head(name: str, head: nn.Module) -> None:
    """Refuse heads that have no map of logits.

    Raises:
        TypeError: heads that refine single points, or classify masks.
    """
    kinds = {kind.__name__ for kind in type(head).__mro__}
    if kinds & POINTS:
        raise TypeError(f"{name}: {type(head).__name__} refines single points; choose a dense decode head")
    if kinds & MASKS:
        raise TypeError(
            f"{name}: {type(head).__name__} classifies masks, which its own matching trains and no cross entropy of "
            "pixels; choose a dense decode head"
        )


def losses_of(head: Any) -> list[Any]:
    """The modules of ``loss_decode``; none where a head keeps them elsewhere."""
    loss = getattr(head, "loss_decode", None)
    return [] if loss is None else list(loss) if isinstance(loss, nn.ModuleList) else [loss]


def is_plain(head: Any) -> bool:
    """Whether the head's loss is the cross entropy over all pixels that the step computes itself."""
    return (
        getattr(type(head), "loss_by_feat", None) is BaseDecodeHead.loss_by_feat
        and getattr(head, "sampler", None) is None
        and bool(losses_of(head))
        and all(_is_plain_loss(loss) for loss in losses_of(head))
    )


def _is_plain_loss(loss: Any) -> bool:
    return (
        type(loss) is CrossEntropyLoss
        and not (loss.use_sigmoid or loss.use_mask or loss.avg_non_ignore)
        and loss.class_weight is None
        and loss.reduction == "mean"
    )


def plain_weight(head: Any) -> float:
    """Factor of the cross entropy of a plain head."""
    return float(sum(loss.loss_weight for loss in losses_of(head)))


def main_weight(head: Any) -> float:
    """Factor of the step's cross entropy on the main map of a head with a loss of its own: that of the head's own cross
    entropy on that map, if it has one, else 1."""
    losses, place = losses_of(head), _main_place(head)
    if getattr(type(head), "loss_by_feat", None) is not BaseDecodeHead.loss_by_feat:
        losses = losses[place : place + 1] if place >= 0 else []
    for loss in losses:
        if "CrossEntropy" in type(loss).__name__:
            return float(loss.loss_weight)
    return 1.0


def main_map(part: Part) -> Tensor:
    """The logits (B, C, h, w) that predict. One map of two classes becomes two, of the same probabilities.

    Raises:
        TypeError: the head returned no such map.
    """
    name, head, output = part
    logits = output[_main_place(head)] if isinstance(output, (list, tuple)) and output else output
    if not isinstance(logits, Tensor) or logits.dim() != 4:
        raise TypeError(
            f"{name}: expected {type(head).__name__} to return logits (B, C, H, W), or several maps of them, got "
            f"{type(output).__name__}"
        )
    if logits.shape[1] == 1 and head.num_classes == 2:
        # softmax(0, z) is sigmoid(z).
        return torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits


def _main_place(head: Any) -> int:
    return next((MAIN_MAP[kind.__name__] for kind in type(head).__mro__ if kind.__name__ in MAIN_MAP), 0)


def own_loss(model: Any, parts: Sequence[Part], samples: Sequence[Any] | None, label_bhw: Tensor) -> Tensor:
    """What mmsegmentation trains ``model`` with: the sum of all losses of all heads, 0-dim, on the graph.

    samples: the batch's ``SegDataSample``, with all that the pipeline made (edges, for example); None: they hold
        ``label_bhw`` alone.

    Raises:
        ValueError: a head needs more than the label.
    """
    losses: dict[str, Tensor] = {}
    for name, head, output in parts:
        losses.update({f"{name}.{key}": value for key, value in head_losses(name, head, output, samples or label_bhw)})
    total, _ = model.parse_losses(losses)
    return total


def head_losses(name: str, head: Any, output: Any, labels: Sequence[Any] | Tensor) -> list[tuple[str, Tensor]]:
    """(name, value) of the losses of one head; ``labels``: samples, or label ids (B, H, W)."""
    if isinstance(labels, Tensor):
        labels = [SegDataSample(gt_sem_seg=PixelData(data=label[None].long())) for label in labels]
    if any(kind.__name__ == "PIDHead" for kind in type(head).__mro__) and "gt_edge_map" not in labels[0]:
        raise ValueError(
            f"{name}: PIDHead is trained with edges; add dict(type='GenerateEdge', edge_width=4) to the pipeline of "
            "the source images, and train it with PipaHook"
        )
    return [(key, value) for key, value in head.loss_by_feat(output, labels).items() if "loss" in key]
