"""mmsegmentation segmentors as the step's networks: plain ``EncoderDecoder`` models and HRDA.

Shape suffixes: B batch, C classes, D channels, H W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.utils import resize
from torch import Tensor, nn

from pipa.networks import Head, Networks, Outputs, Region
from pipa.networks.trial import projection_heads, trial


class SegmentorNetworks(Networks):
    """``EncoderDecoder`` models of mmsegmentation and ours (HRDA has a detail crop of its own)."""

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        return segmentor_outputs(module, image)

    def student_tokens(self, image: Tensor, kept: Tensor) -> Outputs:
        if hasattr(self._student, "segmentor_outputs"):
            raise ValueError(
                f"mask_kind='tokens': {type(self._student).__name__} passes parts of the image at several scales, of "
                "which a mask has no tokens; set mask_kind='pixels'"
            )
        return super().student_tokens(image, kept)

    def features(self, module: nn.Module, image: Tensor) -> Sequence[Tensor]:
        return backbone_features(module, image)

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        return teacher_logits(module, image)


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


def build_heads(core: nn.Module, terms: dict[str, bool], dims: dict[str, Any]) -> nn.ModuleDict:
    """Projection heads of the terms that are on, with the channels of the model's own feature maps."""
    channels = segmentor_channels(core)
    wanted = {name: dims[f"{name}_dim"] for name, on in terms.items() if on}
    return projection_heads(sum(channels), wanted, dims["projection_hidden"], core)


def crop(map_bhw: Tensor, region: Region | None) -> Tensor:
    """``map[..., top:bottom, left:right]``; the map itself where region is None."""
    if region is None:
        return map_bhw
    top, left, bottom, right = region
    return map_bhw[..., top:bottom, left:right]


def segmentor_outputs(model: Any, image_bchw: Tensor) -> Outputs:
    """Runs a segmentor for training and returns what the losses need, on the graph.

    ``model`` is an mmsegmentation ``EncoderDecoder``, ``CascadeEncoderDecoder`` or ``HRDAEncoderDecoder``. Auxiliary
    heads and stages of a cascade come after the main head, each with the weight of its configured loss.
    Raises ValueError for heads whose configured loss is not a plain cross-entropy (the step could not honour it) and
    TypeError for heads that do not give one map of logits (point or query based heads).
    """
    custom = getattr(model, "segmentor_outputs", None)
    if custom is not None:
        return custom(image_bchw)
    _check_encoder_decoder(model)
    maps = encode(model, image_bchw)
    heads = [Head(logits, None, weight) for _, logits, weight in _decode(model, maps.head)]
    return Outputs(heads, maps.backbone)


def teacher_logits(model: Any, image_bchw: Tensor) -> Tensor:
    """Logits ``(B, C, H, W)`` of the whole image in one pass; HRDA slides over its detail branch."""
    custom = getattr(model, "full_logits", None)
    if custom is not None:
        return custom(image_bchw)
    _check_encoder_decoder(model)
    _, logits, _ = _decode(model, encode(model, image_bchw).head, auxiliary=False)[0]
    return resize(logits, image_bchw.shape[2:], mode="bilinear", align_corners=model.align_corners)


def backbone_features(model: Any, image_bchw: Tensor) -> list[Tensor]:
    """Encoder maps of the image, finest first; HRDA gives those of its feature scale (0.5: half the image's size)."""
    custom = getattr(model, "backbone_features", None)
    return encode(model, image_bchw).backbone if custom is None else custom(image_bchw)


class Maps(NamedTuple):
    """Encoder maps, and what the decode head gets: the same, or what the neck makes of them."""

    backbone: list[Tensor]
    head: list[Tensor]


def encode(model: Any, image_bchw: Tensor) -> Maps:
    """Runs encoder and neck. The losses on features use the encoder's maps: a neck has no ImageNet weights."""
    maps = model.backbone(image_bchw)
    return Maps(list(maps), list(model.neck(maps) if model.with_neck else maps))


def loss_weight(head: Any, name: str) -> float:
    """Weight of a head's configured loss, which must be the plain cross-entropy that the step computes itself."""
    losses: list[Any] = list(head.loss_decode) if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
    for loss in losses:
        plain = isinstance(loss, CrossEntropyLoss) and not loss.use_sigmoid and not loss.use_mask
        if not plain or loss.class_weight is not None:
            raise ValueError(
                f"{name}: the training step computes a plain cross-entropy; loss_decode must be "
                f"dict(type='CrossEntropyLoss') without sigmoid and class weights, got {type(loss).__name__}"
            )
    if getattr(head, "sampler", None) is not None:
        raise ValueError(f"{name}: pixel samplers (OHEM) are not supported, remove `sampler` from the head")
    return float(sum(loss.loss_weight for loss in losses))


def _check_encoder_decoder(model: nn.Module) -> None:
    missing = [name for name in ("backbone", "decode_head", "align_corners", "with_neck") if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"{type(model).__name__} is not an mmsegmentation EncoderDecoder (no {', '.join(missing)}); "
            "wrap it or give it the methods segmentor_outputs and full_logits"
        )


def _decode(model: Any, features: list[Tensor], auxiliary: bool = True) -> list[tuple[str, Tensor, float]]:
    """(name, logits, loss weight) of the main head, then, where asked for, of all other heads."""
    outputs: list[tuple[str, Tensor, float]] = []
    if isinstance(model.decode_head, nn.ModuleList):
        logits: Tensor | None = None
        for i, head in enumerate(model.decode_head):
            name = f"decode_{i}"
            logits = _logits(head, name, *((features,) if logits is None else (features, logits)))
            outputs.insert(0, (name, logits, loss_weight(head, name) if auxiliary else 0.0))
    else:
        head = model.decode_head
        outputs.append(("decode", _logits(head, "decode", features), loss_weight(head, "decode") if auxiliary else 0.0))
    if auxiliary and getattr(model, "with_auxiliary_head", False):
        heads = model.auxiliary_head
        several = isinstance(heads, nn.ModuleList)
        for i, head in enumerate(heads if several else [heads]):
            name = f"aux_{i}" if several else "aux"
            outputs.append((name, _logits(head, name, features), loss_weight(head, name)))
    return outputs


def _logits(head: nn.Module, name: str, *inputs: Any) -> Tensor:
    if type(head).__name__ in ("PointHead", "Mask2FormerHead", "MaskFormerHead"):
        raise TypeError(f"{name}: {type(head).__name__} gives no map of logits, choose a dense decode head")
    logits = head(*inputs)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 4:
        raise TypeError(
            f"{name}: expected {type(head).__name__} to return one tensor of logits (B, C, H, W), "
            f"got {type(logits).__name__}"
        )
    return logits
