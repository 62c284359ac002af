"""How good predictions look without a label: entropy and soft neighbourhood density.

Shape suffixes: B batch, C classes, H W size, N pixels, S pixels of the sample, R rows of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipa import _core

# Similarities that are held at a time, and probabilities.
_VALUES = 1 << 22


@torch.no_grad()
def label_free_scores(logits_bchw: Tensor, *, temperature: float = 0.05, max_pixels: int = 16384) -> dict[str, Tensor]:
    """Scores by which checkpoints can be ranked where there are no labels.

    With p_i the softmax at pixel i:

    * ``entropy``: mean over pixels of ``H_i = -sum_k p_ik log p_ik``, in [0, log C]. Lower is surer.
    * ``snd``, soft neighbourhood density (Saito et al., ICCV 2021): with the unit rows ``q_i = p_i / ||p_i||`` of a
      sample of S pixels and ``a_ij = softmax_(j != i)(q_i . q_j / temperature)``, mean over i of
      ``-sum_j a_ij log a_ij``, in [0, log(S - 1)]. Higher is denser: every pixel has many neighbours that are predicted
      alike. Only values of equal S compare.

    Both can be fooled by a network that says one thing everywhere; look at a picture before you trust them.

    Args:
        logits_bchw: [B, C, H, W] floating point, at least two classes and two pixels in all. float16 and bfloat16 are
            computed in float32.
        temperature: of the neighbourhood, positive.
        max_pixels: S, at least 2: all pixels of the batch where there are no more, else so many at even steps through
            the batch, the same at every call. Time grows with its square, memory with S and a block alone.

    Returns:
        ``{"entropy", "snd"}``: scalars on the device of the logits, float32 (float64 for float64 logits), no gradient.

    Raises:
        ShapeError, DTypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from pipa.functional import label_free_scores
        >>> scores = label_free_scores(torch.zeros(1, 4, 8, 8))  # no opinion anywhere: all pixels are neighbours
        >>> {name: round(float(value), 3) for name, value in scores.items()}  # log 4 and log 63
        {'entropy': 1.386, 'snd': 4.143}
    """
    if logits_bchw.dim() != 4 or logits_bchw.shape[1] < 2:
        raise _core.ShapeError(
            f"logits_bchw: expected shape (B, C, H, W) with at least 2 classes, got {tuple(logits_bchw.shape)}"
        )
    if not logits_bchw.is_floating_point():
        raise _core.DTypeError(f"logits_bchw: expected floating point, got {logits_bchw.dtype}")
    pixels = logits_bchw.shape[0] * logits_bchw.shape[2] * logits_bchw.shape[3]
    if pixels < 2:
        raise _core.ShapeError(f"logits_bchw: expected at least 2 pixels, got shape {tuple(logits_bchw.shape)}")
    if max_pixels < 2:
        raise ValueError(f"max_pixels: expected 2 or more, got {max_pixels}")
    probability_nc = probabilities(logits_bchw, spread(pixels, max_pixels, logits_bchw.device))
    return {
        "entropy": (entropy_sum(logits_bchw) / pixels).to(probability_nc.dtype),
        "snd": neighbourhood_density(probability_nc, temperature),
    }


def spread(pixels: int, at_most: int, device: torch.device | None = None) -> Tensor:
    """Positions at even steps through `pixels`: int64, the middle of each of `at_most` equal parts, or all of them."""
    count = min(pixels, at_most)
    return (torch.arange(count, device=device) * 2 + 1) * pixels // (2 * count)


def probabilities(logits_bchw: Tensor, index_s: Tensor) -> Tensor:
    """Softmax rows (S, C) at flat positions of the batch (row-major over B, H, W), float32 or float64."""
    area = logits_bchw.shape[2] * logits_bchw.shape[3]
    rows = logits_bchw.flatten(2)[index_s // area, :, index_s % area]
    return _wide(rows).softmax(1)


def entropy_sum(logits_bchw: Tensor) -> Tensor:
    """Sum over the pixels of the softmax' entropy in nats, float64 scalar, a block of pixels at a time."""
    total = logits_bchw.new_zeros((), dtype=torch.float64)
    flat = logits_bchw.flatten(2)
    step = max(1, _VALUES // logits_bchw.shape[1])
    for image in flat:
        for first in range(0, flat.shape[2], step):
            log_cn = _wide(image[:, first : first + step]).log_softmax(0)
            total -= torch.special.xlogy(log_cn.exp(), log_cn.exp()).sum(dtype=torch.float64)
    return total


@torch.no_grad()
def neighbourhood_density(probability_sc: Tensor, temperature: float = 0.05) -> Tensor:
    """SND of softmax rows (S, C), S at least 2: see :func:`label_free_scores`. O(S) memory beside a block.

    >>> round(float(neighbourhood_density(torch.eye(2).repeat(3, 1))), 3)  # each has two that are like it: log 2
    0.693
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    count = probability_sc.shape[0]
    if count < 2:
        raise _core.ShapeError(f"probability_sc: expected at least 2 rows, got {count}")
    unit_sc = normalize(probability_sc, dim=1)
    total = unit_sc.new_zeros((), dtype=torch.float64)
    step = max(1, _VALUES // count)
    for first in range(0, count, step):
        score_rs = unit_sc[first : first + step] @ unit_sc.T / temperature
        itself = score_rs.diagonal(first)
        itself.fill_(float("-inf"))
        log_sum_r = score_rs.logsumexp(1)
        share_rs = score_rs.softmax(1)
        itself.zero_()  # its share is 0, and 0 times infinity would not be
        entropy_r = log_sum_r - (share_rs * score_rs).sum(1)
        total += entropy_r.sum(dtype=torch.float64)
    return (total / count).to(probability_sc.dtype)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
