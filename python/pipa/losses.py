"""The two contrastive terms of PiPa as modules. Shape suffixes: B batch, D channels, H W size, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pipa import _core
from pipa import functional as F
from pipa.functional import Box
from pipa.settings import Sampling


class PixelContrastLoss(nn.Module):
    """L_pixel: pixels of one class attract each other, all other pixels repel.

    Args:
        temperature: tau.
        sampling: ``"balanced"``: a class-balanced random sample is anchors and keys. ``"all"``: every pixel that is not
            ignored, exactly; memory grows with the number of pixels, not with its square.
        max_anchors, max_per_class: size of the balanced sample; all classes get the same share.
        ignore_index: label without influence.
        seed: of the sample; None takes it from torch's generator (``torch.manual_seed``).
        memory_bank: features per class to keep from earlier iterations as further keys without gradient; 0: none.
        num_classes: needed by the memory bank, which has a fixed size.
        min_pixels: classes with fewer pixels in the batch are not sampled (released code: 101).

    The generator and the bank are part of ``state_dict``, so that a resumed run goes on exactly. Inside an activation
    checkpoint, whose second pass would draw another sample and fill the bank twice, only ``"all"`` without a bank gives
    the gradient of its value.

    >>> import torch
    >>> from pipa import PixelContrastLoss
    >>> embedding = torch.randn(2, 64, 32, 32, requires_grad=True)  # [B, D, H, W]
    >>> label = torch.randint(0, 19, (2, 128, 128))                 # of any size
    >>> loss = PixelContrastLoss(seed=0)(embedding, label)
    >>> loss.backward()
    >>> loss.shape, embedding.grad.shape
    (torch.Size([]), torch.Size([2, 64, 32, 32]))
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sampling: Sampling = "balanced",
        max_anchors: int = 1024,
        max_per_class: int = 100,
        ignore_index: int = 255,
        seed: int | None = None,
        memory_bank: int = 0,
        num_classes: int | None = None,
        min_pixels: int = 2,
    ) -> None:
        super().__init__()
        if sampling not in get_args(Sampling):
            raise ValueError(f'sampling: expected "balanced" or "all", got {sampling!r}')
        if memory_bank < 0:
            raise ValueError(f"memory_bank: expected 0 or the features to keep per class, got {memory_bank}")
        if memory_bank > 0 and num_classes is None:
            raise ValueError("num_classes: the memory bank has a fixed size and needs the number of classes")
        self.temperature = temperature
        self.sampling = sampling
        self.max_anchors = max_anchors
        self.max_per_class = max_per_class
        self.ignore_index = ignore_index
        self.memory_bank = memory_bank
        self.num_classes = num_classes
        self.min_pixels = min_pixels
        if seed is None:
            seed = int(torch.randint(2**62, ()).item())
        self._rng: list[int] = list(_core.rng_state(seed, 0))
        self._bank: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, embedding_bdhw: Tensor, label_bhw: Tensor, prediction_bhw: Tensor | None = None) -> Tensor:
        """Loss of one batch.

        Args:
            embedding_bdhw: [B, D, H, W], any length per pixel.
            label_bhw: class ids of any size, nearest-resized to H x W.
            prediction_bhw: predicted class ids of any size; half of each class's sample are wrongly predicted pixels.

        Returns:
            Scalar; a zero that keeps the graph when no pixel has a partner. First-order gradients.

        Raises:
            ShapeError, DTypeError, DeviceError, ValueError: the message names the argument.
        """
        if self.memory_bank > 0 and self.num_classes is not None and self._bank is None:
            self._bank = _core.memory_bank(self.num_classes, self.memory_bank, embedding_bdhw)
        if self._bank is not None and self._bank[0].device != embedding_bdhw.device:
            feat, label, position = self._bank
            self._bank = tuple(t.to(embedding_bdhw.device) for t in (feat, label, position))  # type: ignore[assignment]
        settings = {
            "temperature": self.temperature,
            "sampling": self.sampling,
            "max_anchors": self.max_anchors,
            "max_per_class": self.max_per_class,
            "min_pixels": self.min_pixels,
            "ignore_index": self.ignore_index,
        }
        loss, self._rng = _core.pixel_contrast_map(
            embedding_bdhw, label_bhw, prediction_bhw, settings, self._rng, self._bank
        )
        return loss

    def get_extra_state(self) -> dict[str, Any]:
        """Generator (four integers) and memory bank (three tensors, or None before the first batch)."""
        return {"rng": list(self._rng), "bank": None if self._bank is None else [t.clone() for t in self._bank]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        bank = kept_bank(state["bank"], self.memory_bank, "memory_bank")
        self._rng = [int(word) for word in state["rng"]]
        self._bank = None if bank is None else (bank[0].clone(), bank[1].clone(), bank[2].clone())

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, sampling={self.sampling!r}, max_anchors={self.max_anchors}, "
            f"max_per_class={self.max_per_class}, ignore_index={self.ignore_index}, memory_bank={self.memory_bank}"
        )


def kept_bank(bank: Sequence[Tensor] | None, capacity: int, setting: str) -> Sequence[Tensor] | None:
    """The memory bank of a state, features, labels and positions, if the setting asks for one.

    Args:
        capacity: features per class; 0 for no bank. setting: its name, for the message.

    Raises:
        ValueError: the state has another capacity.
    """
    if bank is None or capacity == 0:
        return None
    held = len(bank[1]) // len(bank[2])
    if held != capacity:
        raise ValueError(f"{setting}: expected {held}, the features per class of the state, got {capacity}")
    return bank


class PatchContrastLoss(nn.Module):
    """L_patch: the same scene position in two overlapping patches attracts, all other features of both repel.

    >>> import torch
    >>> from pipa import PatchContrastLoss
    >>> scene = torch.randn(1, 16, 12, 12)
    >>> first, second = scene[..., :8, :8], scene[..., 4:, 4:]  # the same features where they overlap
    >>> same = PatchContrastLoss()(first, second, (4, 4, 8, 8), (0, 0, 4, 4))
    >>> moved = PatchContrastLoss()(first, second, (4, 4, 8, 8), (4, 4, 8, 8))
    >>> bool(same < moved)
    True
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self,
        patch1_bdhw: Tensor,
        patch2_bdhw: Tensor,
        overlap1: Box,
        overlap2: Box,
        flip1: bool = False,
        flip2: bool = False,
        labels: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """See :func:`pipa.functional.patch_contrast`."""
        return F.patch_contrast(
            patch1_bdhw, patch2_bdhw, overlap1, overlap2, flip1, flip2, labels, temperature=self.temperature
        )

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"
