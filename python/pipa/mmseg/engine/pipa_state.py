"""PiPa's own part of a checkpoint, beside the student's weights: written by `collect`, taken up by `restore`."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.dist import get_rank, get_world_size
from torch import nn

from pipa.files.torch_file import host
from pipa.step import PipaStep

#: Name of the projection heads in the network, where the optimiser sees them; in a checkpoint they stand apart.
HEADS = "pipa_heads"


def collect(pipa: PipaStep, imagenet: nn.Module | None, weights: dict[str, Any]) -> dict[str, Any]:
    """Teacher, heads, frozen networks and what the step remembers, on the host; the heads leave `weights`."""
    heads = {key: weights.pop(key) for key in list(weights) if key.startswith(f"{HEADS}.")}
    return {
        "teacher": host(pipa.teacher.state_dict()),
        "heads": host({key[len(HEADS) + 1 :]: value for key, value in heads.items()}),
        "initial": None if pipa.initial is None else host(pipa.initial.state_dict()),
        "imagenet": None if imagenet is None else host(imagenet.state_dict()),
        "step": host(pipa.get_extra_state()),
        "world_size": get_world_size(),
    }


def restore(pipa: PipaStep, imagenet: nn.Module | None, saved: dict[str, Any], logger: logging.Logger) -> None:
    """Give step and frozen networks what :func:`collect` saved (`banks`: one of each process, without a joined batch).

    Raises:
        ValueError: the saved training had no network that this one needs.
    """
    pipa.teacher.load_state_dict(saved["teacher"])
    if pipa.initial is not None:
        if saved.get("initial") is None:
            raise ValueError(
                "resume: label_network='initial' or distillation_weight needs the network that the training "
                "started from, which the saved training did not keep; resume with the settings it was started with"
            )
        pipa.initial.load_state_dict(saved["initial"])
    if imagenet is not None:
        if saved["imagenet"] is None:
            raise ValueError(
                "resume: feature_distance_weight is above 0, but the saved training had no ImageNet model; "
                "resume with the settings it was started with"
            )
        imagenet.load_state_dict(saved["imagenet"])
    state, banks, world = dict(saved["step"]), saved.get("banks"), saved["world_size"]
    if world != get_world_size():
        logger.warning(
            f"PipaHook: the checkpoint was saved by {world} processes and {get_world_size()} go on: the training "
            "is resumed, but its data and draws are not those of the uninterrupted run"
        )
    if banks is not None:
        state["bank"] = banks[0 if pipa.group is not None else get_rank() % len(banks)]
    pipa.set_extra_state(state)
