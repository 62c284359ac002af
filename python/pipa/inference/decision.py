"""From logits to labels: resizing to the picture, choosing the class, and its probability, a few classes at a time.

Shape suffixes: B batch, C classes, H W size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

# Values that are resized at a time: large pictures are decided class by class, small ones at once.
_VALUES = 1 << 24


class NotFiniteError(ValueError):
    """A network gave NaN or infinity."""


def decide(
    logits_chw: Tensor, size: Sequence[int], align_corners: bool = False, threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """Label ``(H, W)`` of the resized logits and the softmax probability of that label, float32 in [0, 1].

    As mmsegmentation decides: bilinear resizing, then the largest logit; with one channel, class 1 where its sigmoid
    lies above ``threshold``. No more than a few classes are held at the picture's size.

    Args:
        logits_chw: float ``(C, h, w)``.
        size: ``(H, W)`` of the picture.
        threshold: for one channel only; 0.5 where None.

    Returns:
        label uint8 (int32 above 256 classes) and confidence, on the device of the logits.

    Raises:
        NotFiniteError: NaN or infinite logits.

    >>> decide(torch.tensor([[[0.0]], [[2.0]]]), (1, 1))
    (tensor([[1]], dtype=torch.uint8), tensor([[0.8808]]))
    """
    classes = logits_chw.shape[0]
    height, width = int(size[0]), int(size[1])
    if classes == 1:
        probability = _resized(logits_chw, (height, width), align_corners)[0].float().sigmoid()
        _check(probability)
        label = probability > (0.5 if threshold is None else threshold)
        return label.to(torch.uint8), torch.where(label, probability, 1 - probability)
    step = max(2, _VALUES // (height * width))
    best: Tensor | None = None
    label = torch.zeros((height, width), dtype=torch.uint8 if classes <= 256 else torch.int32, device=logits_chw.device)
    total = torch.zeros((height, width), device=logits_chw.device)
    for first in range(0, classes, step):
        part = _resized(logits_chw[first : first + step], (height, width), align_corners)
        value, index = part.max(0)
        if best is None:
            best, label = value, index.to(label.dtype)
        else:
            better = value > best
            label[better] = (index[better] + first).to(label.dtype)
            value = torch.maximum(best, value)
            total *= (best - value).float().exp_()
            best = value
        total += (part.float() - best.float()).exp_().sum(0)
    assert best is not None  # there is at least one class
    _check(best)
    return label, total.reciprocal_()


def two_classes(logits: Tensor) -> Tensor:
    """A single logit ``(..., 1, h, w)``, which a sigmoid reads, as two that a softmax reads; others as they are."""
    return torch.cat([torch.zeros_like(logits), logits], -3) if logits.shape[-3] == 1 else logits


def _resized(logits_chw: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if tuple(logits_chw.shape[1:]) == size:
        return logits_chw
    return interpolate(logits_chw[None], size, mode="bilinear", align_corners=align_corners)[0]


def _check(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise NotFiniteError("the network's logits are not finite (NaN or infinity)")
