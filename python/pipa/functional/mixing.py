"""Pseudo-labels, class mix and augmentation: the functions of `pipa.functional` that make the mixed target batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from pipa import _core

Jitter = tuple[float, float, float, float, Sequence[int]]
"""(brightness, contrast, saturation, hue, order)."""

Draw = tuple[Jitter | None, float | None]
"""(jitter, blur sigma) of one image; None: not applied."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


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
    """
    return _core.pseudo_label(logits_bchw, float(threshold), int(ignore_top), int(ignore_bottom), valid_mask)


def draw_classes(
    label_b1hw: Tensor, num_classes: int, *, ignore_index: int = 255, scope: str = "image", seed: int = 0
) -> list[list[int]]:
    """Chooses half of the n classes present, (n + n % 2) / 2, for each image.

    Args:
        label_b1hw: [B, 1, H, W] integers: classes or `ignore_index`, anything else is a ValueError.
        scope: ``"image"``: the classes of that image. ``"batch"``: the released code, which counts the classes of the
            whole batch and the ignored id among them, so that an image may be given classes it does not show.

    Returns:
        Class ids per image. For a label map on an accelerator prefer :func:`draw_class_mask`, which does not wait.
    """
    return _core.draw_classes(label_b1hw, int(num_classes), int(ignore_index), scope, int(seed))


def draw_class_mask(
    label_b1hw: Tensor, num_classes: int, *, ignore_index: int = 255, scope: str = "image", seed: int = 0
) -> Tensor:
    """:func:`class_mask` of :func:`draw_classes` with the same arguments, without a visit to the host."""
    return _core.draw_class_mask(label_b1hw, int(num_classes), int(ignore_index), scope, int(seed))


def class_mask(label_b1hw: Tensor, classes_per_image: Sequence[Iterable[int]]) -> Tensor:
    """1 where the label is one of the image's classes, else 0.

    Args:
        label_b1hw: [B, 1, H, W] integers.
        classes_per_image: B lists of class ids.

    Returns:
        [B, 1, H, W] int64 on the label's device.
    """
    return _core.class_mask(label_b1hw, [[int(c) for c in classes] for classes in classes_per_image])


def class_mix(mask_b1hw: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """`source` where the mask is not 0, `target` elsewhere: images, labels and weights mix alike.

    Args:
        mask_b1hw: [B, 1, H, W].
        source, target: of one shape, [B, C, H, W] or [B, H, W]; any dtype, of two the wider one results.

    Returns:
        A new tensor; gradients flow to the parts that were taken.
    """
    return _core.class_mix(mask_b1hw, source, target)


def gaussian_blur(img_bchw: Tensor, sigma: float, kernel_size: int | Sequence[int]) -> Tensor:
    """Gaussian blur with a reflected border (the edge pixel is not repeated), separable inside.

    In float32 on the CPU, outer taps that together weigh less than 1e-8 are left out: the result differs from the full
    kernel's by less than its rounding, and a kernel of 103 taps at sigma 1 becomes one of 13.

    Args:
        img_bchw: [B, C, H, W] floating point; half precision is computed in float32.
        sigma: standard deviation in pixels, positive.
        kernel_size: (height, width), odd, each half less than the image's size.
    """
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    return _core.gaussian_blur(img_bchw, float(sigma), (int(height), int(width)))


def blur_kernel_size(height: int, width: int) -> tuple[int, int]:
    """Kernel (height, width) of the strong augmentation: about a tenth of the image, odd."""
    return _core.blur_kernel_size(int(height), int(width))


def color_jitter(image_bchw: Tensor, draws: Sequence[Jitter]) -> Tensor:
    """Brightness, contrast, saturation and hue, one draw per image, with the arithmetic of kornia 0.5.8.

    Brightness adds ``factor - 1``, contrast multiplies by its factor, both clamp to [0, 1]; saturation multiplies the
    saturation of HSV, hue turns its hue (1 is a full turn).

    Args:
        image_bchw: [B, 3, H, W] RGB in [0, 1].
        draws: B tuples (brightness, contrast, saturation, hue, order); order is a permutation of 0 brightness,
            1 contrast, 2 saturation, 3 hue.
    """
    return _core.color_jitter(image_bchw, [_jitter(draw) for draw in draws])


def draw_augment(
    batch: int,
    *,
    seed: int = 0,
    jitter_strength: float = 0.2,
    jitter_probability: float = 0.8,
    blur_probability: float = 0.5,
) -> list[Draw]:
    """Random amounts for :func:`strong_augment`. Whether to jitter or blur is decided for the batch, amounts per image.

    Brightness, contrast and saturation are uniform in 1 -+ strength, hue in -+ strength, sigma in 0.15 to 1.15.
    """
    return _core.draw_augment(int(batch), int(seed), jitter_strength, jitter_probability, blur_probability)


def strong_augment(
    image_bchw: Tensor,
    draws: Sequence[Draw],
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Colour jitter, then Gaussian blur, of normalised images; the kernel is that of :func:`blur_kernel_size`.

    Args:
        image_bchw: [B, C, H, W] normalised by `mean` and `std` (scale 0-255); jitter needs C = 3, RGB.
        draws: one per image (:func:`draw_augment`).

    Returns:
        A new normalised tensor; images without jitter and blur are unchanged.
    """
    plain = [(None if jitter is None else _jitter(jitter), sigma) for jitter, sigma in draws]
    return _core.strong_augment(image_bchw, plain, [float(m) for m in mean], [float(s) for s in std])


def _jitter(draw: Jitter) -> tuple[float, float, float, float, list[int]]:
    brightness, contrast, saturation, hue, order = draw
    return float(brightness), float(contrast), float(saturation), float(hue), [int(step) for step in order]


def mask_grid(height: int, width: int, block: int) -> tuple[int, int]:
    """Rows and columns of the grid of :func:`block_mask`: size over block size, halves to even, at least 1."""
    return _core.mask_grid(int(height), int(width), int(block))


def block_mask(uniform: Tensor, ratio: float, height: int, width: int) -> Tensor:
    """Block mask of masked image consistency: 1 where ``uniform > ratio``, spread over the image by nearest neighbour.

    Args:
        uniform: [B, 1, rows, columns] draws in [0, 1), the grid of :func:`mask_grid`.
        ratio: expected share of hidden pixels.

    Returns:
        [B, 1, height, width] of 0 and 1 in the dtype of `uniform`; multiply the image by it.
    """
    return _core.block_mask(uniform, float(ratio), int(height), int(width))
