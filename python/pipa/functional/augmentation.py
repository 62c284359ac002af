"""Colour jitter, blur and block masks of the mixed image, and the recorded form of their random amounts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor

from pipa import _core
from pipa.functional.numbers import whole

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Jitter(TypedDict):
    """Colour jitter of one image.

    >>> from pipa.functional import Jitter
    >>> Jitter(brightness=1.1, contrast=0.9, saturation=1.0, hue=0.02, order=[0, 1, 2, 3])["hue"]
    0.02
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: Sequence[int]
    """A permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue."""


class Augment(TypedDict):
    """Jitter and blur of one image; None: not applied. The same form as in ``PipaStep(...)(..., draws=...)``.

    >>> from pipa.functional import Augment
    >>> Augment(jitter=None, sigma=0.8)  # blur alone
    {'jitter': None, 'sigma': 0.8}
    """

    jitter: Jitter | None
    sigma: float | None
    """Standard deviation of the blur in pixels."""


def gaussian_blur(img_bchw: Tensor, sigma: float, kernel_size: int | Sequence[int]) -> Tensor:
    """Gaussian blur with a reflected border (the edge pixel is not repeated), separable inside.

    In float32 on the CPU, outer taps that together weigh less than 1e-8 are left out: the result differs from the full
    kernel's by less than its rounding, and a kernel of 103 taps at sigma 1 becomes one of 13.

    Args:
        img_bchw: [B, C, H, W] floating point; half precision is computed in float32.
        sigma: standard deviation in pixels, positive.
        kernel_size: (height, width), odd, each half less than the image's size.

    >>> import torch
    >>> from pipa import functional as F
    >>> point = torch.zeros(1, 1, 5, 5)
    >>> point[..., 2, 2] = 1
    >>> F.gaussian_blur(point, sigma=0.5, kernel_size=3)[0, 0, 2].round(decimals=3)
    tensor([0.0000, 0.0840, 0.6190, 0.0840, 0.0000])
    """
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    return _core.gaussian_blur(img_bchw, float(sigma), (whole(height, "height"), whole(width, "width")))


def blur_kernel_size(height: int, width: int) -> tuple[int, int]:
    """Kernel (height, width) of the strong augmentation: about a tenth of the image, odd.

    >>> from pipa import functional as F
    >>> F.blur_kernel_size(512, 1024)
    (51, 103)
    """
    return _core.blur_kernel_size(whole(height, "height"), whole(width, "width"))


def color_jitter(image_bchw: Tensor, draws: Sequence[Jitter]) -> Tensor:
    """Brightness, contrast, saturation and hue, one draw per image, with the arithmetic of kornia 0.5.8.

    Brightness adds ``factor - 1``, contrast multiplies by its factor, both clamp to [0, 1]; saturation multiplies the
    saturation of HSV, hue turns its hue (1 is a full turn).

    Args:
        image_bchw: [B, 3, H, W] RGB in [0, 1].
        draws: one per image.

    >>> import torch
    >>> from pipa import functional as F
    >>> brighter = F.Jitter(brightness=1.25, contrast=1.0, saturation=1.0, hue=0.0, order=[0, 1, 2, 3])
    >>> F.color_jitter(torch.full((1, 3, 1, 1), 0.5), [brighter]).flatten()
    tensor([0.7500, 0.7500, 0.7500])
    """
    return _core.color_jitter(image_bchw, [_jitter(draw) for draw in draws])


def draw_augment(
    batch: int,
    *,
    seed: int = 0,
    jitter_strength: float = 0.2,
    jitter_probability: float = 0.8,
    blur_probability: float = 0.5,
) -> list[Augment]:
    """Random amounts for :func:`strong_augment`. Whether to jitter or blur is decided for the batch, amounts per image.

    Brightness, contrast and saturation are uniform in 1 -+ strength, hue in -+ strength, sigma in 0.15 to 1.15.

    >>> from pipa import functional as F
    >>> one, two = F.draw_augment(2, seed=3, jitter_probability=1.0, blur_probability=0.0)
    >>> jitter = one["jitter"]
    >>> (sorted(jitter["order"]), one["sigma"], one == two)
    ([0, 1, 2, 3], None, False)
    """
    drawn = _core.draw_augment(
        whole(batch, "batch"), whole(seed, "seed"), jitter_strength, jitter_probability, blur_probability
    )
    return [{"jitter": jitter and _named(jitter), "sigma": sigma} for jitter, sigma in drawn]


def strong_augment(
    image_bchw: Tensor,
    draws: Sequence[Augment],
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

    >>> import torch
    >>> from pipa import functional as F
    >>> image = torch.randn(2, 3, 32, 32)  # normalised
    >>> nothing = F.Augment(jitter=None, sigma=None)
    >>> changed = F.strong_augment(image, [nothing, F.Augment(jitter=None, sigma=1.0)])
    >>> (torch.equal(changed[0], image[0]), bool(changed[1].std() < image[1].std()))
    (True, True)
    """
    return _core.strong_augment(
        image_bchw, [_augment(draw) for draw in draws], [float(m) for m in mean], [float(s) for s in std]
    )


_Plain = tuple[float, float, float, float, list[int]]


def _named(plain: Sequence[Any]) -> Jitter:
    brightness, contrast, saturation, hue, order = plain
    return {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue, "order": order}


def _jitter(draw: Jitter | Sequence[Any]) -> _Plain:
    if not isinstance(draw, Mapping):
        _tuples_are_old()
        draw = _named(draw)
    return (
        float(draw["brightness"]),
        float(draw["contrast"]),
        float(draw["saturation"]),
        float(draw["hue"]),
        [int(step) for step in draw["order"]],
    )


def _augment(draw: Augment | Sequence[Any]) -> tuple[_Plain | None, float | None]:
    if not isinstance(draw, Mapping):
        _tuples_are_old()
        draw = {"jitter": draw[0], "sigma": draw[1]}
    jitter = draw["jitter"]
    return None if jitter is None else _jitter(jitter), draw["sigma"]


def _tuples_are_old() -> None:
    warnings.warn(
        "recorded jitter and blur are dicts, pipa.functional.Jitter and Augment; tuples will be refused in 0.3",
        DeprecationWarning,
        stacklevel=4,
    )


def mask_grid(height: int, width: int, block: int) -> tuple[int, int]:
    """Rows and columns of the grid of :func:`block_mask`: size over block size, halves to even, at least 1.

    >>> from pipa import functional as F
    >>> F.mask_grid(512, 1024, block=64)
    (8, 16)
    """
    return _core.mask_grid(whole(height, "height"), whole(width, "width"), whole(block, "block"))


def block_mask(uniform: Tensor, ratio: float, height: int, width: int) -> Tensor:
    """Block mask of masked image consistency: 1 where ``uniform > ratio``, spread over the image by nearest neighbour.

    Args:
        uniform: [B, 1, rows, columns] draws in [0, 1), the grid of :func:`mask_grid`.
        ratio: expected share of hidden pixels.

    Returns:
        [B, 1, height, width] of 0 and 1 in the dtype of `uniform`; multiply the image by it.

    >>> import torch
    >>> from pipa import functional as F
    >>> uniform = torch.tensor([[[[0.1, 0.9]]]])
    >>> F.block_mask(uniform, ratio=0.7, height=2, width=4)
    tensor([[[[0., 0., 1., 1.],
              [0., 0., 1., 1.]]]])
    """
    return _core.block_mask(uniform, float(ratio), whole(height, "height"), whole(width, "width"))
