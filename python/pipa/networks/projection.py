"""Projection heads of the contrast terms (PiPa, section 3.2); they exist in training only.

Shape suffixes: B batch, D channels, H W size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipa.settings import HOOK_DEFAULTS


class ProjectionHead(nn.Module):
    """1x1 convolution, batch norm, ReLU, 1x1 convolution: encoder features to embeddings.

    The embeddings are not normalised: the losses do that, whatever the norm of their input.

    Args:
        in_channels: channels of the map, or the sum over the maps if :meth:`forward` gets several.
        out_channels: 256 for the pixel contrast, 128 for the patch contrast.
        hidden: channels between the convolutions; ``in_channels`` if None, as in the released code.
        layers: which of several maps to read, as positions from shallow to deep (-1: the deepest); all if None. The
            embedding has the first map's size in any case.

    >>> import torch
    >>> from pipa.networks import ProjectionHead
    >>> head = ProjectionHead(in_channels=24, out_channels=16)
    >>> head([torch.zeros(2, 8, 16, 16), torch.zeros(2, 16, 8, 8)]).shape  # joined at the first map's size
    torch.Size([2, 16, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        hidden: int | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        hidden = in_channels if hidden is None else hidden
        if min(in_channels, out_channels, hidden) < 1:
            raise ValueError(
                f"ProjectionHead: channels must be positive, got in {in_channels}, hidden {hidden}, out {out_channels}"
            )
        self.in_channels = in_channels
        self.layers = None if layers is None else tuple(layers)
        self.project = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, 1),
        )

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """``(B, D, H, W)``, or several maps ``(B, D_i, H_i, W_i)`` with the D_i adding up, to ``(B, out, H, W)``.

        Several maps are brought to the size of the first (the finest) bilinearly and concatenated, those of ``layers``;
        up to rounding, because the convolution comes before the resizing.
        """
        given = [features] if isinstance(features, Tensor) else features
        maps = given if isinstance(features, Tensor) else chosen(given, self.layers)
        if any(m.dim() != 4 for m in maps) or sum(m.shape[1] for m in maps) != self.in_channels:
            got = [tuple(m.shape) for m in maps]
            raise ValueError(
                f"ProjectionHead: expected (B, {self.in_channels}, H, W), got {got[0] if len(got) == 1 else got}"
            )
        convolution = self.project[0]
        assert isinstance(convolution, nn.Conv2d)
        return self.project[1:](convolution_of_joined(convolution, maps, given[0].shape[2:]))


def convolution_of_joined(convolution: nn.Conv2d, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """``convolution(cat of the maps brought to size)`` for a 1x1 convolution, without making the joined map.

    A 1x1 convolution and bilinear resizing commute: each map meets its part of the weight at its own size, and the
    results are resized and added. Most of the products go, and no wide map of the finest size is kept for the gradient.
    """
    total: Tensor | None = None
    parts = convolution.weight.split([m.shape[1] for m in maps], dim=1)
    for x_bdhw, weight in zip(maps, parts, strict=True):
        if x_bdhw.device.type == "cpu":  # resizing there takes a fraction of the time in this order
            x_bdhw = x_bdhw.contiguous(memory_format=torch.channels_last)
        part = resized(F.conv2d(x_bdhw, weight, convolution.bias if total is None else None), size)
        total = part if total is None else total + part
    assert total is not None
    return total


def refuse_beside_heads(heads: nn.ModuleDict, given: Mapping[str, Any]) -> None:
    """Settings of projection heads would be passed over where the caller has made the heads otherwise.

    Raises:
        ValueError: one of ``given`` is neither its default nor what the heads are; the message names it.
    """
    for name, value in given.items():
        term = name.removesuffix("_dim") if name.endswith("_dim") else None
        asked = [head for key, head in heads.items() if term is None or key == f"{term}_head"]
        wanted = tuple(value) if isinstance(value, list) else value
        if wanted != HOOK_DEFAULTS[name] and any(wanted not in settings_of(head, name) for head in asked):
            raise ValueError(
                f"{name}: expected its default, {HOOK_DEFAULTS[name]}, or what the heads= beside it are made with; got "
                f"{value!r}"
            )


def settings_of(head: nn.Module, name: str) -> list[Any]:
    """Values with which a head may have been made; none are known of heads of other kinds."""
    if not isinstance(head, ProjectionHead):
        return []
    if name == "projection_layers":
        return [head.layers]
    first, last = head.project[0], head.project[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    if name == "projection_hidden":
        return [first.out_channels, *([None] if first.out_channels == head.in_channels else [])]
    return [last.out_channels]


def concatenate(features: Sequence[Tensor], layers: Sequence[int] | None = None) -> Tensor:
    """Maps ``(B, D_i, H_i, W_i)`` as one ``(B, sum D_i, H_0, W_0)``, the first one's size; of all, or of ``layers``."""
    return torch.cat([resized(m, features[0].shape[2:]) for m in chosen(features, layers)], dim=1)


def chosen(features: Sequence[Tensor], layers: Sequence[int] | None) -> Sequence[Tensor]:
    return features if layers is None else [features[i] for i in layers]


def resized(x_bdhw: Tensor, size: Sequence[int]) -> Tensor:
    """The map at ``size`` (rows, columns), bilinearly."""
    if x_bdhw.shape[2:] == torch.Size(size):
        return x_bdhw
    return F.interpolate(x_bdhw, tuple(size), mode="bilinear", align_corners=False)


def channels_read(channels: Sequence[int], layers: Sequence[int] | None) -> int:
    """Channels that a head with ``layers`` reads of maps with ``channels``.

    Raises:
        ValueError: ``layers`` names no map, one twice, or one that is not there.

    >>> channels_read([8, 16, 32], None), channels_read([8, 16, 32], [-1])
    (56, 32)
    """
    if layers is None:
        return sum(channels)
    count = len(channels)
    whole = isinstance(layers, Sequence) and all(type(i) is int and -count <= i < count for i in layers)
    if not whole or not layers or len({i % count for i in layers}) != len(layers):
        raise ValueError(
            f"projection_layers: expected different positions of the encoder's {count} maps, {-count} to {count - 1}, "
            f"such as [-1]; got {layers!r}"
        )
    return sum(channels[i] for i in layers)
