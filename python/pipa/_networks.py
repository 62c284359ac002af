"""Adapters between PyTorch modules and the Rust iteration.

The Rust side calls ``student``, ``student_features``, ``teacher``, ``imagenet``, ``pixel_embedding``,
``patch_embedding``, ``backward``, ``gradient_norm`` and ``parameters``; nothing else crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Region = tuple[int, int, int, int]
Heads = list[tuple[Tensor, "Region | None", float]]
Outputs = tuple[Heads, list[Tensor], "tuple[list[Tensor], Region] | None"]

# Layers whose noise the teacher must not see (method, step 5). Matched by name, because every library has its own.
NOISE_LAYERS = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "DropPath", "StochasticDepth"}


def quiet_train(module: nn.Module) -> nn.Module:
    """Put ``module`` in training mode (batch statistics) with dropout and drop-path off, as the teacher needs it."""
    module.train()
    for layer in module.modules():
        if type(layer).__name__ in NOISE_LAYERS:
            layer.eval()
    return module


class Networks:
    """Base adapter: student, teacher, projection heads, and what they have in common.

    Subclasses say how images become outputs (``outputs``, ``features``, ``logits``).
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        imagenet: nn.Module | None,
        pixel_head: nn.Module | None,
        patch_head: nn.Module | None,
        backward: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self._student, self._teacher, self._imagenet = student, teacher, imagenet
        self._pixel_head, self._patch_head = pixel_head, patch_head
        self._backward = backward

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        """Heads, backbone features and (features, region) of a detail crop."""
        raise NotImplementedError

    def features(self, module: nn.Module, image: Tensor) -> list[Tensor]:
        """Backbone features, shallow to deep, each (B, D, h, w)."""
        raise NotImplementedError

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        """Logits (B, C, h, w) of the whole image."""
        raise NotImplementedError

    def student(self, image: Tensor) -> Outputs:
        return self.outputs(self._student, image)

    def student_features(self, image: Tensor) -> list[Tensor]:
        return self.features(self._student, image)

    def teacher(self, image: Tensor) -> Tensor:
        return self.logits(quiet_train(self._teacher), image)

    def imagenet(self, image: Tensor) -> list[Tensor]:
        if self._imagenet is None:
            raise ValueError(
                "feature_distance_weight is above 0 but there is no ImageNet model: pass imagenet=, "
                "or set feature_distance_weight=0"
            )
        with torch.no_grad():
            return self.features(self._imagenet.eval(), image)

    def pixel_embedding(self, *features: Tensor) -> Tensor:
        return self._embedding(self._pixel_head, "pixel", features)

    def patch_embedding(self, *features: Tensor) -> Tensor:
        return self._embedding(self._patch_head, "patch", features)

    def _embedding(self, head: nn.Module | None, term: str, features: Sequence[Tensor]) -> Tensor:
        if head is None:
            raise ValueError(f"{term}_weight is above 0 but there is no {term} projection head; set {term}_weight=0")
        if not features:
            raise ValueError(
                f"the {term} term needs backbone features: return them from forward as (logits, features), "
                f"name the layer with features=, or set {term}_weight=0"
            )
        return head(list(features))

    def backward(self, loss: Tensor) -> None:
        if not loss.requires_grad:
            return
        if self._backward is not None:
            self._backward(loss)
        else:
            loss.backward()

    def gradient_norm(self, loss: Tensor) -> Tensor:
        parameters = [p for p in self._student_parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        norms = [torch.linalg.vector_norm(g.float()) for g in grads if g is not None]
        if not norms:
            return loss.new_zeros(())
        return torch.linalg.vector_norm(torch.stack(norms))

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        return list(self._teacher.parameters()), self._student_parameters()

    def _student_parameters(self) -> list[Tensor]:
        # The projection heads may live inside the student, so that its owner's optimiser and checkpoints see them; the
        # teacher has none.
        heads = [head for head in (self._pixel_head, self._patch_head) if head is not None]
        theirs = {id(p) for head in heads for p in head.parameters()}
        return [p for p in self._student.parameters() if id(p) not in theirs]


class PlainNetworks(Networks):
    """Any ``nn.Module`` that returns logits, (logits, features) or {"logits"|"out": ..., "features": ...}."""

    def __init__(self, *args: Any, features: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layer = features

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        logits, features = self._run(module, image)
        return [(logits, None, 1.0)], features, None

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
