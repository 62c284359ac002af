"""The networks beside a step's student: teacher, ImageNet model, the network that the training starts from, heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from pipa.networks.projection import refuse_beside_heads
from pipa.networks.trial import Trial, projection_heads
from pipa.networks.wrappers import unwrap


def frozen_copy(module: nn.Module) -> nn.Module:
    """Deep copy without gradient."""
    return copy.deepcopy(module).requires_grad_(False)


def teacher_network(core: nn.Module, given: nn.Module | None) -> nn.Module:
    """The given teacher, or a copy of the student's core; without gradient."""
    return frozen_copy(core) if given is None else unwrap(given, "teacher").core.requires_grad_(False)


def imagenet_network(core: nn.Module, given: nn.Module | None, settings: Mapping[str, Any]) -> nn.Module | None:
    """The given ImageNet model; without one a copy of the student's core, where a feature distance needs it."""
    if given is not None:
        return unwrap(given, "imagenet").core
    return frozen_copy(core) if settings["feature_distance_weight"] > 0 else None


def initial_network(
    core: nn.Module, given: nn.Module | Literal["stored"] | None, settings: Mapping[str, Any]
) -> nn.Module | None:
    """The network whose labels a training corrects or distils: the given one, else a copy of the student's core; None
    where no setting asks for it, or its labels are stored.

    Raises:
        ValueError: another word than "stored", or no setting reads what is given.
    """
    asked = settings["label_network"] == "initial" or settings["distillation_weight"] > 0
    if not asked and given is not None:
        what = "initial='stored'" if given == "stored" else "initial"
        raise ValueError(f"{what}: expected label_network='initial' or distillation_weight above 0 beside it")
    if isinstance(given, nn.Module):
        return unwrap(given, "initial").core.requires_grad_(False)
    if given not in (None, "stored"):
        raise ValueError(f"initial: expected a network or 'stored', got {given!r}")
    return frozen_copy(core) if asked and given is None else None


def wanted_heads(settings: Mapping[str, Any]) -> list[str]:
    """Projection heads that terms with a weight above 0 need; the distribution contrast is on the pixel embedding."""
    pixel = settings["pixel_weight"] > 0 or settings["distribution_weight"] > 0
    return [name for name, on in (("pixel", pixel), ("patch", settings["patch_weight"] > 0)) if on]


def step_heads(
    core: nn.Module,
    given: nn.ModuleDict | None,
    wants: Sequence[str],
    found: Trial | None,
    *,
    feature_channels: Sequence[int] | None,
    pixel_dim: int,
    patch_dim: int,
    projection_hidden: int | None,
    projection_layers: Sequence[int] | None,
) -> nn.ModuleDict | None:
    """The given projection heads, or new ones for the channels of the encoder's maps; None where no term wants any.

    Args:
        wants: of :func:`wanted_heads`.
        found: what a trial pass of the network gave, which then says the channels.

    Raises:
        ValueError: heads beside sizes that they contradict, or without one that a term wants.
    """
    if given is None and wants:
        channels = feature_channels if found is None else found.channels
        sizes = {"pixel": pixel_dim, "patch": patch_dim}
        wanted = {name: sizes[name] for name in wants}
        return projection_heads(channels or [], wanted, projection_hidden, projection_layers, core)
    if given is not None:
        own = {"pixel_dim": pixel_dim, "patch_dim": patch_dim, "projection_hidden": projection_hidden}
        refuse_beside_heads(given, {**own, "projection_layers": projection_layers})
        for name in wants:
            if f"{name}_head" not in given:
                raise ValueError(f"heads: expected {name}_head, because its term is on")
    return given
