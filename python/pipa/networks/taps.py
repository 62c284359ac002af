"""Outputs of inner layers, seen while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pipa.networks.wrappers import is_compiled


class Enough(Exception):
    """All layers asked for have run; the rest of the pass is not needed."""


class Tap:
    """Forward hook that keeps what its layer returns while it is open. It can be copied and pickled with the layer."""

    def __init__(self) -> None:
        self.open = False
        self.values: list[Any] = []

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.open:
            self.values.append(output)


class Stop:
    """Forward hook that ends the pass once every tap has a value."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = taps

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if all(tap.values for tap in self.taps):
            raise Enough


def run_tapped(
    layers: Sequence[nn.Module], run: Callable[[], Any], stop: bool, stay: bool = False
) -> tuple[Any, list[list[Any]]]:
    """Call ``run`` and give what it returns and, for each layer, its outputs in order of its runs.

    stop: end the pass when every layer has run once; nothing is returned then. stay: the hooks remain on the layers,
    closed, because a compiled network ignores hooks that come after its compilation.
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
        tap.open, tap.values = True, []
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
            tap.open, tap.values = False, []
        if not stay:
            for handle in handles:
                handle.remove()
    return result, seen
