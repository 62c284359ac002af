"""Python face of the PiPa iteration, for any PyTorch network."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Unpack

from torch import Tensor, nn

from pipa.first_prototypes import class_means
from pipa.gradient_exchange import average
from pipa.group import Group
from pipa.losses import kept_bank
from pipa.networks import Networks, PlainNetworks
from pipa.networks.choose import adapter_for
from pipa.networks.encoder import encoder_parameters
from pipa.networks.plain import Features
from pipa.networks.trial import Trial, trial
from pipa.networks.wrappers import unwrap
from pipa.settings import StepSettings, native_step
from pipa.settings import default_settings as default_settings
from pipa.step_checks import SilentTerms, check_call, check_teacher, default_align, pixel_values
from pipa.step_networks import check_heads, imagenet_network, initial_network, new_heads, teacher_network, wanted_heads

# What the native step remembers across iterations.
MEMORIES = ("bank", "prototypes", "distribution")


class PipaStep(nn.Module):
    """One PiPa iteration on any PyTorch network (docs/method.md, steps 1-9).

    It owns the teacher and the projection heads, adds gradients to ``student`` and to the heads, and leaves the
    optimiser to you::

        step = PipaStep(student, num_classes=19, features="backbone", feature_distance_weight=0)
        optimizer = torch.optim.AdamW([*student.parameters(), *step.head_parameters()], lr=6e-5)
        for (image, label), target in zip(source_loader, target_loader):
            optimizer.zero_grad()
            log = step(image, label, target)
            optimizer.step()

    ``state_dict()`` holds teacher, frozen networks, heads, iteration and random state: saving it beside student and
    optimiser makes a resume exact.

    Args:
        student: network from images (B, 3, H, W) to logits (B, C, h, w), of transformers, segmentation_models_pytorch,
            torchvision, mmsegmentation, with an encoder of timm, or any other; it may return ``(logits, features)`` or
            a dict with ``logits`` and ``features``. Logits smaller than the label are resized by the loss. It may be
            compiled or wrapped in DistributedDataParallel: the step then averages the gradients itself.
        num_classes: number of classes C.
        features: the encoder's maps, which feed the projection heads: name of a layer ("encoder", "net.layer4"), a list
            of names, or a function ``(network, image) -> maps``; None: found. All terms see the same maps.
        finest_stride: maps finer than this are left out, where there are coarser ones.
        auxiliary_weight: factor of the cross entropy of auxiliary logits, or one each; None: 0.5 for torchvision's, 0.4
            for others, as those libraries have it.
        align_corners: the network brings its logits to the image's size with aligned corners.
        image_max: largest value of an image before mean and std: 255, or 1 for means like 0.485. None: 1 if no mean and
            no std is above 1, else 255.
        teacher: network of the same architecture; a copy of the student when not given. The first iteration sets its
            weights to the student's, as the moving average has it (method.md, step 1).
        imagenet: frozen network with the features the student started from, for the feature distance. A copy of the
            student at construction when not given and ``feature_distance_weight > 0``; not used at a weight of 0. Part
            of ``state_dict()``.
        initial: frozen network that the training starts from, for ``label_network="initial"`` and
            ``distillation_weight > 0``. A copy of the student at construction when not given; part of ``state_dict()``.
            ``"stored"``: there is none, each call brings its answer as ``initial_logits``.
        feature_channels: channels of each feature map; found by a trial pass on a small blank image when not given.
        pixel_dim, patch_dim: channels of the two embeddings (256 and 128 in the paper).
        projection_hidden: channels between the two convolutions of a head; None takes the sum of the feature channels,
            as the released code does (1024 for MiT-B5).
        projection_layers: which of the encoder's maps the embeddings see, as positions from shallow to deep (``[-1]``:
            the deepest alone); None: all, as the released code does. Their size is the finest map's in any case.
        backward: called with each loss instead of ``loss.backward()`` (gradient scalers, for example).
        adapter: own subclass of :class:`pipa.networks.Networks`, for networks with several heads or crops.
        heads: projection heads made by the caller, ``pixel_head`` and ``patch_head``; they stay the caller's, and the
            four settings of heads above stay at their defaults or agree with them.
        group: the processes over which each batch is spread, in slices of equal size and order of ranks
            (:class:`pipa.Group`). Every term is then that of the joined batch, with draws for the joined batch: average
            the gradients over the processes before the optimiser's step. All processes need the same weights, seed and
            settings; buffers (running statistics) are yours to keep equal. None: this process trains for itself.
        seed: seed of every random draw of the iteration.
        **settings: see :class:`pipa.settings.StepSettings`; an unknown name or a value that does not fit is a
            ``ValueError`` that names it.

    >>> import torch
    >>> from pipa import PipaStep
    >>> student = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=4, padding=1), torch.nn.Conv2d(8, 5, 1))
    >>> settings = dict(patch_size=(64, 64), patch_warmup=0, feature_distance_weight=0, mean=[0] * 3, std=[1] * 3)
    >>> step = PipaStep(student, num_classes=5, features="0", image_max=1, **settings)
    >>> image, label = torch.rand(2, 3, 96, 96), torch.randint(0, 5, (2, 96, 96))
    >>> log = step(image, label, torch.rand(2, 3, 96, 96))
    >>> sorted({"loss_source", "loss_mix", "loss_pixel", "loss_patch"} & set(log))
    ['loss_mix', 'loss_patch', 'loss_pixel', 'loss_source']
    """

    tell: Callable[[str], Any] = staticmethod(warnings.warn)
    """Called once with the reason when a term stays 0."""

    def __init__(
        self,
        student: nn.Module,
        *,
        num_classes: int,
        features: Features | None = None,
        finest_stride: int = 4,
        auxiliary_weight: float | Sequence[float] | None = None,
        align_corners: bool = False,
        image_max: float | None = None,
        teacher: nn.Module | None = None,
        imagenet: nn.Module | None = None,
        initial: nn.Module | Literal["stored"] | None = None,
        feature_channels: Sequence[int] | None = None,
        pixel_dim: int = 256,
        patch_dim: int = 128,
        projection_hidden: int | None = 256,
        projection_layers: Sequence[int] | None = None,
        backward: Callable[[Tensor], Any] | None = None,
        adapter: Callable[..., Networks] | None = None,
        heads: nn.ModuleDict | None = None,
        group: Group | None = None,
        seed: int = 0,
        **settings: Unpack[StepSettings],
    ) -> None:
        super().__init__()
        given = {"num_classes": num_classes, **pixel_values(settings, image_max)}
        self._native = native_step(given, seed)
        used = self.settings
        wrapped = unwrap(student)
        core = wrapped.core
        self.group = Group(wrapped.process_group) if group is None and wrapped.distributed else group
        self._averages = wrapped.distributed
        self.teacher = teacher_network(core, teacher)
        self.imagenet = imagenet_network(core, imagenet, used)
        self.initial = initial_network(core, initial, used)
        self._stored = initial == "stored"
        make = adapter or adapter_for(
            core, features, num_classes, auxiliary_weight, align_corners, finest_stride, wrapped.compiler
        )
        # The student stays out of the module tree: its owner saves it. (The adapter is no module, so what it holds
        # is not registered.)
        self._networks = make(core, self.teacher, self.imagenet, None, None, backward)
        self._networks.start = self.initial
        wants = wanted_heads(used)
        own = heads is None
        sizes = {
            "pixel_dim": pixel_dim,
            "patch_dim": patch_dim,
            "projection_hidden": projection_hidden,
            "projection_layers": projection_layers,
        }
        if heads is not None:
            check_heads(heads, wants, sizes)
        self._trial: Trial | None = None
        if (own and wants and feature_channels is None) or "patch" in wants:
            patch = tuple(used["patch_size"]) if "patch" in wants else None
            self._trial = trial(self._networks, core, feature_channels, patch)
        if self._trial is not None and "patch_align" not in given:
            self._native = native_step({**given, "patch_align": default_align(used, self._trial)}, seed)
        if own and wants:
            heads = new_heads(core, feature_channels if self._trial is None else self._trial.channels, wants, sizes)
        self.heads = heads if own else None
        made: dict[str, nn.Module] = {} if heads is None else dict(heads.items())
        self._networks.attach(made.get("pixel_head"), made.get("patch_head"))
        if isinstance(self._networks, PlainNetworks) and max(used[f"{n}_weight"] for n in ("mix", "mask", "patch")) > 0:
            check_teacher(self._networks, core, self.teacher)
        self._checked: set[tuple[int, ...]] = set()
        self._silent = SilentTerms()
        self.last: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting with the value in force."""
        return json.loads(self._native.settings_json)

    @property
    def networks(self) -> Networks:
        """Student, teacher, ImageNet model and heads, as the iteration calls them."""
        return self._networks

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self._native.iteration

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the projection heads, for the optimiser."""
        if self.heads is not None:
            yield from self.heads.parameters()

    def forward(
        self,
        source: Tensor,
        source_label: Tensor,
        target: Tensor,
        *,
        valid_mask: Tensor | None = None,
        initial_logits: Tensor | None = None,
        draws: dict[str, Any] | None = None,
        log_gradients: bool = False,
        check_finite: bool = False,
    ) -> dict[str, Tensor]:
        """Run one iteration and return its named scalars (0-dim tensors on the device, detached).

        Args:
            source: normalised images (B, 3, H, W).
            source_label: class ids (B, H, W) or (B, 1, H, W), any integer dtype.
            target: normalised images (B, 3, H, W), without labels.
            valid_mask: (B, H, W) or (B, 1, H, W); of integers or bool: 0 where pseudo-labels must weigh 0; of fractions
                from 0 to 1: what multiplies their weight.
            initial_logits: (B, C, h, w), logits or logarithms of probabilities of the target, of the network that the
                training starts from; with ``initial="stored"``.
            draws: recorded random draws to replay instead of new ones.
            log_gradients: also report ``grad_norm_<term>`` and ``encoder_grad_norm_<term>``, the norms of the gradient
                each term gives the student and its encoder (the parameters that its maps depend on).
            check_finite: refuse NaN and infinite losses on accelerators too (always on for CPU tensors).

        Returns:
            ``loss`` (total), ``loss_source``, ``loss_pixel``, ``loss_distribution``, ``loss_feature_distance``,
            ``loss_mix``, ``loss_pixel_mix``, ``loss_distribution_mix``, ``loss_patch``, ``loss_mask``,
            ``loss_feature_distance_target``, ``loss_target``, ``loss_structure``, ``loss_regularizer``,
            ``loss_distillation`` (weighted, those that are on), ``acc_source``, ``acc_mix`` (per cent),
            ``pseudo_weight``.
            With a group, losses are this process's parts, whose mean over processes is the joined loss (``loss_pixel``
            and ``loss_pixel_mix`` are the joined losses themselves); accuracies are its own. Panels of the iteration
            are in :attr:`last`.

        Raises:
            ShapeError, DTypeError, DeviceError: a tensor does not fit; the message names it.
            NonFiniteError: a term is NaN or infinite; no parameter has been changed by it. With a group it is raised on
                all processes (elsewhere as ``PeerNonFiniteError``), so that all can drop the iteration.
            GroupError: another process has failed or is lost, or its seed, settings or batch size differ.
        """
        self._networks.stored = initial_logits
        self._networks.encoder_weights = (
            encoder_parameters(self._networks, self._networks._student) if log_gradients else ()
        )
        try:
            if initial_logits is not None and not self._stored:
                raise ValueError("initial_logits: expected initial='stored' at the making of the step")
            check_call(self, source, target, check_finite)
            scalars, mixed = self._native.run(
                self._networks, source, source_label, target, valid_mask, draws, log_gradients, check_finite, self.group
            )
        except Exception as error:
            if self.group is not None:
                self.group.fail(error)
            raise
        finally:
            self._networks.stored = None
        if self._averages:
            self._average()
        log = dict(scalars)
        if check_finite or source.device.type == "cpu":
            for text in self._silent.look(log, lambda: self.settings):
                self.tell(text)
        self.last = {"source_image": source, "source_label": source_label, "target_image": target, **(mixed or {})}
        return log

    def _average(self) -> None:
        """What DistributedDataParallel would do, whose reducer allows one backward pass in an iteration only."""
        core = self._networks._student
        average(core if self.heads is None else nn.ModuleList([core, self.heads]), self.teacher, False, self.group)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: they hold the student, and a step of one process."""
        if self.group is not None:
            raise TypeError("PipaStep: a step of several processes cannot be copied or pickled; keep its state_dict()")
        return {**self.__dict__, "_native": (self._native.settings_json, self.get_extra_state())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings, extra = state["_native"]
        super().__setstate__({**state, "_native": native_step(json.loads(settings), 0)})
        self.set_extra_state(extra)

    def start_prototypes(self, images: Iterable[Tensor]) -> None:
        """Give the prototypes their first values: class means over target images (ProDA), with the network the training
        starts from in evaluation mode. Without this call they start from the means of the first batches.

        Args:
            images: batches of normalised target images (B, 3, H, W); with a group this process's part, as many
                batches on each.

        Raises:
            ValueError: the training has begun, or there is no image.
        """
        if self.iteration > 0:
            raise ValueError(f"start_prototypes: expected a training at iteration 0, got {self.iteration}")
        start = self.teacher if self.initial is None else self.initial
        self._native.prototypes = class_means(self._networks, start, images, self.settings, self.group)

    def get_extra_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "iteration": self._native.iteration,
            # Words are 64-bit unsigned, which torch's containers do not hold: they travel as text.
            "rng": [str(word) for word in self._native.rng_state],
        }
        bank = self._native.bank
        if bank is not None:
            state["bank"] = [tensor.clone() for tensor in bank]
        for name in ("prototypes", "distribution"):
            memory = getattr(self._native, name)
            if memory is not None:
                state[name] = [tensor.clone() for tensor in memory]
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Older states lack the ImageNet model; a step without a feature distance needs none."""
        own, mark = self.imagenet, f"{prefix}imagenet."
        held = [key for key in state_dict if key.startswith(mark)]
        if own is None:
            for key in held:
                del state_dict[key]
        elif not held:
            state_dict.update((f"{mark}{key}", value) for key, value in own.state_dict().items())
            self.tell(
                "the state holds no ImageNet model: the feature distance stays one from what the student was when this "
                "step was made, or from imagenet="
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        state = {**state, "bank": kept_bank(state.get("bank"), self.settings["pixel_memory_bank"], "pixel_memory_bank")}
        self._native.iteration = state["iteration"]
        self._native.rng_state = [int(word) for word in state["rng"]]
        for name in MEMORIES:
            memory = state.get(name)
            setattr(self._native, name, None if memory is None else self._here(memory))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Memories follow the teacher to another device, in the dtype they have."""
        moved = super()._apply(fn, recurse)
        for name in MEMORIES:
            memory = getattr(self._native, name)
            if memory is not None:
                setattr(self._native, name, self._here(memory))
        return moved

    def _here(self, memory: Iterable[Tensor]) -> tuple[Tensor, ...]:
        device = next((p.device for p in self.teacher.parameters()), None)
        return tuple(tensor.to(device) for tensor in memory)
