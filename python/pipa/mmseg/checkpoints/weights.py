"""Which weights a checkpoint holds, and loading them strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from pipa.inference.export.earlier import WHICH

Weights: TypeAlias = Literal["auto", "student", "teacher"]
CHOICES: tuple[Weights, ...] = ("auto", "student", "teacher")


def choose(content: Mapping[str, Any], where: str, weights: Weights = "auto") -> dict[str, Tensor]:
    """Weights of the student or the teacher of a training, a converted or an exported file.

    Args:
        weights: ``"auto"`` takes the main weights of the file: the student's of a training, those of an exported file.

    Raises:
        ValueError: another word, the file holds no such weights, or nothing that could be a network's.
    """
    if weights not in CHOICES:
        raise ValueError(f"weights: expected one of {', '.join(CHOICES)}, got {weights!r}")
    held = (content.get("meta") or {}).get(WHICH)
    teacher = (content.get("pipa") or {}).get("teacher") or content.get("teacher")
    if weights == "teacher" and held != "teacher":
        if teacher is None:
            raise ValueError(f"{where}: holds no teacher; ask for the student (leave out --teacher)")
        return named_tensors(teacher, where)
    if weights == "student" and held == "teacher":
        raise ValueError(f"{where}: was exported with the teacher's weights and holds no student")
    state = named_tensors(content.get("state_dict", content), where)
    return {k: v for k, v in state.items() if not k.startswith("pipa_heads.")}


def named_tensors(state: Any, where: str) -> dict[str, Tensor]:
    """Weights by name, without the ``module.`` that DataParallel and DistributedDataParallel put before each.

    Raises:
        ValueError: there are none.
    """
    found = isinstance(state, Mapping) and any(isinstance(value, Tensor) for value in state.values())
    if not found or not all(isinstance(key, str) for key in state):
        kinds = f"{len(state)} entries, the first {next(iter(state), None)!r}" if isinstance(state, Mapping) else state
        raise ValueError(f"{where}: expected the weights of a network by name, got {kinds}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def held(content: Mapping[str, Any], weights: Weights) -> str:
    """Whose weights :func:`choose` takes: ``"student"`` or ``"teacher"``."""
    return "teacher" if weights == "teacher" else str((content.get("meta") or {}).get(WHICH, "student"))


def fill(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights strictly: a missing or unexpected key is an error that names it."""
    own = model.state_dict()
    missing = sorted(set(own) - set(state) - {k for k in own if k.startswith("data_preprocessor.")})
    extra = sorted(set(state) - set(own) - {k for k in state if k.startswith("data_preprocessor.")})
    if missing or extra:
        raise ValueError(
            f"{where}: does not fit the config's model: {len(missing)} keys missing (first: {missing[:1]}), "
            f"{len(extra)} unexpected (first: {extra[:1]}); is it for another config, or does it need "
            "`pipa convert checkpoint`?"
        )
    wrong = [k for k in state if k in own and state[k].shape != own[k].shape]
    if wrong:
        key = wrong[0]
        raise ValueError(
            f"{where}: {key} has shape {tuple(state[key].shape)}, the model expects {tuple(own[key].shape)}"
        )
    model.load_state_dict(state, strict=False)
