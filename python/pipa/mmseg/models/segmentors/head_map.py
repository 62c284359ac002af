"""The map that a decode head classifies: the input of its last convolution, before the dropout.

Embeddings (``projection_layers="head"``) and prototypes (``prototype_layer="head"``) can be of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

HEAD = "head"


def check_head_map(model: Any, head: Any, compiled: bool, setting: str) -> None:
    """Refuse what "head" cannot be honoured with.

    Args:
        head: the model's main decode head. setting: what is "head", for the message.

    Raises:
        ValueError: the segmentor has passes or the decode head a classifier of its own, or they run compiled.
    """
    asked, name = f"{setting}: {HEAD!r}", type(model).__name__
    if hasattr(model, "segmentor_outputs"):
        raise ValueError(f"{asked} expects a plain EncoderDecoder, got {name}, which fuses scales in its head")
    if compiled:
        raise ValueError(f"{asked} expects compile=False, because a compiled head does not show its inner maps")
    if not isinstance(getattr(head, "conv_seg", None), nn.Module):
        kind = type(head).__name__
        raise ValueError(f"{asked} expects a decode head that classifies by conv_seg, got {kind}, which has none")


@contextmanager
def classifying(head: Any) -> Iterator[Callable[[], Tensor]]:
    """Watches ``head.conv_seg`` while the head runs; what it gives returns the map (B, D, h, w) that it read last.

    The function raises TypeError if there is none: the head has a conv_seg and does not use it so.
    """
    seen: list[Tensor] = []
    dropped: dict[str, Tensor] = {}

    def before_dropout(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        dropped.update(before=inputs[0], after=output)

    def before_classifier(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = [dropped["before"] if dropped.get("after") is inputs[0] else inputs[0]]

    def last() -> Tensor:
        if not seen or seen[0].dim() != 4:
            got = f"one of size {tuple(seen[0].shape)}" if seen else "none"
            kind = type(head).__name__
            raise TypeError(f"{HEAD!r} expects a map (B, D, h, w) to pass conv_seg of {kind}, got {got}")
        return seen[0]

    handles = [head.conv_seg.register_forward_pre_hook(before_classifier)]
    if isinstance(getattr(head, "dropout", None), nn.Module):
        handles.append(head.dropout.register_forward_hook(before_dropout))
    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()
