"""What passes over small blank images tell of a network: channels and strides of its encoder maps, sizes it refuses.

Also whether the teacher is a network of its own, and quiet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipa.networks.base import Networks
from pipa.networks.maps import FeaturesError, listed, map_stride
from pipa.networks.projection import ProjectionHead, channels_read

# Smallest first: what a network refuses (no multiple of its patch, less than its window) it may take larger. The first
# is no square, so that rows, columns and channels cannot be taken for each other.
SIZES = ((64, 96), (128, 128), (112, 168), (224, 224))
REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError, ZeroDivisionError)


@dataclass
class Trial:
    """Encoder maps as a trial pass found them.

    channels: of each map. strides: of each map, None where no whole stride fits. patch_cells: rows and columns of the
    embedding of a patch, None if not asked for or not known.
    """

    channels: list[int]
    strides: list[int | None]
    patch_cells: tuple[int, int] | None = None

    @property
    def stride(self) -> int | None:
        """Stride of the embedding, which has the size of the first map."""
        return self.strides[0]


def trial(
    networks: Networks,
    module: nn.Module,
    channels: Sequence[int] | None = None,
    patch: tuple[int, int] | None = None,
) -> Trial:
    """Pass blank images through the encoder, without gradient; weights, statistics, modes and draws stay as they are.

    channels: of each map, where they are known; the strides stay unknown then if the network takes no blank image.
    patch: height and width of the patches of the patch term, if it is on.

    Raises:
        ValueError: the network takes no blank image, or none of the patch's size, or gives no maps.
    """
    failed: Exception | None = None
    for size in sizes(module):
        try:
            maps = blank_maps(networks, module, size)
        except FeaturesError:
            raise
        except REFUSALS as error:
            failed = failed or error
            continue
        if not maps:
            raise ValueError(
                "the pixel and patch terms need backbone features: return (logits, features) from forward, name the "
                "layer with features=, or set pixel_weight=0 and patch_weight=0"
            )
        grids = [(m.shape[2], m.shape[3]) for m in maps]
        strides = [map_stride(size, grid) for grid in grids]
        whole = [stride for stride in strides if stride is not None]
        cells = cells_of(networks, module, patch, whole) if patch and len(whole) == len(strides) else None
        return Trial(list(channels or [m.shape[1] for m in maps]), strides, cells)
    if channels is not None:
        return Trial(list(channels), [None] * len(channels))
    raise ValueError(
        f"cannot find the feature channels with a trial pass on a {SIZES[0][0]} x {SIZES[0][1]} image ({failed}); pass "
        "feature_channels="
    ) from failed


def sizes(module: nn.Module) -> list[tuple[int, int]]:
    """Image sizes to try: the usual ones, and the one that the network itself names."""
    own = [getattr(getattr(m, "config", None), "image_size", None) for m in module.modules()]
    own += [getattr(getattr(m, "patch_embed", None), "img_size", None) for m in module.modules()]
    own += [getattr(m, "img_size", None) for m in module.modules()]
    pairs = [(n, n) if isinstance(n, int) else tuple(n) for n in own if isinstance(n, (int, tuple, list))]
    return [*SIZES, *(p for p in dict.fromkeys(pairs) if len(p) == 2 and p not in SIZES)]


def cells_of(networks: Networks, module: nn.Module, patch: tuple[int, int], strides: list[int]) -> tuple[int, int]:
    """Rows and columns of the embedding of a patch of ``patch`` pixels.

    Tried on a smaller blank image, of sides that leave the same rests: an encoder takes or refuses, cuts or pads both
    alike.

    Raises:
        ValueError: the encoder refuses such a patch.
    """
    period = math.lcm(32, *strides)
    small = tuple(n if n < 2 * period else period + n % period for n in patch)
    maps: list[Tensor] = []
    failed: Exception | None = None
    for size in dict.fromkeys([small, patch]):  # an encoder may take one size only
        try:
            maps = blank_maps(networks, module, (size[0], size[1]))
            break
        except REFUSALS as error:
            failed = failed or error
    if not maps:
        stride = max(strides)
        first = str(failed).splitlines()[0] if str(failed) else type(failed).__name__
        raise ValueError(
            f"patch_size {list(patch)}: the encoder takes no such image ({first}); choose a multiple of its stride, "
            f"{stride}, for example {[max(n // stride, 1) * stride for n in patch]}"
        ) from failed
    rows, columns = maps[0].shape[2:]
    fine = strides[0]
    return rows + (patch[0] - size[0]) // fine, columns + (patch[1] - size[1]) // fine


def blank_maps(networks: Networks, module: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    """Maps of a blank image of ``size`` pixels that the projection heads read."""
    with torch.no_grad(), evaluating(module), unchanged_draws():
        return list(listed(networks.embedded(module, blank(module, size)), f"{type(networks).__name__}.features"))


def blank(module: nn.Module, size: tuple[int, int]) -> Tensor:
    """A grey image (1, 3, H, W) on the network's device, in its dtype."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, 3, *size, device=like.device, dtype=like.dtype)


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


@contextmanager
def unchanged_draws() -> Iterator[None]:
    """Random numbers drawn inside do not move torch's generator of the host."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def projection_heads(
    channels: Sequence[int],
    dims: dict[str, int],
    hidden: int | None,
    layers: Sequence[int] | None,
    like: nn.Module,
) -> nn.ModuleDict:
    """``pixel_head`` and ``patch_head``, those that ``dims`` names, on the device and of the dtype of ``like``.

    channels: of each encoder map. layers: which of them the heads read; None: all.
    """
    read = channels_read(channels, layers)
    parameter = next((p for p in like.parameters() if p.is_floating_point()), torch.empty(0))
    heads = nn.ModuleDict({f"{name}_head": ProjectionHead(read, dim, hidden, layers) for name, dim in dims.items()})
    return heads.to(parameter.device, parameter.dtype)
