"""The losses and kernels of PiPa as pure functions. Tensors keep device, dtype and graph.

Shape suffixes: B batch, C classes, D channels, H W size, N anchors, M keys, A groups, V views.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipa import _core
from pipa.functional.augmentation import (
    Augment,
    Jitter,
    block_mask,
    blur_kernel_size,
    color_jitter,
    draw_augment,
    gaussian_blur,
    mask_grid,
    strong_augment,
)
from pipa.functional.label_free import label_free_scores
from pipa.functional.mixing import class_mask, class_mix, draw_class_mask, draw_classes, pseudo_label
from pipa.functional.prototypes import (
    distribution_contrast,
    prototype_consistency,
    prototype_update,
    prototype_weights,
    rectified_label,
    symmetric_cross_entropy,
)
from pipa.functional.supervision import (
    accuracy,
    class_counts,
    confusion_matrix,
    cross_entropy,
    downscale_label,
    ema_update,
    feature_distance,
    iou_from_confusion,
)

__all__: list[str] = [
    "Augment",
    "Jitter",
    "accuracy",
    "block_mask",
    "blur_kernel_size",
    "choose_anchors",
    "class_counts",
    "class_mask",
    "class_mix",
    "color_jitter",
    "confusion_matrix",
    "contrast",
    "crop_patches",
    "cross_entropy",
    "distribution_contrast",
    "downscale_label",
    "draw_augment",
    "draw_class_mask",
    "draw_classes",
    "draw_patches",
    "ema_update",
    "feature_distance",
    "gaussian_blur",
    "iou_from_confusion",
    "label_free_scores",
    "mask_grid",
    "patch_contrast",
    "patch_contrast_gated",
    "patch_overlap",
    "pixel_contrast",
    "prototype_consistency",
    "prototype_update",
    "prototype_weights",
    "pseudo_label",
    "rectified_label",
    "strong_augment",
    "symmetric_cross_entropy",
]

Formulation = Literal["official", "paper"]

Box = tuple[int, int, int, int]
"""(top, left, bottom, right), half-open."""


def contrast(
    anchor_nd: Tensor,
    key_md: Tensor,
    positive: Tensor | tuple[Tensor, Tensor],
    *,
    temperature: float = 0.1,
    exclude_self: bool = False,
    tile: tuple[int, int] | None = None,
) -> Tensor:
    """Contrastive loss of anchors against keys, exact and streamed: O(N D + M D + tile) memory, never N x M.

    ``mean over anchors with a positive of [logsumexp_k cos(a, k)/tau - mean_p cos(a, p)/tau]``: the form that the
    paper's pixel and patch terms share.

    Args:
        anchor_nd: [N, D] floating point, any row length (the cosine is inside). A zero row gets a zero gradient.
        key_md: [M, D] of the same dtype. Pass the same object as `anchor_nd` to contrast a set with itself.
        positive: ``(anchor_label_n, key_label_m)``: keys of equal class are positives. Any integers; every id is a
            class, so remove ignored pixels first. Or ``index_n``: the position of each anchor's one positive;
            a negative index means none.
        temperature: tau, positive.
        exclude_self: key i is anchor i (M >= N): it is neither in the anchor's denominator nor a positive of it.
        tile: rows and columns of the largest block of scores held at once; chosen by device when None.

    Returns:
        Scalar (float32, or float64 for float64 features). Without any anchor that has a positive: a zero that keeps
        the graph. Gradients are first order: they carry no graph of their own, even with ``create_graph=True``.

    Raises:
        ShapeError, DTypeError, DeviceError, ValueError: an argument does not fit; the message names it.

    >>> import torch
    >>> from pipa import functional as F
    >>> feat, label = torch.randn(100, 16, requires_grad=True), torch.arange(100) % 5
    >>> loss = F.contrast(feat, feat, (label, label), exclude_self=True)  # all pixels among themselves
    >>> loss.backward()
    >>> feat.grad.shape
    torch.Size([100, 16])
    """
    key = None if key_md is anchor_nd else key_md
    if isinstance(positive, Tensor):
        return _core.contrast(anchor_nd, key, None, None, positive, temperature, exclude_self, tile)
    if not (isinstance(positive, (tuple, list)) and len(positive) == 2):
        raise TypeError(
            f"positive: expected (anchor_label_n, key_label_m) or an index tensor, got {type(positive).__name__}"
        )
    return _core.contrast(anchor_nd, key, positive[0], positive[1], None, temperature, exclude_self, tile)


def pixel_contrast(
    feat_avd: Tensor,
    label_a: Tensor,
    *,
    temperature: float = 0.1,
    base_temperature: float = 0.07,
    formulation: Formulation = "official",
) -> Tensor:
    """Pixel contrast of A groups of V pixels of one class each.

    ``"official"``: the released code. Features are used at their length, each positive pair has a denominator of its
    own (itself and the other classes), and the loss is scaled by ``temperature / base_temperature``. Unlike the
    released code it is finite for features of any length, and zero where no pair exists.
    ``"paper"``: L_pixel of the paper (:func:`contrast` of all pixels among themselves); `base_temperature` is unused.

    Args:
        feat_avd: [A, V, D] floating point.
        label_a: [A] class of each group (integers; whole floats are taken too). Groups may share a class.

    Returns:
        Scalar, first-order gradients.

    >>> import torch
    >>> from pipa import functional as F
    >>> feat, label = torch.randn(4, 10, 16), torch.tensor([0, 1, 2, 2])  # 10 pixels of each group
    >>> paper = F.pixel_contrast(feat, label, formulation="paper")
    >>> ids = label.repeat_interleave(10)
    >>> torch.allclose(paper, F.contrast(feat.flatten(0, 1), feat.flatten(0, 1), (ids, ids), exclude_self=True))
    True
    """
    return _core.pixel_contrast(feat_avd, label_a, temperature, base_temperature, formulation)


def patch_contrast(
    patch1_bdhw: Tensor,
    patch2_bdhw: Tensor,
    overlap1: Box,
    overlap2: Box,
    flip1: bool = False,
    flip2: bool = False,
    labels: tuple[Tensor, Tensor] | None = None,
    *,
    temperature: float = 0.1,
) -> Tensor:
    """L_patch of the paper: the same scene position in two overlapping patches attracts, all other features repel.

    Args:
        patch1_bdhw, patch2_bdhw: [B, D, H, W] features of the two patches, flipped ones as they came out.
        overlap1, overlap2: (top, left, bottom, right) of the shared part in cells of each map (:func:`patch_overlap`).
        flip1, flip2: whether the patch was mirrored left-right.
        labels: class ids [B, h, w] of each patch as it is shown, of any size (nearest). Then only features of another
            label repel; those without a class repel all but each other. None: all features, as in the paper.

    Returns:
        Scalar: mean over images, positions and the two directions. First-order gradients.

    >>> import torch
    >>> from pipa import functional as F
    >>> scene = torch.randn(1, 16, 12, 12)
    >>> first, second = scene[..., :8, :8], scene[..., 4:, 4:]
    >>> right = F.patch_contrast(first, second, (4, 4, 8, 8), (0, 0, 4, 4))  # the cells they share
    >>> bool(right < F.patch_contrast(first, second, (4, 4, 8, 8), (4, 4, 8, 8)))
    True
    """
    return _core.patch_contrast(
        patch1_bdhw, patch2_bdhw, _box(overlap1), _box(overlap2), bool(flip1), bool(flip2), labels, temperature
    )


def patch_contrast_gated(
    feat1_nd: Tensor,
    feat2_nd: Tensor,
    bank_md: Tensor,
    bank_label_m: Tensor,
    label1_n: Tensor,
    label2_n: Tensor,
    conf1_n: Tensor,
    conf2_n: Tensor,
    *,
    temperature: float = 0.1,
    confidence: float = 0.9,
    chunk: int = 8000,
) -> tuple[Tensor, Tensor]:
    """Patch contrast of the released code: each patch learns from the other where the other is surer.

    Position i of patch 1 counts when ``conf2 > confidence and conf1 < conf2``; its negatives are the bank's features of
    another pseudo-label. `feat2_nd` and the bank get no gradient from the first loss, and the other way round.

    Args:
        feat1_nd, feat2_nd: [N, D] features of the same positions, used at their length (normalise them before).
        bank_md, bank_label_m: [M, D] features and [M] pseudo-labels of this and earlier steps.
        label1_n, label2_n, conf1_n, conf2_n: pseudo-labels and confidences of the positions.
        chunk: bank entries per chunk. The first chunk sets the shift of the exponentials (as released), which the
            result depends on slightly.

    Returns:
        The two directional losses.

    >>> import torch
    >>> from pipa import functional as F
    >>> first, second, bank = (torch.nn.functional.normalize(torch.randn(n, 8), dim=1) for n in (6, 6, 20))
    >>> label, bank_label = torch.zeros(6, dtype=torch.int64), torch.arange(20) % 2
    >>> unsure, sure = torch.full((6,), 0.5), torch.full((6,), 0.95)
    >>> one, two = F.patch_contrast_gated(first, second, bank, bank_label, label, label, unsure, sure)
    >>> float(one) > 0, float(two)  # the unsure patch learns from the sure one alone
    (True, 0.0)
    """
    return _core.patch_contrast_gated(
        feat1_nd,
        feat2_nd,
        bank_md,
        bank_label_m,
        label1_n,
        label2_n,
        conf1_n,
        conf2_n,
        temperature,
        confidence,
        chunk,
    )


def choose_anchors(
    label_bhw: Tensor,
    prediction_bhw: Tensor | None = None,
    *,
    priority_bhw: Tensor | None = None,
    seed: int = 0,
    max_anchors: int = 1024,
    max_per_class: int = 100,
    min_pixels: int = 2,
    ignore_index: int = 255,
    per_image: bool = False,
) -> tuple[Tensor, Tensor]:
    """Class-balanced choice of pixels: ``min(max_anchors // groups, max_per_class)`` per class, half hard half easy.

    The released code's sampler is ``min_pixels=101, per_image=True, ignore_index=-1``.

    Args:
        label_bhw: [B, H, W] class ids.
        prediction_bhw: predicted ids; wrongly predicted pixels are hard. None: no split.
        priority_bhw: the pixels with the smallest priority are taken; None draws them from `seed`.
        min_pixels: groups with fewer pixels are left out.
        per_image: groups are the classes of each image, not of the batch.

    Returns:
        Flat row-major positions [N], group by group, hard first; and bool [N], false for filler (accelerators only:
        N depends on the shapes alone there, so that the host never waits).

    >>> import torch
    >>> from pipa import functional as F
    >>> label = torch.tensor([[[0, 0, 0, 1, 1, 2]]])
    >>> index, _ = F.choose_anchors(label, max_anchors=4)  # class 2 has fewer than min_pixels=2 pixels
    >>> label.flatten()[index].bincount()
    tensor([2, 2])
    """
    index, valid, _ = _core.choose_anchors(
        label_bhw,
        prediction_bhw,
        priority_bhw,
        max_anchors,
        max_per_class,
        min_pixels,
        ignore_index,
        per_image,
        _core.rng_state(seed, 0),
    )
    return index, valid


def draw_patches(
    height: int,
    width: int,
    size: tuple[int, int],
    *,
    min_iou: float = 0.1,
    max_iou: float = 1.0,
    flip: bool = False,
    align: int = 8,
    seed: int = 0,
) -> tuple[Box, Box, bool, bool]:
    """Two crops of `size` whose intersection over union lies in the range: ``(box1, box2, flip1, flip2)``.

    Uniform over all pairs of places whose feature cells coincide at stride `align`. An impossible request raises
    ValueError with the IoU that can be reached.

    >>> from pipa import functional as F
    >>> (top, left, bottom, right), _, *_ = F.draw_patches(512, 512, (256, 256), min_iou=0.2)
    >>> bottom - top, right - left
    (256, 256)
    """
    return _core.draw_patches(height, width, size, min_iou, max_iou, flip, align, _core.rng_state(seed, 0))[0]


def crop_patches(
    image_bchw: Tensor, box1: Box, box2: Box, flip1: bool = False, flip2: bool = False
) -> tuple[Tensor, Tensor]:
    """Both crops of [B, C, H, W] images, labels or weights, mirrored left-right where asked.

    >>> import torch
    >>> from pipa import functional as F
    >>> first, second = F.crop_patches(torch.arange(4.0).view(1, 1, 1, 4), (0, 0, 1, 2), (0, 1, 1, 3), flip2=True)
    >>> first.flatten(), second.flatten()
    (tensor([0., 1.]), tensor([2., 1.]))
    """
    return _core.crop_patches(image_bchw, _box(box1), _box(box2), flip1, flip2)


def patch_overlap(
    box1: Box, box2: Box, feature_size: tuple[int, int], flip1: bool = False, flip2: bool = False
) -> tuple[Box, Box]:
    """Cells that two crops share, as boxes on feature maps of `feature_size` (after the flips).

    Paired cells look at the same image pixels; crops that do not meet on the stride's grid raise ValueError.

    >>> from pipa import functional as F
    >>> F.patch_overlap((0, 0, 64, 64), (32, 32, 96, 96), feature_size=(8, 8))
    ((4, 4, 8, 8), (0, 0, 4, 4))
    """
    return _core.patch_overlap(_box(box1), _box(box2), flip1, flip2, feature_size)


def _box(box: Box) -> Box:
    top, left, bottom, right = (int(edge) for edge in box)
    return top, left, bottom, right
