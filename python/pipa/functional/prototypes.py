"""Prototypes and class distributions: the functions of `pipa.functional` that compare a pixel with whole classes.

Shape suffixes: B batch, D channels, H W size, K classes.
"""

from __future__ import annotations

from torch import Tensor

from pipa import _core
from pipa.functional.numbers import whole


def prototype_weights(
    feat_bdhw: Tensor, proto_kd: Tensor, *, temperature: float = 1.0, seen_k: Tensor | None = None
) -> Tensor:
    """What the distances of a pixel to the prototypes say about its class (ProDA, equation 5).

    ``w_ik = softmax_k(-||f_i - eta_k||_2 / temperature)``. Distances come from differences, so that a pixel on its
    prototype has distance 0 exactly, however long the features are. O(B K H W) memory on the host.

    Args:
        feat_bdhw: [B, D, H, W] floating point.
        proto_kd: [K, D] floating point, one row per class.
        temperature: tau, positive.
        seen_k: [K] bool; False: the class has not been seen, and its row is not read: it takes the mean distance of the
            seen ones, which is no opinion. None: all seen.

    Returns:
        [B, K, H, W] in the dtype of `feat_bdhw` (float16 and bfloat16 are computed in float32); differentiable by
        features and prototypes.

    Raises:
        ShapeError, DTypeError, DeviceError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from pipa.functional import prototype_weights
        >>> prototype_weights(torch.randn(1, 8, 4, 4), torch.zeros(5, 8)).mul(5).round().unique()
        tensor([1.])
    """
    return _core.prototype_weights(feat_bdhw, proto_kd, float(temperature), seen_k)


def prototype_update(
    proto_kd: Tensor,
    feat_bdhw: Tensor,
    label_bhw: Tensor,
    *,
    momentum: float = 0.9999,
    min_pixels: int = 10,
    ignore_index: int = 255,
) -> Tensor:
    """Prototypes moved towards the class means of a batch (ProDA, equation 6).

    ``eta_k <- momentum eta_k + (1 - momentum) mean{f_i : label_i = k}``; classes of fewer than `min_pixels` pixels keep
    their row bit by bit.

    Args:
        proto_kd: [K, D] floating point.
        feat_bdhw: [B, D, H, W] floating point.
        label_bhw: [B, H, W] integers on the grid of the features; classes or `ignore_index`, anything else is a
            ValueError on the host.
        momentum: 0 to 1. min_pixels: at least 1.

    Returns:
        A new [K, D] in the dtype of `proto_kd`, without a graph.

    Raises:
        ShapeError, DTypeError, DeviceError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from pipa.functional import prototype_update
        >>> label = torch.zeros(1, 4, 4, dtype=torch.uint8)
        >>> prototype_update(torch.zeros(2, 3), torch.ones(1, 3, 4, 4), label, momentum=0.5)
        tensor([[0.5000, 0.5000, 0.5000],
                [0.0000, 0.0000, 0.0000]])
    """
    return _core.prototype_update(
        proto_kd,
        feat_bdhw,
        label_bhw,
        float(momentum),
        whole(min_pixels, "min_pixels"),
        whole(ignore_index, "ignore_index"),
    )


def rectified_label(prob_bkhw: Tensor, weight_bkhw: Tensor) -> tuple[Tensor, Tensor]:
    """Pseudo-labels of a network's softmax corrected by prototypes (ProDA, equation 5).

    ``q_ik = w_ik p_ik / sum_j w_ij p_ij``; the label is argmax_k q, its confidence max_k q. In the paper p is the
    softmax of the network that the stage started from, which stays fixed.

    Args:
        prob_bkhw: [B, K, H, W] floating point, not negative.
        weight_bkhw: of the same shape, for example of :func:`prototype_weights`.

    Returns:
        Label [B, H, W] int64 (ties: lowest class) and confidence [B, H, W] in the dtype of `prob_bkhw`. Where all
        products are 0 the two contradict each other: the label is that of `prob_bkhw`, the confidence 0. No gradient.

    Raises:
        ShapeError, DTypeError, DeviceError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from pipa.functional import rectified_label
        >>> p, w = torch.tensor([0.6, 0.4]), torch.tensor([0.2, 0.8])
        >>> rectified_label(p.view(1, 2, 1, 1), w.view(1, 2, 1, 1))
        (tensor([[[1]]]), tensor([[[0.7273]]]))
    """
    return _core.rectified_label(prob_bkhw, weight_bkhw)


