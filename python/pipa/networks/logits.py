"""What networks of all libraries return, read as supervised heads and, where the network gives them, feature maps.

Shape suffixes: B batch, C classes, h w size of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from pipa.networks.base import Head
from pipa.networks.maps import described

MAIN = ("logits", "out")


def split_output(
    output: Any, num_classes: int | None, auxiliary_weight: float | Sequence[float]
) -> tuple[list[Head], Any]:
    """Supervised heads, the main one first, and the feature maps that the network itself returned (or None).

    Understood: logits; ``(logits, features)``; several maps of logits (deep supervision), the main one first; a
    dictionary or ModelOutput with ``logits`` or ``out``, maybe ``aux...`` maps of logits, maybe ``features``. What has
    as many channels as there are classes is a map of logits; vectors, such as image classes, are left out.

    Raises:
        TypeError: anything else, and outputs of mask classification; the message says what came.
    """
    if isinstance(output, Tensor):
        return _heads([output], auxiliary_weight), None
    if isinstance(output, Mapping):
        if "class_queries_logits" in output or "pred_masks" in output:
            raise TypeError(
                "the network classifies masks (Mask2Former, MaskFormer, OneFormer, EoMT), which its own matching "
                "trains and no cross entropy of pixels; choose a network with one map of logits"
            )
        main = next((output[key] for key in MAIN if isinstance(output.get(key), Tensor)), None)
        if main is not None:
            more = [v for k, v in output.items() if k.startswith("aux") for v in _maps(v) if _classes(v, num_classes)]
            return _heads([main, *more], auxiliary_weight), output.get("features")
    elif isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor) and output[0].dim() == 4:
        main, *rest = output
        more = [item for item in rest if isinstance(item, Tensor) and _classes(item, num_classes)]
        others = [item for item in rest if not (isinstance(item, Tensor) and (item.dim() < 3 or _among(item, more)))]
        if len(others) < 2:
            return _heads([main, *more], auxiliary_weight), others[0] if others else None
    raise TypeError(
        "the network must return logits (B, C, h, w), (logits, features), a list of logits or a dict with 'logits' and "
        f"'features', got {described(output)}"
    )


def resized(heads: Sequence[Head], size: tuple[int, int]) -> list[Head]:
    """Logits at the image's size, by the interpolation with aligned corners that the loss does not know."""
    return [
        head._replace(logits=functional.interpolate(head.logits, size, mode="bilinear", align_corners=True))
        for head in heads
    ]


def _heads(maps: list[Tensor], weight: float | Sequence[float]) -> list[Head]:
    several = [weight] * (len(maps) - 1) if isinstance(weight, (int, float)) else list(weight)
    if len(several) != len(maps) - 1:
        raise ValueError(f"auxiliary_weight: expected {len(maps) - 1} weights, one for each map, got {len(several)}")
    heads = [Head(maps[0])]
    # An auxiliary output that weighs nothing costs nothing.
    return heads + [Head(logits, None, float(w)) for logits, w in zip(maps[1:], several, strict=True) if w > 0]


def _maps(value: Any) -> list[Tensor]:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if isinstance(item, Tensor)]


def _classes(map_bchw: Tensor, num_classes: int | None) -> bool:
    return map_bchw.dim() == 4 and (num_classes is None or map_bchw.shape[1] == num_classes)


def _among(item: Tensor, tensors: list[Tensor]) -> bool:
    return any(item is other for other in tensors)
