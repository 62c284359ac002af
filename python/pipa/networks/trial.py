"""What a pass over a blank image tells of a network: the channels of its encoder maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipa.networks.base import Networks
from pipa.networks.projection import ProjectionHead

# Smallest first: what a network refuses (no multiple of its patch, less than its window) it may take larger.
SIZES = ((64, 64), (128, 128), (224, 224))


def feature_channels(networks: Networks, module: nn.Module) -> list[int]:
    """Channels of the maps that ``networks.features(module, image)`` gives.

    The module's weights, statistics and modes stay as they are.

    Raises:
        ValueError: the network takes no blank image, or gives no maps.
    """
    maps = trial_maps(networks, module)
    if not maps:
        raise ValueError(
            "the pixel and patch terms need backbone features: return (logits, features) from forward, name the layer "
            "with features=, or set pixel_weight=0 and patch_weight=0"
        )
    return [int(m.shape[1]) for m in maps]


def trial_maps(networks: Networks, module: nn.Module) -> list[Tensor]:
    """Encoder maps of a blank image, without gradient and in evaluation mode."""
    like = next(module.parameters(), torch.empty(0))
    failed: Exception | None = None
    for size in SIZES:
        image = torch.zeros(1, 3, *size, device=like.device, dtype=like.dtype)
        try:
            with torch.no_grad(), evaluating(module):
                return list(networks.features(module, image))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            failed = failed or error
    raise ValueError(
        f"cannot find the feature channels with a trial pass on a {SIZES[0][0]} x {SIZES[0][1]} image ({failed}); pass "
        "feature_channels="
    ) from failed


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode; afterwards each of its modules is in the mode it was in."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def projection_heads(channels: int, dims: dict[str, int], hidden: int | None, like: nn.Module) -> nn.ModuleDict:
    """``pixel_head`` and ``patch_head``, those that ``dims`` names, on the device and of the dtype of ``like``."""
    parameter = next(like.parameters(), torch.empty(0))
    heads = nn.ModuleDict({f"{name}_head": ProjectionHead(channels, dim, hidden) for name, dim in dims.items()})
    return heads.to(parameter.device, parameter.dtype)