def symmetric_cross_entropy(
    logits_bkhw: Tensor,
    label_bhw: Tensor,
    *,
    ce: float = 0.1,
    rce: float = 1.0,
    floor: float = 1e-4,
    ignore_index: int = 255,
) -> Tensor:
    """Cross entropy plus reverse cross entropy, which wrong labels hurt less (ProDA, equation 7).

    ``mean_i [ce (-log p_iy) + rce (-log floor) (1 - p_iy)]`` with p the softmax of the logits and y the label: the
    zeros of the one-hot label count as `floor` in the logarithm of the reverse term.

    Args:
        logits_bkhw: [B, K, H, W] floating point.
        label_bhw: [B, H, W] integers, of the logits' height and width; classes or `ignore_index`.
        ce, rce: at least 0. floor: more than 0 and at most 1.

    Returns:
        Scalar, mean over labelled pixels (float32, or float64 for float64 logits); without one a zero that keeps the
        graph. First-order gradients.

    Raises:
        ShapeError, DTypeError, DeviceError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from pipa.functional import symmetric_cross_entropy
        >>> label = torch.zeros(1, 4, 4, dtype=torch.long)
        >>> float(symmetric_cross_entropy(100.0 * torch.eye(3)[0].view(1, 3, 1, 1).expand(1, 3, 4, 4), label))
        0.0
    """
    return _core.symmetric_cross_entropy(
        logits_bkhw, label_bhw, float(ce), float(rce), float(floor), whole(ignore_index, "ignore_index")
    )


def prototype_consistency(
    feat_student_bdhw: Tensor,
    feat_teacher_bdhw: Tensor,
    proto_kd: Tensor,
    *,
    temperature: float = 1.0,
    valid_bhw: Tensor | None = None,
    seen_k: Tensor | None = None,
) -> Tensor:
    """Both views of a pixel shall lie alike among the prototypes (ProDA, equation 9).

    ``mean_i KL(z_i || z'_i)`` with z, z' the :func:`prototype_weights` of the teacher's features (weak view) and of the
    student's (strong view of the same geometry). Sums over classes, means over pixels; the released code divides by the
    number of classes too, and takes the divergence of probabilities for that of log-probabilities.

    Args:
        feat_student_bdhw: [B, D, H, W] floating point; the only argument with a gradient.
        feat_teacher_bdhw: of the same shape.
        proto_kd: [K, D]. temperature: tau, positive.
        valid_bhw: [B, H, W], any dtype; pixels that are not 0 count. None: all.
        seen_k: [K] bool as for :func:`prototype_weights`.

    Returns:
        Scalar (float32, or float64 for float64 features); without a valid pixel a zero that keeps the graph.
        First-order gradients.

    Raises:
        ShapeError, DTypeError, DeviceError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from pipa.functional import prototype_consistency
        >>> feat, proto = torch.randn(1, 8, 4, 4), torch.randn(3, 8)
        >>> bool(prototype_consistency(feat, feat, proto).abs() < 1e-6)
        True
    """
    return _core.prototype_consistency(
        feat_student_bdhw, feat_teacher_bdhw, proto_kd, float(temperature), valid_bhw, seen_k
    )


def distribution_contrast(
    embedding_bdhw: Tensor,
    label_bhw: Tensor,
    mean_kd: Tensor,
    var_kd: Tensor,
    *,
    temperature: float = 0.1,
    ignore_index: int = 255,
    seen_k: Tensor | None = None,
) -> Tensor:
    """Contrast of every labelled pixel with the distributions of the classes (SePiCo): no pairs, no sampling.

    With e the embedding scaled to length one, ``mean_i -log softmax_k((e.mean_k + e^2.var_k / (2 t)) / t)_y``: the
    expected contrast with infinitely many features of classes that are normally distributed with diagonal covariance.
    K logits per pixel; value and gradient are one sweep on the host, O(N K D).

    Args:
        embedding_bdhw: [B, D, H, W] floating point, any length (normalised inside; a zero pixel gets a zero gradient).
        label_bhw: [B, H, W] integers on the grid of the embedding; classes or `ignore_index`.
        mean_kd, var_kd: [K, D] mean and diagonal variance of the normalised embeddings of each class; no gradient.
        temperature: t, positive.
        seen_k: [K] bool; False: the class is no alternative, and its pixels do not count. None: all seen.

    Returns:
        Scalar, mean over labelled pixels (float32, or float64 for float64 embeddings); without one a zero that keeps
        the graph. First-order gradients.

    Raises:
        ShapeError, DTypeError, DeviceError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from pipa.functional import distribution_contrast
        >>> label, same = torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(3, 8)
        >>> round(float(distribution_contrast(torch.randn(1, 8, 4, 4), label, same, same)), 4)
        1.0986
    """
    return _core.distribution_contrast(
        embedding_bdhw, label_bhw, mean_kd, var_kd, float(temperature), whole(ignore_index, "ignore_index"), seen_k
    )
