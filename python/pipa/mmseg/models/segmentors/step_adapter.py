"""mmsegmentation segmentors as the step's networks: plain ``EncoderDecoder`` models and HRDA.

Shape suffixes: B batch, C classes, D channels, H W size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.models.utils import resize
from torch import Tensor, nn

from pipa.mmseg.models.segmentors.head_map import check_head_map, classifying
from pipa.mmseg.models.segmentors.own_losses import (
    Part,
    check_head,
    is_plain,
    main_map,
    main_weight,
    own_loss,
    plain_weight,
)
from pipa.networks import Head, Networks, Outputs, OwnOutputs, Region
from pipa.networks.trial import trial

FINEST_STRIDE = 4
# Encoders that return more maps in training, and which of them is the one that predicts.
PREDICTING = {"DDRNet": 1, "PIDNet": 1}


class SegmentorNetworks(Networks):
    """``EncoderDecoder`` models of mmsegmentation and ours (HRDA has a detail crop of its own).

    Where a head's loss is more than the plain cross entropy of one map, the source term is the sum of the model's own
    losses; all other terms are cross entropies of the main map.

    Args:
        finest_stride: encoder maps finer than this are left out, where there are coarser ones.

    Attributes:
        samples: the ``SegDataSample`` of the source images at hand, for losses that need more than the label; set by
            the hook.
    """

    def __init__(self, *args: Any, finest_stride: int = FINEST_STRIDE, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.finest_stride = finest_stride
        self.samples: Sequence[Any] | None = None

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        return segmentor_outputs(module, image, self.samples, self.finest_stride)

    def student_tokens(self, image: Tensor, kept: Tensor) -> Outputs:
        if hasattr(self._student, "segmentor_outputs"):
            raise ValueError(
                f"mask_kind='tokens': {type(self._student).__name__} passes parts of the image at several scales, of "
                "which a mask has no tokens; set mask_kind='pixels'"
            )
        return super().student_tokens(image, kept)

    def features(self, module: nn.Module, image: Tensor) -> Sequence[Tensor]:
        return backbone_features(module, image, self.finest_stride)

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        return teacher_logits(module, image)

    def classified(self, module: Any) -> AbstractContextManager[Callable[[], Tensor]]:
        head = main_head(module)
        check_head_map(module, head, compiled=False, setting="prototype_layer")
        return classifying(head)


def core_model(runner: Runner) -> Any:
    """The segmentor inside a distributed wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def main_head(core: Any) -> Any:
    """The decode head whose predictions count (the last one of a cascade)."""
    head = core.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def segmentor_channels(core: nn.Module) -> list[int]:
    """Channels of the maps that :func:`backbone_features` gives."""
    return trial(SegmentorNetworks(core, core, None, None, None), core).channels


def crop(map_bhw: Tensor, region: Region | None) -> Tensor:
    """``map[..., top:bottom, left:right]``; the map itself where region is None."""
    if region is None:
        return map_bhw
    top, left, bottom, right = region
    return map_bhw[..., top:bottom, left:right]


def segmentor_outputs(
    model: Any, image_bchw: Tensor, samples: Sequence[Any] | None = None, finest_stride: int = FINEST_STRIDE
) -> Outputs:
    """Runs a segmentor for training and returns what the losses need, on the graph.

    ``model`` is an mmsegmentation ``EncoderDecoder``, ``CascadeEncoderDecoder`` or ``HRDAEncoderDecoder``. Auxiliary
    heads and stages of a cascade come after the main head, each with the weight of its configured loss. If one of them
    has another loss than the plain cross entropy, the main map is the only head, and the model's own loss comes along.
    Raises TypeError for heads that do not give a map of logits (point or mask based heads).
    """
    custom = getattr(model, "segmentor_outputs", None)
    if custom is not None:
        return custom(image_bchw)
    _check_encoder_decoder(model)
    maps = encode(model, image_bchw, finest_stride)
    parts = decode(model, maps.head)
    size = (image_bchw.shape[2], image_bchw.shape[3])
    if all(is_plain(part.head) and isinstance(part.output, Tensor) for part in parts):
        heads = [Head(_aligned(part, size), None, plain_weight(part.head)) for part in parts]
        return Outputs(heads, maps.backbone)
    main = Head(_aligned(parts[0], size), None, main_weight(parts[0].head))
    return OwnOutputs([main], maps.backbone, own_loss=partial(own_loss, model, parts, samples))


