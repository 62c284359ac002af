"""Adapters between PyTorch modules and the Rust iteration.

The Rust side calls ``student``, ``student_features``, ``teacher``, ``imagenet``, ``pixel_embedding``,
``patch_embedding``, ``backward``, ``gradient_norm`` and ``parameters``; nothing else crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
