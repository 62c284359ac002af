"""Segmentation losses, teacher and metrics: the functions of `pipa.functional` that compare with labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipa import _core
from pipa.functional.numbers import whole
from pipa.settings import Average, DistanceForm


def cross_entropy(
    logits: Tensor,
    label_bhw: Tensor,
    weight_bhw: Tensor | None = None,
    *,
    ignore_index: int = 255,
    average: Average = "all",
) -> Tensor:
    """Mean over pixels of ``-weight log softmax(logits)[label]``.

    Args:
        logits: [B, C, h, w] floating point; resized bilinearly (corners not aligned) to a larger label.
        label_bhw: [B, H, W] or [B, 1, H, W] integers in 0..C-1 or `ignore_index`; on the CPU another id is a
            ValueError.
        weight_bhw: [B, H, W]; multiplies each pixel's loss, does not change the divisor.
        average: ``"all"``: divided by all pixels, ignored ones too (the released code, and the default, because the
            method's weights were tuned with it). ``"valid"``: by pixels that are not ignored.

    Returns:
        Scalar on the graph of `logits` (float32, or float64 for float64 logits); a zero that keeps the graph where
        every pixel is ignored. First-order gradients.

    >>> import torch
    >>> from pipa import functional as F
    >>> logits, label = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]])
    >>> F.cross_entropy(logits, label), F.cross_entropy(logits, label, average="valid")  # over 2 pixels, over 1
    (tensor(0.3466), tensor(0.6931))
    """
    return _core.cross_entropy(logits, label_bhw, weight_bhw, whole(ignore_index, "ignore_index"), average)


def accuracy(logits: Tensor, label_bhw: Tensor, *, ignore_index: int = 255, average: Average = "all") -> Tensor:
    """Percentage of pixels whose largest logit is the label's; arguments as for :func:`cross_entropy`.

    ``average="all"`` counts ignored pixels as wrong, as the released code's log does.

    >>> import torch
    >>> from pipa import functional as F
    >>> logits = torch.tensor([[[[2.0, 2.0]], [[1.0, 1.0]]]])
    >>> F.accuracy(logits, torch.tensor([[[0, 1]]]))
    tensor(50.)
    """
    return _core.accuracy(logits, label_bhw, whole(ignore_index, "ignore_index"), average)


def downscale_label(
    label_b1hw: Tensor, scale: int, min_ratio: float, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Most frequent class of each ``scale x scale`` cell.

    A cell becomes `ignore_index` if that class covers less than `min_ratio` of it, or is the ignored id. Ties go to the
    lowest class, the ignored id coming last. Rows and columns that fill no cell are dropped.

    Args:
        label_b1hw: [B, 1, H, W] integers in 0..num_classes-1 or `ignore_index`; on the CPU another id is a ValueError.

    Returns:
        [B, 1, H // scale, W // scale] int64.

    >>> import torch
    >>> from pipa import functional as F
    >>> label = torch.tensor([[0, 0, 1, 2], [0, 3, 1, 2]]).view(1, 1, 2, 4)
    >>> F.downscale_label(label, scale=2, min_ratio=0.75, num_classes=4)  # 3 of 4 pixels, 2 of 4 pixels
    tensor([[[[  0, 255]]]])
    """
    return _core.downscale_label(
        label_b1hw,
        whole(scale, "scale"),
        float(min_ratio),
        whole(num_classes, "num_classes"),
        whole(ignore_index, "ignore_index"),
    )


def feature_distance(
    feat: Tensor,
    feat_imagenet: Tensor,
    label_b1hw: Tensor,
    classes: Iterable[int] | None,
    *,
    min_ratio: float = 0.75,
    num_classes: int,
    weight: float = 0.005,
    ignore_index: int = 255,
    form: DistanceForm = "euclidean",
) -> Tensor:
    """Feature distance: ``weight`` times the mean distance to the frozen features over positions of the given classes.

    Args:
        feat, feat_imagenet: [B, D, H, W] floating point; the second gets no gradient.
        label_b1hw: [B, 1, sH, sW] integers, scaled down by :func:`downscale_label`.
        classes: positions of these classes count (thing classes); None: all positions.
        form: ``"euclidean"``, DAFormer's norm of the difference, or ``"cosine"``, 0.9 (1 - cosine) + 0.1 smooth L1.

    Returns:
        Scalar; a zero that keeps the graph where no position counts (the released code gives NaN).

    >>> import torch
    >>> from pipa import functional as F
    >>> feat, imagenet = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    >>> label = torch.zeros(1, 1, 8, 8, dtype=torch.int64)
    >>> F.feature_distance(feat, imagenet, label, classes=[0], num_classes=2, weight=1.0)
    tensor(2.)
    """
    chosen = None if classes is None else [whole(c, "classes") for c in classes]
    strays = [c for c in chosen or [] if not 0 <= c < num_classes]
    if strays:
        raise ValueError(f"classes: expected ids from 0 to {num_classes - 1}, got {strays}")
    return _core.feature_distance_loss(
        feat,
        feat_imagenet,
        label_b1hw,
        chosen,
        float(min_ratio),
        whole(num_classes, "num_classes"),
        float(weight),
        whole(ignore_index, "ignore_index"),
        form,
    )


