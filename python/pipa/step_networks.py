"""The networks beside a step's student: teacher, ImageNet model, the network that the training starts from, heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from pipa.networks.projection import refuse_beside_heads
from pipa.networks.trial import projection_heads
from pipa.networks.wrappers import unwrap


def frozen_copy(module: nn.Module) -> nn.Module:
    """Deep copy without gradient."""
    return copy.deepcopy(module).requires_grad_(False)


def apart(core: nn.Module, given: nn.Module, name: str) -> nn.Module:
    """The given network without its wrapper.

    Raises:
        ValueError: it trains with the student, which freezing it would end.
    """
    network = unwrap(given, name).core
    trained = {id(p) for p in core.parameters() if p.requires_grad}
    if network is core or any(id(p) in trained for p in network.parameters()):
        raise ValueError(
            f"{name}: expected a network of its own, got one that shares trained parameters with the student; pass "
            f"copy.deepcopy(student), or leave {name} out for a copy"
        )
    return network


def teacher_network(core: nn.Module, given: nn.Module | None) -> nn.Module:
    """The given teacher, or a copy of the student's core; without gradient."""
    return frozen_copy(core) if given is None else apart(core, given, "teacher").requires_grad_(False)


def imagenet_network(core: nn.Module, given: nn.Module | None, settings: Mapping[str, Any]) -> nn.Module | None:
    """The given ImageNet model; without one a copy of the student's core, where a feature distance needs it."""
    if given is not None:
        return apart(core, given, "imagenet")
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
        return apart(core, given, "initial").requires_grad_(False)
    if given not in (None, "stored"):
        raise ValueError(f"initial: expected a network or 'stored', got {given!r}")
    return frozen_copy(core) if asked and given is None else None


def wanted_heads(settings: Mapping[str, Any]) -> list[str]:
    """Projection heads that terms with a weight above 0 need; the distribution contrast is on the pixel embedding."""
    pixel = settings["pixel_weight"] > 0 or settings["distribution_weight"] > 0
    return [name for name, on in (("pixel", pixel), ("patch", settings["patch_weight"] > 0)) if on]


def check_heads(given: nn.ModuleDict, wants: Sequence[str], sizes: Mapping[str, Any]) -> None:
    """Refuse given projection heads beside sizes that they contradict, or without one that a term wants.

    Args:
        wants: of :func:`wanted_heads`.
        sizes: ``pixel_dim``, ``patch_dim``, ``projection_hidden`` and ``projection_layers``.
    """
    refuse_beside_heads(given, sizes)
    for name in wants:
        if f"{name}_head" not in given:
            raise ValueError(f"heads: expected {name}_head, because its term is on")


def new_heads(
    core: nn.Module, channels: Sequence[int] | None, wants: Sequence[str], sizes: Mapping[str, Any]
) -> nn.ModuleDict:
    """Projection heads for the channels of the encoder's maps; arguments as :func:`check_heads`."""
    wanted = {name: sizes[f"{name}_dim"] for name in wants}
    return projection_heads(channels or [], wanted, sizes["projection_hidden"], sizes["projection_layers"], core)
