"""Networks of segmentation_models_pytorch."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipa.networks.plain import PlainNetworks


class SmpNetworks(PlainNetworks):
    """``SegmentationModel`` networks: Unet, FPN, DeepLabV3Plus, Segformer, DPT and the others.

    Their encoders return the image first, and MiT and timm encoders an empty map; both are left out. DPT's returns the
    prefix tokens beside the maps.
    """

    def encoder(self, module: nn.Module) -> list[str]:
        return ["encoder"] if hasattr(module, "encoder") else super().encoder(module)

    def select(self, layer: nn.Module, value: Any) -> Any:
        beside_tokens = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], (list, tuple))
        return value[0] if beside_tokens else value
