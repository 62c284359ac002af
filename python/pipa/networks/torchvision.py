"""Segmentation networks of torchvision: FCN, DeepLabV3, LRASPP."""

from __future__ import annotations

from torch import nn

from pipa.networks.plain import PlainNetworks


class TorchvisionNetworks(PlainNetworks):
    """``fcn_*``, ``deeplabv3_*``, ``lraspp_*``; the output "aux" is supervised too, half as much as "out", as in
    torchvision's own training."""

    auxiliary_weight = 0.5

    def encoder(self, module: nn.Module) -> list[str]:
        return ["backbone"] if hasattr(module, "backbone") else super().encoder(module)
