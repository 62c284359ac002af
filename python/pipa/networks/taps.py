"""Outputs of inner layers, seen while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from pipa.networks.wrappers import is_compiled


class Enough(Exception):
    """All layers asked for have run; the rest of the pass is not needed."""


class Tap:
    """Forward hook that keeps what its layer returns while it is open. It can be copied and pickled with the layer."""

    def __init__(self) -> None:
        self.open = False
        self.copies = False
        self.values: list[Any] = []
        self.writes: Writes | None = None

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.open:
            value = tree_map_only(Tensor, Tensor.clone, output) if self.copies else output
            self.values.append(value)
            if self.writes is not None:
                self.writes.note(value)


class Writes:
    """How often the tensors that layers returned had been written in place when they were returned."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def note(self, value: Any) -> None:
        if not torch.compiler.is_compiling():
            self.counts.update((_memory(leaf), leaf._version) for leaf in tree_leaves(value) if _counts(leaf))

    def since(self, tensors: Sequence[Tensor]) -> bool:
        """Whether one of these tensors, or one that it is a view of, has been written since."""
        return any(self.counts.get(_memory(t), t._version) != t._version for t in tensors if _counts(t))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _counts(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_inference()


class Stop:
    """Forward hook that ends the pass once every tap has a value."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = taps

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if all(tap.values for tap in self.taps):
            raise Enough


def run_tapped(
    layers: Sequence[nn.Module],
    run: Callable[[], Any],
    stop: bool,
    stay: bool = False,
    copies: bool = False,
    writes: Writes | None = None,
) -> tuple[Any, list[list[Any]]]:
    """Call ``run`` and give what it returns and, for each layer, its outputs in order of its runs.

    stop: end the pass when every layer has run once; nothing is returned then. stay: the hooks remain on the layers,
    closed, because a compiled network ignores hooks that come after its compilation. copies: of the outputs, for
    networks that go on to write into them. writes: takes note of the outputs, to see later whether one does.
    """
    stay = stay or any(is_compiled(layer) for layer in layers)
    taps, handles = [], []
    for layer in layers:
        own = next((hook for hook in layer._forward_hooks.values() if type(hook) is Tap), None)
        if own is None:
            own = Tap()
            handles.append(layer.register_forward_hook(own))
        taps.append(own)
    for tap in taps:
        tap.open, tap.values, tap.copies, tap.writes = True, [], copies, writes
    if stop and not stay:
        handles += [layer.register_forward_hook(Stop(taps)) for layer in layers]
    result = None
    try:
        result = run()
    except Enough:
        pass
    finally:
        seen = [tap.values for tap in taps]
        for tap in taps:
            tap.open, tap.values, tap.writes = False, [], None
        if not stay:
            for handle in handles:
                handle.remove()
    return result, seen