def teacher_logits(model: Any, image_bchw: Tensor) -> Tensor:
    """Logits ``(B, C, H, W)`` of the whole image in one pass; HRDA slides over its detail branch."""
    custom = getattr(model, "full_logits", None)
    if custom is not None:
        return custom(image_bchw)
    _check_encoder_decoder(model)
    logits = main_map(decode(model, encode(model, image_bchw).head, auxiliary=False)[0])
    return resize(logits, image_bchw.shape[2:], mode="bilinear", align_corners=model.align_corners)


def backbone_features(model: Any, image_bchw: Tensor, finest_stride: int = FINEST_STRIDE) -> list[Tensor]:
    """Encoder maps of the image, finest first; HRDA gives those of its feature scale (0.5: half the image's size)."""
    custom = getattr(model, "backbone_features", None)
    if custom is not None:
        return custom(image_bchw)
    return encoder_maps(model.backbone, model.backbone(image_bchw), image_bchw, finest_stride)


class Maps(NamedTuple):
    """Encoder maps, and what the decode head gets: all that the encoder returned, or what the neck makes of it."""

    backbone: list[Tensor]
    head: Any


def encode(model: Any, image_bchw: Tensor, finest_stride: int = FINEST_STRIDE) -> Maps:
    """Runs encoder and neck. The losses on features use the encoder's maps: a neck has no ImageNet weights."""
    returned = model.backbone(image_bchw)
    given = model.neck(returned) if model.with_neck else returned
    maps = encoder_maps(model.backbone, returned, image_bchw, finest_stride)
    return Maps(maps, list(given) if isinstance(given, (list, tuple)) else given)


def encoder_maps(backbone: nn.Module, returned: Any, image_bchw: Tensor, finest_stride: int) -> list[Tensor]:
    """The maps (B, D, h, w) among what an encoder returned, finest first, the same in training and evaluation."""
    items = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    place = next((PREDICTING[kind.__name__] for kind in type(backbone).__mro__ if kind.__name__ in PREDICTING), None)
    if place is not None and len(items) > 1:
        items = items[place : place + 1]
    # Vision transformers may return [map, class token].
    firsts = [item[0] if isinstance(item, (list, tuple)) else item for item in items]
    maps = [item for item in firsts if isinstance(item, Tensor) and item.dim() == 4]
    maps = sorted(maps, key=lambda m: -m.shape[2])
    coarse = [m for m in maps if image_bchw.shape[2] / m.shape[2] > finest_stride - 1 or m.shape[2] == 1]
    return coarse or maps[-1:]


def _aligned(part: Part, size: tuple[int, int]) -> Tensor:
    """The main map; at the image's size where the head resizes with aligned corners, which the loss does not."""
    logits = main_map(part)
    if not getattr(part.head, "align_corners", False):
        return logits
    return resize(logits, size, mode="bilinear", align_corners=True)


def _check_encoder_decoder(model: nn.Module) -> None:
    missing = [name for name in ("backbone", "decode_head", "align_corners", "with_neck") if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"{type(model).__name__} is not an mmsegmentation EncoderDecoder (no {', '.join(missing)}); "
            "wrap it or give it the methods segmentor_outputs and full_logits"
        )


def decode(model: Any, features: Any, auxiliary: bool = True) -> list[Part]:
    """The main head, then, where asked for, all other heads, with what they returned."""
    parts: list[Part] = []
    if isinstance(model.decode_head, nn.ModuleList):
        for i, head in enumerate(model.decode_head):
            parts.insert(0, _run(head, f"decode_{i}", features, *(part.output for part in parts[:1])))
    else:
        parts.append(_run(model.decode_head, "decode", features))
    if auxiliary and getattr(model, "with_auxiliary_head", False):
        heads = model.auxiliary_head
        several = isinstance(heads, nn.ModuleList)
        parts += [
            _run(head, f"aux_{i}" if several else "aux", features)
            for i, head in enumerate(heads if several else [heads])
        ]
    return parts


def _run(head: nn.Module, name: str, *inputs: Any) -> Part:
    check_head(name, head)
    return Part(name, head, head(*inputs))
