"""Plain PyTorch networks: logits, (logits, features) or a dict, with the features of a named layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from pipa.networks.base import Head, Networks, Outputs


class PlainNetworks(Networks):
    """Any ``nn.Module`` that returns logits, (logits, features) or {"logits"|"out": ..., "features": ...}."""

    def __init__(self, *args: Any, features: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layer = features

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        logits, features = self._run(module, image)
        return Outputs([Head(logits)], features)

    def features(self, module: nn.Module, image: Tensor) -> list[Tensor]:
        if self._layer is not None:
            found = dict(module.named_children()).get(self._layer)
            # A backbone that takes the image itself need not drag its segmentation head along.
            if found is not None:
                return as_features(found(image), self._layer)
        return self._run(module, image)[1]

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        return self._run(module, image)[0]

    def _run(self, module: nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self._layer is None:
            return split_output(module(image))
        layers = dict(module.named_modules())
        if self._layer not in layers:
            names = ", ".join(name for name, _ in module.named_children())
            raise ValueError(f"features={self._layer!r} is no layer of {type(module).__name__}; it has: {names}")
        caught: list[Any] = []
        handle = layers[self._layer].register_forward_hook(lambda _m, _i, out: caught.append(out))
        try:
            logits, _ = split_output(module(image))
        finally:
            handle.remove()
        if not caught:
            raise ValueError(f"features={self._layer!r} did not run during the forward pass")
        return logits, as_features(caught[-1], self._layer)


def split_output(output: Any) -> tuple[Tensor, list[Tensor]]:
    """Logits and features of what a plain module returned."""
    if isinstance(output, Tensor):
        return output, []
    if isinstance(output, dict):
        logits = output.get("logits", output.get("out"))
        if isinstance(logits, Tensor):
            return logits, as_features(output.get("features", []), "features")
    elif isinstance(output, (tuple, list)) and len(output) == 2 and isinstance(output[0], Tensor):
        return output[0], as_features(output[1], "features")
    raise TypeError(
        "the network must return logits (B, C, h, w), (logits, features) or a dict with 'logits' and 'features', "
        f"got {type(output).__name__}"
    )


def as_features(value: Any, name: str) -> list[Tensor]:
    """Feature maps as a list, whatever container the backbone uses."""
    if isinstance(value, Tensor):
        value = [value]
    elif isinstance(value, dict):
        value = list(value.values())
    features = list(value) if isinstance(value, Iterable) else []
    if not isinstance(value, Iterable) or not all(isinstance(f, Tensor) and f.dim() == 4 for f in features):
        raise TypeError(f"{name}: expected feature maps of shape (B, D, h, w), got {type(value).__name__}")
    return features
