"""mmsegmentation segmentors behind the face that the Rust iteration calls."""

from __future__ import annotations

from torch import Tensor, nn

from pipa.mmseg.models.segmentors.outputs import backbone_features, segmentor_outputs, teacher_logits
from pipa.networks import Networks, Outputs


class SegmentorNetworks(Networks):
    """``EncoderDecoder`` models of mmsegmentation and ours (HRDA has a detail crop of its own)."""

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        out = segmentor_outputs(module, image)
        detail = None
        if out.detail_features is not None and out.detail_region is not None:
            detail = (out.detail_features, out.detail_region)
        return [(head.logits, head.region, head.weight) for head in out.heads], out.features, detail

    def features(self, module: nn.Module, image: Tensor) -> list[Tensor]:
        return backbone_features(module, image)

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        return teacher_logits(module, image)
