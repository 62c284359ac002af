"""Any PyTorch network: its logits, and its encoder's maps wherever they are to be found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipa.networks.base import Networks, Outputs
from pipa.networks.logits import resized, split_output
from pipa.networks.maps import FeaturesError, MapReader, coarse
from pipa.networks.search import encoder_names
from pipa.networks.taps import Writes, run_tapped
from pipa.networks.wrappers import find_layer

Features = str | Sequence[str] | Callable[[nn.Module, Tensor], Any]


class PlainNetworks(Networks):
    """Any ``nn.Module`` from images (B, 3, H, W) to logits.

    The encoder's maps are, in this order: those that ``features`` names; those that the network returns itself, as
    ``(logits, features)`` or under ``features``; those of the encoder that :meth:`encoder` finds. Whatever they are,
    all terms see the same maps of an image: they are caught in the pass of the whole network.

    A subclass adapts a library by three methods: :meth:`encoder`, :meth:`select` and :meth:`reader`.

    Args:
        features: name of a layer ("encoder", "net.backbone.layer4"), a list of names, or a function
            ``(network, image) -> maps`` that is called beside the network; None: found.
        num_classes: tells auxiliary logits from features; None: every further map is one of logits.
        auxiliary_weight: factor of the cross entropy of auxiliary outputs, or one factor each; None: the library's own.
        align_corners: how the network itself brings logits to the image's size.
        finest_stride: encoder maps finer than this are left out, where there are coarser ones. Maps that the network
            itself returns as features are its own choice and stay.
        compiler: compiles a function as the networks were compiled.

    >>> import torch
    >>> from pipa.networks import PlainNetworks
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.Conv2d(8, 5, 1))
    >>> networks = PlainNetworks(net, net, None, None, None, features="0")
    >>> out = networks.outputs(net, torch.rand(1, 3, 32, 32))
    >>> out.heads[0].logits.shape, [tuple(feat.shape) for feat in out.features]
    (torch.Size([1, 5, 8, 8]), [(1, 8, 8, 8)])
    """

    auxiliary_weight: float = 0.4

    def __init__(
        self,
        *args: Any,
        features: Features | None = None,
        num_classes: int | None = None,
        auxiliary_weight: float | Sequence[float] | None = None,
        align_corners: bool = False,
        finest_stride: int = 4,
        compiler: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._features, self._num_classes = features, num_classes
        self._weight = self.auxiliary_weight if auxiliary_weight is None else auxiliary_weight
        weights = list(self._weight) if isinstance(self._weight, (list, tuple)) else [self._weight]
        if not all(isinstance(w, (int, float)) and 0 <= w < math.inf for w in weights):
            raise ValueError(f"auxiliary_weight: expected finite numbers of at least 0, got {auxiliary_weight!r}")
        self._align_corners, self._finest, self._compiler = align_corners, finest_stride, compiler
        self._layers: list[str] | None = None  # found with the first pass
        self._parts = False  # those are parts of the encoder, not the encoder
        self._returned = False  # the network returns its features
        self._copies = False  # a later layer of the network writes into the maps
        self._readers: dict[str, MapReader] = {}
        self._compiled: dict[int, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: what was compiled is compiled again."""
        return {**self.__dict__, "_compiled": {}}

    # --- what a subclass may define -----------------------------------------------------------------------------------

    def encoder(self, module: nn.Module) -> list[str]:
        """Names of the layers whose outputs are the encoder's maps, shallow to deep; none if there is no telling."""
        return encoder_names(module)

    def select(self, layer: nn.Module, value: Any) -> Any:
        """The part of what ``layer`` returned that holds its maps; all of it by default."""
        return value

    def reader(self, module: nn.Module, layer: nn.Module) -> MapReader:
        """How to read what ``layer`` of ``module`` returns; here with the patch and layers that its config names."""
        config = getattr(layer, "config", None)
        patch = getattr(config, "patch_size", None)
        layers = getattr(config, "out_indices", None) or getattr(config, "backbone_out_indices", None)
        return MapReader(self._finest, patch if isinstance(patch, int) else None, layers)

    # --- Networks -----------------------------------------------------------------------------------------------------

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        output, maps = self._pass(module, image, stop=False)
        heads, own = split_output(output, self._num_classes, self._weight)
        if self._align_corners:
            heads = resized(heads, (image.shape[2], image.shape[3]))
        if own is not None and self._features is None:
            self._returned = True
            maps = self._read(module, module, "features", own, image)
        elif any(m is head.logits for m in maps for head in heads):
            names = ", ".join(repr(name) for name in self._layers or [])
            raise FeaturesError(
                f"features: {names} gives the network's logits, which are no maps of an encoder; name a layer before "
                "the classifier with features="
            )
        return Outputs(heads, maps)

    def features(self, module: nn.Module, image: Tensor) -> Sequence[Tensor]:
        if callable(self._features):
            return self._called(module, image)
        if not self._layers or self._returned:  # none: not asked yet, or the network refused an image before
            return self.outputs(module, image).features
        return self._pass(module, image, stop=True)[1]

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        heads, _ = split_output(self._run(module, image), self._num_classes, self._weight)
        return (resized(heads[:1], (image.shape[2], image.shape[3])) if self._align_corners else heads)[0].logits

    # --- inside -------------------------------------------------------------------------------------------------------

    def _embedding(self, head: nn.Module | None, term: str, features: Sequence[Tensor]) -> Tensor:
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self._student.parameters())
        if trains and features and not any(m.requires_grad for m in features):
            raise ValueError(
                f"the {term} term would teach the encoder nothing, because its maps carry no gradient: the layer is "
                "frozen, or lies inside an activation checkpoint with use_reentrant=True (choose False)"
            )
        return super()._embedding(head, term, features)

    def _run(self, module: nn.Module, image: Tensor) -> Any:
        if self._compiler is None:
            return module(image)
        if id(module) not in self._compiled:

            def call(image: Tensor) -> Any:
                return module(image)

            self._compiled[id(module)] = self._compiler(call)
        return self._compiled[id(module)](image)

    def _called(self, module: nn.Module, image: Tensor) -> list[Tensor]:
        assert callable(self._features)
        return self._read(module, module, "features", self._features(module, image), image)

    def _pass(self, module: nn.Module, image: Tensor, stop: bool) -> tuple[Any, list[Tensor]]:
        """Output of one pass (None if it was stopped early) and the maps of the layers."""
        if callable(self._features):
            return self._run(module, image), self._called(module, image)
        names = self._names(module)
        layers = [find_layer(module, name) for name in names]
        writes, stay = Writes(), self._compiler is not None
        output, seen = run_tapped(layers, lambda: self._run(module, image), stop, stay, self._copies, writes)
        if self._features is None and not self._returned and names and not all(seen):
            if output is not None and split_output(output, self._num_classes, self._weight)[1] is not None:
                return output, []
            return self._pass_by_parts(module, image, names)
        maps: list[Tensor] = []
        for name, layer, values in zip(names, layers, seen, strict=True):
            if not values:
                if self._returned or self._features is None:
                    continue
                raise FeaturesError(f"features={name!r} did not run during the forward pass")
            if len(values) > 1 and not self._parts:
                raise FeaturesError(
                    f"features={name!r} runs {len(values)} times in one pass; give features= a function "
                    "(network, image) -> maps that says which of them count"
                )
            maps += self._read(module, layer, name, values[-1], image)
        maps = self._sorted(maps, image) if len(names) > 1 else maps
        if writes.since(maps):  # an activation in place behind the encoder, which a pass that ends before does not see
            if self._copies:
                raise FeaturesError(f"features: the network writes into the maps of {', '.join(names)} in place")
            self._copies = True
            return self._pass(module, image, stop)
        return output, maps

    def _names(self, module: nn.Module) -> list[str]:
        if self._layers is None:
            if self._features is None:
                self._layers = self.encoder(module)
            else:
                self._layers = [self._features] if isinstance(self._features, str) else list(self._features)  # type: ignore[arg-type]
        return [] if self._returned else self._layers

    def _pass_by_parts(self, module: nn.Module, image: Tensor, names: list[str]) -> tuple[Any, list[Tensor]]:
        """The encoder was not called as a whole: catch its children, whose maps are the deepest ones of each size."""
        inner = [f"{name}.{child}" for name in names for child, _ in find_layer(module, name).named_children()]
        layers = [find_layer(module, name) for name in inner]
        _, seen = run_tapped(layers, lambda: self._run(module, image), stop=False)
        ran = [name for name, values in zip(inner, seen, strict=True) if values and self._is_map(values[-1], image)]
        self._layers, self._parts = ran, True
        return self._pass(module, image, stop=False)

    def _is_map(self, value: Any, image: Tensor) -> bool:
        try:
            return bool(MapReader(self._finest).read(value, image))
        except TypeError:
            return False

    def _read(self, module: nn.Module, layer: nn.Module, name: str, value: Any, image: Tensor) -> list[Tensor]:
        if name not in self._readers:
            self._readers[name] = MapReader(0) if layer is module else self.reader(module, layer)
        value = self.select(layer, value)
        # Hidden states of a convolutional network come block by block; lists of maps that somebody chose stay.
        deepest = hasattr(value, "hidden_states") and getattr(value, "feature_maps", None) is None
        return self._readers[name].read(value, image, name, deepest)

    def _sorted(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        """Finest first; of the parts of one encoder, the deepest map of each size that is not too fine."""
        maps = sorted(maps, key=lambda m: -m.shape[2])  # stable: shallow stays before deep where sizes are equal
        if self._parts:
            maps = list({tuple(m.shape[2:]): m for m in maps}.values())
            maps = coarse(maps, image.shape[2], self._finest) or maps[-1:]
        return maps
