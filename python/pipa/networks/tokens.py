"""Hiding patch embeddings of a transformer from itself: masked consistency in token space.

An encoder that can do so has an attribute ``hidden_tokens``: None, or (B, 1, H, W) of the image, true where hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

ATTRIBUTE = "hidden_tokens"


def token_encoders(module: nn.Module) -> list[Any]:
    """The encoders inside ``module`` that can hide tokens."""
    return [layer for layer in module.modules() if hasattr(layer, ATTRIBUTE)]


@contextmanager
def hiding_tokens(module: nn.Module, hidden_b1hw: Tensor | None) -> Iterator[None]:
    """Inside, the transformers of ``module`` see their mask token where the image is hidden.

    Args:
        hidden_b1hw: (B, 1, H, W) of the image, true where hidden; None: nothing.

    Raises:
        ValueError: no encoder of ``module`` can hide tokens.
    """
    encoders = token_encoders(module)
    if not encoders and hidden_b1hw is not None:
        raise ValueError(
            f"mask_kind='tokens' needs a transformer with an attribute {ATTRIBUTE} (ViTPyramid), which "
            f"{type(module).__name__} has not; set mask_kind='pixels'"
        )
    before = [getattr(encoder, ATTRIBUTE) for encoder in encoders]
    for encoder in encoders:
        setattr(encoder, ATTRIBUTE, hidden_b1hw)
    try:
        yield
    finally:
        for encoder, value in zip(encoders, before, strict=True):
            setattr(encoder, ATTRIBUTE, value)


def hidden_now(module: nn.Module) -> Tensor | None:
    """What is hidden from the transformers of ``module`` at the moment."""
    found = [getattr(encoder, ATTRIBUTE) for encoder in token_encoders(module)]
    return found[0] if found else None
