"""Networks of transformers: SegFormer, UPerNet, BEiT, Data2Vec, DPT, MobileViT, MobileNet and their kin."""

from __future__ import annotations

from pipa.networks.plain import PlainNetworks


class TransformersNetworks(PlainNetworks):
    """``PreTrainedModel`` networks. The encoder is their base model ("segformer", "beit", ...) or their backbone.

    Of the hidden states of a convolutional encoder the last one of each size counts, of those of a vision transformer
    the ones that its config names as ``out_indices``, else the last.
    """