def ema_update(
    teacher_params: Iterable[Tensor], student_params: Iterable[Tensor], iteration: int, alpha: float = 0.999
) -> None:
    """``teacher = a teacher + (1 - a) student`` in place, a = min(1 - 1 / (iteration + 1), alpha).

    Parameters only: buffers are not the business of this function. Iteration 0 copies. Works outside any graph.

    Args:
        teacher_params, student_params: floating point tensors of equal shapes, in the same order.

    >>> import torch
    >>> from pipa import functional as F
    >>> teacher, student = torch.zeros(1), torch.ones(1)
    >>> F.ema_update([teacher], [student], iteration=1)  # a = 1/2
    >>> teacher
    tensor([0.5000])
    """
    _core.ema_update(list(teacher_params), list(student_params), whole(iteration, "iteration"), float(alpha))


def confusion_matrix(
    prediction: Tensor | npt.NDArray[np.integer],
    label: Tensor | npt.NDArray[np.integer],
    num_classes: int,
    ignore_index: int = 255,
) -> Tensor:
    """Pixel counts: rows are labels, columns predictions; pixels labelled `ignore_index` do not count.

    Args:
        prediction, label: integers of one shape (any); an id outside the classes is a ValueError.

    Returns:
        [C, C] int64 on the CPU.

    >>> from pipa import functional as F
    >>> import torch
    >>> F.confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), num_classes=2)
    tensor([[1, 1],
            [0, 0]])
    """
    return _core.confusion_matrix(
        _tensor(prediction, "prediction"),
        _tensor(label, "label"),
        whole(num_classes, "num_classes"),
        whole(ignore_index, "ignore_index"),
    )


def _tensor(values: Any, name: str) -> Tensor:
    """A tensor of any array: torch takes none of a foreign byte order or with negative strides (a flipped view), and
    warns of one that must not be written to."""
    if isinstance(values, np.ndarray):
        native = values.dtype.newbyteorder("=")
        plain = values.dtype == native and values.flags.writeable and min(values.strides, default=0) >= 0
        values = values if plain else values.astype(native, order="C")
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a tensor or array of integers ({error})") from None


def class_counts(label: Tensor | npt.NDArray[np.integer], num_classes: int, ignore_index: int = 255) -> Tensor:
    """Pixels of each class; those of `ignore_index` do not count.

    Args:
        label: integers of any shape; any other id outside the classes is a ValueError.

    Returns:
        [C] int64 on the CPU.

    >>> import torch
    >>> from pipa import functional as F
    >>> F.class_counts(torch.tensor([0, 2, 2, 255]), num_classes=3)
    tensor([1, 0, 2])
    """
    return _core.class_counts(
        _tensor(label, "label"), whole(num_classes, "num_classes"), whole(ignore_index, "ignore_index")
    )


def iou_from_confusion(matrix_cc: Tensor | npt.NDArray[np.integer]) -> dict[str, Tensor]:
    """Metrics of a confusion matrix, as fractions in float64; NaN where there is nothing to divide by.

    Returns:
        ``aAcc`` (share of right pixels), ``mIoU`` (mean of the IoU that are not NaN), and per class ``IoU``, ``Dice``
        (NaN for a class that is in neither label nor prediction), ``Acc`` = ``Recall`` (NaN for one that is not
        labelled), ``Precision`` (NaN for one that is not predicted) and ``Fscore``, the harmonic mean of the two as
        mmsegmentation has it: ``Dice``, but NaN where either of them is, or both are 0.

    >>> import torch
    >>> from pipa import functional as F
    >>> found = F.iou_from_confusion(torch.tensor([[1, 1], [0, 2]]))
    >>> found["IoU"].round(decimals=3), float(found["aAcc"])
    (tensor([0.5000, 0.6670], dtype=torch.float64), 0.75)
    """
    matrix = _tensor(matrix_cc, "matrix_cc").double()
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise _core.ShapeError(f"matrix_cc: expected [C,C], got shape {list(matrix.shape)}")
    hit, labelled, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    iou = hit / (labelled + predicted - hit)
    recall, precision = hit / labelled, hit / predicted
    dice = 2 * hit / (labelled + predicted)
    return {
        "aAcc": hit.sum() / matrix.sum(),
        "mIoU": iou.nanmean(),
        "IoU": iou,
        "Acc": recall,
        "Dice": dice,
        "Fscore": 2 * precision * recall / (precision + recall),
        "Precision": precision,
        "Recall": recall,
    }
