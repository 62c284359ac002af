"""Pseudo-labels and class mix: the functions of `pipa.functional` that make the mixed target batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor

from pipa import _core
from pipa.functional.numbers import whole
from pipa.settings import ClassScope


def pseudo_label(
    logits_bchw: Tensor,
    *,
    threshold: float = 0.968,
    ignore_top: int = 0,
    ignore_bottom: int = 0,
    valid_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Argmax class of each pixel, and its weight: the share of confident pixels in the whole batch.

    A pixel is confident if its softmax maximum is at least `threshold`. The share is taken before rows are cut off. No
    gradient flows; on an accelerator nothing waits for the host.

    Args:
        logits_bchw: [B, C, H, W] floating point logits of the teacher.
        ignore_top, ignore_bottom: rows of weight 0 at the upper and lower edge.
        valid_mask: [B, 1, H, W] or [B, H, W], any dtype; multiplies the weight.

    Returns:
        Label [B, H, W] int64 (ties: lowest class), weight [B, H, W] float32 (float64 for float64 logits).

    Raises:
        ShapeError, DTypeError, DeviceError, ValueError: an argument does not fit; the message names it.

    >>> import torch
    >>> from pipa import functional as F
    >>> logits = torch.tensor([[[[9.0, 0.0]], [[0.0, 0.5]]]])  # two classes, a sure and an unsure pixel
    >>> F.pseudo_label(logits, threshold=0.9)
    (tensor([[[0, 1]]]), tensor([[[0.5000, 0.5000]]]))
    """
    return _core.pseudo_label(
        logits_bchw,
        float(threshold),
        whole(ignore_top, "ignore_top"),
        whole(ignore_bottom, "ignore_bottom"),
        valid_mask,
    )


def draw_classes(
    label_b1hw: Tensor,
    num_classes: int,
    *,
    ignore_index: int = 255,
    scope: ClassScope | Literal["image"] = "per_image",
    seed: int = 0,
) -> list[list[int]]:
    """Chooses half of the n classes present, (n + n % 2) / 2, for each image.

    Args:
        label_b1hw: [B, 1, H, W] integers: classes or `ignore_index`, anything else is a ValueError.
        scope: ``"per_image"``: the classes of that image. ``"batch"``: the released code, which counts the classes of
            the whole batch and the ignored id among them, so that an image may be given classes it does not show.

    Returns:
        Class ids per image. For a label map on an accelerator prefer :func:`draw_class_mask`, which does not wait.

    >>> import torch
    >>> from pipa import functional as F
    >>> label = torch.tensor([[0, 1, 2, 255]]).view(1, 1, 1, 4)
    >>> [len(classes) for classes in F.draw_classes(label, num_classes=3)]  # 2 of the 3 that are there
    [2]
    """
    return _core.draw_classes(
        label_b1hw,
        whole(num_classes, "num_classes"),
        whole(ignore_index, "ignore_index"),
        _scope(scope),
        whole(seed, "seed"),
    )


def draw_class_mask(
    label_b1hw: Tensor,
    num_classes: int,
    *,
    ignore_index: int = 255,
    scope: ClassScope | Literal["image"] = "per_image",
    seed: int = 0,
) -> Tensor:
    """:func:`class_mask` of :func:`draw_classes` with the same arguments, without a visit to the host.

    >>> import torch
    >>> from pipa import functional as F
    >>> label = torch.tensor([[0, 1, 2, 255]]).view(1, 1, 1, 4)
    >>> classes = F.draw_classes(label, num_classes=3, seed=1)
    >>> torch.equal(F.draw_class_mask(label, num_classes=3, seed=1), F.class_mask(label, classes))
    True
    """
    return _core.draw_class_mask(
        label_b1hw,
        whole(num_classes, "num_classes"),
        whole(ignore_index, "ignore_index"),
        _scope(scope),
        whole(seed, "seed"),
    )


def _scope(word: str) -> str:
    if word != "image":
        return word
    warnings.warn(
        'scope="image" is now spelled "per_image"; it will be refused in 0.3', DeprecationWarning, stacklevel=3
    )
    return "per_image"


def class_mask(label_b1hw: Tensor, classes_per_image: Sequence[Iterable[int]]) -> Tensor:
    """1 where the label is one of the image's classes, else 0.

    Args:
        label_b1hw: [B, 1, H, W] integers.
        classes_per_image: B lists of class ids.

    Returns:
        [B, 1, H, W] int64 on the label's device.

    >>> import torch
    >>> from pipa import functional as F
    >>> F.class_mask(torch.tensor([[[[0, 1, 2, 1]]]]), [[1]])
    tensor([[[[0, 1, 0, 1]]]])
    """
    return _core.class_mask(label_b1hw, [[int(c) for c in classes] for classes in classes_per_image])


def class_mix(mask_b1hw: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """`source` where the mask is not 0, `target` elsewhere: images, labels and weights mix alike.

    Args:
        mask_b1hw: [B, 1, H, W].
        source, target: of one shape, [B, C, H, W] or [B, H, W]; any dtype, of two the wider one results.

    Returns:
        A new tensor; gradients flow to the parts that were taken.

    >>> import torch
    >>> from pipa import functional as F
    >>> label, pseudo = torch.tensor([[[0, 1]]]), torch.tensor([[[7, 7]]])
    >>> mask = F.class_mask(label[:, None], [[1]])  # class 1 of image 0 is pasted
    >>> F.class_mix(mask, label, pseudo)
    tensor([[[7, 1]]])
    """
    return _core.class_mix(mask_b1hw, source, target)
