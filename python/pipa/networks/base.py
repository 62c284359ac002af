"""What the iteration asks of the networks. The Rust side calls the methods of :class:`Networks`; nothing else crosses.

Shape suffixes: B batch, C classes, D channels, h w size of a map, H W size of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipa.networks.maps import listed
from pipa.networks.quiet import quiet_train
from pipa.networks.tokens import hiding_tokens

Region = tuple[int, int, int, int]  # top, left, bottom, right in pixels of the image, half-open


class Head(NamedTuple):
    """One supervised output of a forward pass; its loss is ``weight * cross_entropy(resized logits, label[region])``.

    logits: (B, C, h, w), at any resolution; the loss resizes them bilinearly, without ``align_corners``.
    region: the part of the image that they cover; None for all of it.
    weight: factor of its cross entropy.

    >>> import torch
    >>> from pipa.networks import Head
    >>> Head(torch.zeros(2, 19, 32, 32), region=(0, 0, 64, 64), weight=0.1).weight  # a detail crop's own loss
    0.1
    """

    logits: Tensor
    region: Region | None = None
    weight: float = 1.0


class Outputs(NamedTuple):
    """What one forward pass of the student gives to the losses.

    heads: supervised outputs, the main one first.
    features: encoder maps (B, D_i, h_i, w_i) of the whole image, shallow to deep.
    detail: maps of a detail crop and its place in the image (HRDA), or others of the whole image and None; else None.
        The pixel terms use them where they exist, with the labels of the same place.

    >>> import torch
    >>> from pipa.networks import Head, Outputs
    >>> out = Outputs([Head(torch.zeros(2, 19, 32, 32))], [torch.zeros(2, 64, 32, 32)])
    >>> len(out.heads), out.detail
    (1, None)
    """

    heads: Sequence[Head | tuple[Tensor, Region | None, float]]
    features: Sequence[Tensor]
    detail: tuple[Sequence[Tensor], Region | None] | None = None


class OwnOutputs(Outputs):
    """:class:`Outputs` of a network that has a supervised loss of its own.

    own_loss: from label ids (B, H, W), int64, of the images just passed to a 0-dim tensor on the graph. It takes the
        place of the heads' cross entropy on source images; pseudo-labels are compared with the heads all the same.

    >>> import torch
    >>> from pipa.networks import Head, OwnOutputs
    >>> logits = torch.zeros(2, 19, 32, 32)
    >>> out = OwnOutputs([Head(logits)], [logits], own_loss=lambda label: logits.square().mean())
    >>> float(out.own_loss(torch.zeros(2, 128, 128, dtype=torch.int64)))
    0.0
    """

    own_loss: Callable[[Tensor], Tensor]

    def __new__(
        cls,
        heads: Sequence[Head | tuple[Tensor, Region | None, float]],
        features: Sequence[Tensor],
        detail: tuple[Sequence[Tensor], Region | None] | None = None,
        *,
        own_loss: Callable[[Tensor], Tensor],
    ) -> OwnOutputs:
        self = super().__new__(cls, heads, features, detail)
        self.own_loss = own_loss
        return self


class Networks:
    """Student, teacher, ImageNet model and projection heads behind one face.

    A subclass says how images become outputs, by three methods that take one of the modules and an image
    (:meth:`outputs`, :meth:`features`, :meth:`logits`); ``PipaStep(student, adapter=Subclass)`` uses it::

        class MyNetworks(Networks):
            def outputs(self, module, image):
                logits, maps = module(image, return_maps=True)
                return Outputs([Head(logits)], maps)

            def features(self, module, image):
                return module.encoder(image)  # a list of maps

            def logits(self, module, image):
                return module(image)

    Args:
        student: trained by the caller's optimiser. teacher: its moving average. imagenet: frozen, or None.
        pixel_head, patch_head: projection heads from a list of maps to an embedding (B, D, h, w), or None.
        backward: called with each loss in place of ``loss.backward()``.

    >>> import torch
    >>> from pipa import PipaStep
    >>> from pipa.networks import Head, Networks, Outputs
    >>> class Tiny(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.encoder, self.head = torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.Conv2d(8, 5, 1)
    ...
    ...     def forward(self, image):
    ...         return self.head(self.encoder(image))
    >>> class TinyNetworks(Networks):
    ...     def outputs(self, module, image):
    ...         feat = module.encoder(image)
    ...         return Outputs([Head(module.head(feat))], [feat])
    ...
    ...     def features(self, module, image):
    ...         return [module.encoder(image)]
    ...
    ...     def logits(self, module, image):
    ...         return module(image)
    >>> terms = dict(patch_weight=0, feature_distance_weight=0, pixel_dim=16)
    >>> step = PipaStep(Tiny(), num_classes=5, adapter=TinyNetworks, **terms)
    >>> log = step(torch.rand(1, 3, 64, 64), torch.randint(0, 5, (1, 64, 64)), torch.rand(1, 3, 64, 64))
    >>> "loss_pixel" in log
    True
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

    _frozen_alike: set[int] | None = None
    encoder_weights: Sequence[Tensor] = ()
    """The student's parameters that its encoder maps depend on; set by the step where gradient norms are asked for."""
    start: nn.Module | None = None
    """The network that the training started from, frozen; set by the step where a setting asks for it."""
    stored: Tensor | None = None
    """Logits (B, C, h, w) of the target that stand for that network, during one iteration."""

    def attach(self, pixel_head: nn.Module | None, patch_head: nn.Module | None) -> None:
        """Take projection heads, which need the encoder's channels and so come after the networks."""
        self._pixel_head, self._patch_head = pixel_head, patch_head

    # --- what a subclass defines ------------------------------------------------------------------------------------

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        """Heads, encoder maps and detail of one pass of ``module`` over (B, 3, H, W), with gradient."""
        raise NotImplementedError

    def features(self, module: nn.Module, image: Tensor) -> Sequence[Tensor]:
        """Encoder maps (B, D_i, h_i, w_i), shallow to deep: the same that :meth:`outputs` gives for the image."""
        raise NotImplementedError

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        """Logits (B, C, h, w) of the whole image."""
        raise NotImplementedError

    def embedded(self, module: nn.Module, image: Tensor) -> Sequence[Tensor]:
        """Maps that the projection heads read, with the encoder's deepest one last; :meth:`features` if not defined."""
        return self.features(module, image)

    def classified(self, module: nn.Module) -> AbstractContextManager[Callable[[], Tensor]]:
        """While it is entered, the function it gives returns what the main head's classifier read in the pass of
        ``module`` before: a map (B, D, h, w), on its graph. For ``prototype_layer="head"``.

        Raises:
            ValueError: not defined for this kind of network.
        """
        raise ValueError(
            f"prototype_layer: 'head' expects a network whose adapter defines classified(), got {type(self).__name__}; "
            "name the layer before the classifier among features= and give its position"
        )

    # --- what the iteration calls -----------------------------------------------------------------------------------

    def student(self, image: Tensor) -> Outputs:
        """The student's pass over (B, 3, H, W), in the mode its owner has put it in, with gradient."""
        return self.outputs(self._student, image)

    def student_tokens(self, image: Tensor, kept: Tensor) -> Outputs:
        """The student's pass over (B, 3, H, W) with patch embeddings hidden where ``kept`` (B, 1, H, W) is 0.

        Raises:
            ValueError: the network has no transformer that hides tokens.
        """
        with hiding_tokens(self._student, kept == 0):
            return self.student(image)

    def student_classified(self, image: Tensor) -> tuple[Outputs, Tensor]:
        """:meth:`student`, and the map that its main head classified, with gradient."""
        with self.classified(self._student) as seen:
            return self.student(image), seen()

    def student_features(self, image: Tensor) -> Sequence[Tensor]:
        """The student's maps for the patch term's projection head, with gradient (:meth:`embedded`)."""
        return self._listed(self.embedded(self._student, image))

    def student_maps(self, image: Tensor) -> Sequence[Tensor]:
        """The student's encoder maps, with gradient, for the feature distance of the target."""
        return self._listed(self.features(self._student, image))

    def teacher(self, image: Tensor) -> Tensor:
        """The teacher's logits (B, C, h, w), without noise (:func:`quiet_train`)."""
        return self.logits(quiet_train(self._teacher), image)

    def teacher_classified(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`teacher`, and the map that its main head classified."""
        with self.classified(self._teacher) as seen:
            return self.teacher(image), seen()

    def teacher_features(self, image: Tensor) -> Sequence[Tensor]:
        """The teacher's encoder maps, without noise and without gradient."""
        with torch.no_grad():
            return self._listed(self.features(quiet_train(self._teacher), image))

    def initial(self, image: Tensor) -> Tensor:
        """Logits (B, C, h, w) of the network that the training started from, in evaluation mode, without gradient.

        Raises:
            ValueError: there is no such network.
        """
        if self.stored is not None:
            return self.stored
        if self.start is None:
            raise ValueError(
                "label_network='initial' and distillation_weight need the network that the training started from: "
                "make the step with these settings, or pass initial= "
                "(with initial='stored', initial_logits= in each call)"
            )
        with torch.no_grad():
            return self.logits(self.start.eval(), image)

    def imagenet(self, image: Tensor) -> Sequence[Tensor]:
        """Encoder maps of the frozen ImageNet model in evaluation mode, without gradient.

        Raises:
            ValueError: there is no ImageNet model.
        """
        if self._imagenet is None:
            raise ValueError(
                "feature_distance_weight is above 0 but there is no ImageNet model: pass imagenet=, "
                "or set feature_distance_weight=0"
            )
        with torch.no_grad():
            return self._listed(self.features(self._imagenet.eval(), image))

    def pixel_embedding(self, *features: Tensor) -> Tensor:
        """Encoder maps (B, D_i, h_i, w_i) to the pixel embedding (B, D, h_0, w_0).

        Raises:
            ValueError: there is no pixel head, or no map.
        """
        return self._embedding(self._pixel_head, "pixel", features)

    def patch_embedding(self, *features: Tensor) -> Tensor:
        """As :meth:`pixel_embedding`, by the patch head."""
        return self._embedding(self._patch_head, "patch", features)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` (0-dim) to the parameters of student and projection heads."""
        if not loss.requires_grad:
            return
        if self._backward is not None:
            self._backward(loss)
        else:
            loss.backward()

    def gradient_norms(self, loss: Tensor) -> tuple[Tensor, Tensor | None]:
        """L2 norms (0-dim) of the gradient that ``loss`` gives the student and its encoder, None if no
        :attr:`encoder_weights` are known.

        Changes no ``.grad`` and keeps the graph.

        Raises:
            ValueError: the student is compiled so that it has one backward pass only.
        """
        parameters = [p for p in self._student_parameters() if p.requires_grad]
        try:
            grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "donated buffers" not in str(error):
                raise
            raise ValueError(
                "log_gradients: expected a student that keeps its graph for a second backward pass, got a compiled one "
                "that reuses its memory; set torch._functorch.config.donated_buffer = False before its first pass"
            ) from error
        encoder = {id(p) for p in self.encoder_weights}
        norms, inside = [loss.new_zeros((), dtype=torch.float32)], [loss.new_zeros((), dtype=torch.float32)]
        for parameter, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                norms.append(torch.linalg.vector_norm(grad.float()))
                inside += norms[-1:] if id(parameter) in encoder else []
        student, of_encoder = (torch.linalg.vector_norm(torch.stack(n)) for n in (norms, inside))
        return student, of_encoder if encoder else None

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters of teacher and student, in the same order, for the moving average.

        Those that the student does not train and the teacher has alike are left out: averaging them would cost time and
        a rounding error for each iteration.
        """
        theirs: list[Tensor] = list(self._teacher.parameters())
        ours = self._student_parameters()
        if len(theirs) != len(ours):
            return theirs, ours  # the average refuses them, with both numbers
        pairs = list(zip(theirs, ours, strict=True))
        if self._frozen_alike is None:  # once, because on an accelerator a comparison waits
            self._frozen_alike = {id(s) for t, s in pairs if not s.requires_grad and torch.equal(t, s)}
        kept = [(t, s) for t, s in pairs if s.requires_grad or id(s) not in self._frozen_alike]
        return [t for t, _ in kept], [s for _, s in kept]

    # --- inside -----------------------------------------------------------------------------------------------------

    def _listed(self, maps: Any) -> Sequence[Tensor]:
        return listed(maps, f"{type(self).__name__}.features")

    def _embedding(self, head: nn.Module | None, term: str, features: Sequence[Tensor]) -> Tensor:
        if head is None:
            raise ValueError(f"{term}_weight is above 0 but there is no {term} projection head; set {term}_weight=0")
        if not features:
            raise ValueError(
                f"the {term} term needs backbone features: return them from forward as (logits, features), "
                f"name the layer with features=, or set {term}_weight=0"
            )
        return head(list(features))

    def _student_parameters(self) -> list[Tensor]:
        # The projection heads may live inside the student, so that its owner's optimiser and checkpoints see them; the
        # teacher has none.
        heads = [head for head in (self._pixel_head, self._patch_head) if head is not None]
        theirs = {id(p) for head in heads for p in head.parameters()}
        return [p for p in self._student.parameters() if id(p) not in theirs]
