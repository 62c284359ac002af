"""What encoders of all libraries return, read as feature maps (B, D, h, w), shallow to deep.

Shape suffixes: B batch, D channels, N tokens, h w size of a map, H W size of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

# Keys under which outputs of transformers hold an encoder's maps, best first.
KEYS = ("feature_maps", "reshaped_hidden_states", "hidden_states", "last_hidden_state")
# Strides of encoders, likeliest first.
STRIDES = (4, 8, 16, 32, 14, 2, 1, 7, 28, 12, 24, 64)
# Class and register tokens in front of the others.
MOST_EXTRA_TOKENS = 9


class FeaturesError(ValueError):
    """What ``features`` names, or what was found in its place, gives no encoder maps, whatever the image."""


def listed(maps: Any, what: str) -> Sequence[Tensor]:
    """Encoder maps as a method of an adapter returned them.

    Raises:
        TypeError: one tensor, which would be taken for a list of its images.
    """
    if isinstance(maps, Tensor):
        raise TypeError(f"{what}: expected a list of encoder maps, got one tensor of shape {tuple(maps.shape)}")
    return maps


class MapReader:
    """Reads what a layer returned: a map, a ModelOutput, a dictionary, and lists of them to any depth.

    Maps may be (B, D, h, w), channels-last (B, h, w, D), or tokens (B, N, D), whose grid follows from the image's size
    and the patch; class and register tokens in front are left out. Left out as well: the image itself, maps without
    channels or pixels, and maps finer than ``finest_stride`` where there are coarser ones.

    A square map with as many channels as rows can be read either way: the reader goes by what it saw in earlier images
    at the same place, and takes channels first otherwise.

    Args:
        finest_stride: smallest stride of the maps kept; 0 keeps all.
        patch: side of a token in pixels, where known; else it is found.
        token_layers: which of several token maps of one size to keep, by number; None: the last one.

    >>> import torch
    >>> from pipa.networks import MapReader
    >>> reader = MapReader()
    >>> tokens = torch.zeros(1, 1 + 4 * 6, 32)  # a class token and a patch of 16 pixels each
    >>> [tuple(feat.shape) for feat in reader.read(tokens, torch.zeros(1, 3, 64, 96))]
    [(1, 32, 4, 6)]
    """

    def __init__(
        self, finest_stride: int = 4, patch: int | None = None, token_layers: Sequence[int] | None = None
    ) -> None:
        self.finest_stride, self.patch, self.token_layers = finest_stride, patch, token_layers
        self._channels_last: dict[int, bool] = {}

    def read(self, value: Any, image: Tensor, name: str = "features", deepest: bool = False) -> list[Tensor]:
        """Maps of ``image`` (B, 3, H, W) in ``value``. ``deepest``: of several (B, D, h, w) of one
        size, keep the last.

        Raises:
            TypeError: there is no map in it; the message says what came.
        """
        size = (image.shape[2], image.shape[3])
        found = [t for t in flatten(value) if t.numel() > 0]
        tokens = [t for t in found if t.dim() == 3]
        kept = self._token_choice(tokens)
        maps: list[Tensor] = []
        for place, tensor in enumerate(found):
            if tensor.dim() == 4:
                if tensor.shape == image.shape and tensor.data_ptr() == image.data_ptr():
                    continue
                new = self._channels_first(tensor, size, place)
                if deepest:
                    maps = [m for m in maps if m.shape[2:] != new.shape[2:]]
                maps.append(new)
            elif tensor.dim() == 3 and any(tensor is t for t in kept):
                grid = self._to_grid(tensor, size)
                if grid is not None:
                    maps.append(grid)
        if not maps:
            raise TypeError(
                f"{name}: expected feature maps (B, D, h, w), channels-last maps or tokens (B, N, D) of a "
                f"{size[0]} x {size[1]} image, got {described(value)}"
            )
        return coarse(maps, size[0], self.finest_stride) or [min(maps, key=lambda m: m.shape[2])]

    def _token_choice(self, tokens: list[Tensor]) -> list[Tensor]:
        """Of the many equal-sized token maps of a transformer: those asked for, else the last; all if sizes differ."""
        if len({t.shape[1] for t in tokens}) != 1 or len(tokens) < 2:
            return tokens
        if self.token_layers is None:
            return tokens[-1:]
        return [tokens[i] for i in self.token_layers if -len(tokens) <= i < len(tokens)]

    def _channels_first(self, map_b: Tensor, size: tuple[int, int], place: int) -> Tensor:
        first = fits(size, (map_b.shape[2], map_b.shape[3]))
        last = fits(size, (map_b.shape[1], map_b.shape[2]))
        if first != last:
            self._channels_last[place] = last
        return map_b.permute(0, 3, 1, 2) if self._channels_last.get(place, False) else map_b

    def _to_grid(self, tokens_bnd: Tensor, size: tuple[int, int]) -> Tensor | None:
        grid = token_grid(tokens_bnd.shape[1], size, self.patch)
        if grid is None:
            return None
        height, width = grid
        own = tokens_bnd[:, tokens_bnd.shape[1] - height * width :]
        return own.transpose(1, 2).unflatten(2, (height, width))


def coarse(maps: Sequence[Tensor], height: int, finest_stride: int) -> list[Tensor]:
    """Those maps of an image of ``height`` rows whose stride is at least ``finest_stride``, borders not counted."""
    return [m for m in maps if height / m.shape[2] > finest_stride - 1 or m.shape[2] == 1]


def flatten(value: Any) -> Iterable[Tensor]:
    """The tensors of nested lists and dictionaries, in order; of an output of transformers those of its best key."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        key = next((key for key in KEYS if value.get(key) is not None), None)
        for item in [value[key]] if key is not None else value.values():
            yield from flatten(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from flatten(item)


def cells(length: int, stride: int) -> set[int]:
    """How many cells of ``stride`` an encoder may make of ``length`` pixels: cut, padded, or with both borders."""
    return {length // stride, -(-length // stride), length // stride + 1} - {0}


def fits(size: tuple[int, int], grid: tuple[int, int]) -> bool:
    """Whether one stride explains a map of ``grid`` cells over an image of ``size`` pixels."""
    return map_stride(size, grid) is not None


def map_stride(size: tuple[int, int], grid: tuple[int, int]) -> int | None:
    """The stride of a map of ``grid`` cells over an image of ``size`` pixels, the likeliest one; None if none fits."""
    exact = [s for s in STRIDES if grid == (size[0] // s, size[1] // s) and size[0] % s == size[1] % s == 0]
    near = [s for s in (*STRIDES, *range(1, 129)) if grid[0] in cells(size[0], s) and grid[1] in cells(size[1], s)]
    return next(iter([*exact, *near]), None)


def token_grid(tokens: int, size: tuple[int, int], patch: int | None = None) -> tuple[int, int] | None:
    """Rows and columns of ``tokens`` over an image of ``size`` pixels, class and register tokens not counted."""
    best: tuple[int, bool, tuple[int, int]] | None = None
    for stride in STRIDES if patch is None else (patch,):
        for rows, columns in ((size[0] // stride, size[1] // stride), (-(-size[0] // stride), -(-size[1] // stride))):
            extra = tokens - rows * columns
            if 0 <= extra <= MOST_EXTRA_TOKENS and rows * columns > max(extra, 1):
                rest = size[0] % stride != 0 or size[1] % stride != 0
                best = min(best or (extra, rest, (rows, columns)), (extra, rest, (rows, columns)))
    return None if best is None else best[2]


def described(value: Any) -> str:
    """The kind of a value and, of the tensors in it, the shapes."""
    shapes = [str(tuple(t.shape)) for t in flatten(value)]
    return type(value).__name__ + (f" with {', '.join(shapes[:6])}" if shapes else "")
