"""Checkpoints are read as tensors and plain values, never as code.

mmengine tries ``weights_only=True`` and, where that is refused, reads the file as an unrestricted pickle, which can run
anything. :func:`install` (done by ``import pipa.mmseg``) replaces its loaders by ones that refuse such files instead.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from pipa.files.torch_file import CheckpointError, numpy_scalars, read, refused
from pipa.mmseg.mmengine_compat import checkpoint_loaders

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def _statistic(owner: Any, name: str) -> Any:
    """Stands in for ``getattr`` in checkpoints of old mmengine versions, which name HistoryBuffer's methods by it."""
    if owner is HistoryBuffer and name in ("min", "max", "mean", "current"):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"Unsupported global: getattr({owner!r}, {name!r})")


def allowed() -> list[Any]:
    """What a checkpoint may name beside torch's own tensors and containers."""
    return [*numpy_scalars(), slice, HistoryBuffer, (_statistic, "builtins.getattr")]


@contextmanager
def only_weights(name: str) -> Iterator[None]:
    """Inside, every ``torch.load`` refuses code, whatever its caller asks for; refusals become CheckpointErrors."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with refused(name), torch.serialization.safe_globals(allowed()):
            yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def load(filename: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a local checkpoint whole, see :func:`pipa.files.torch_file.read`; onto the host unless told otherwise."""
    with only_weights(str(filename)):
        content = read(filename, allowed(), map_location or "cpu")
    for key in ("state_dict", "meta", "pipa", "teacher"):
        if content.get(key) is not None and not isinstance(content[key], dict):
            raise CheckpointError(f"{filename}: expected a dictionary under {key}, got {type(content[key]).__name__}")
    return content


def _refusing(loader: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(filename: str, map_location: Any = None, **kwargs: Any) -> Any:
        with only_weights(filename):
            return loader(filename, map_location=map_location, **kwargs)

    refusing.__name__ = loader.__name__
    refusing.refuses_code = True  # type: ignore[attr-defined]
    return refusing


def install() -> None:
    """Make mmengine's checkpoint loaders (``load_from``, ``resume``, ``Pretrained``) refuse code. Done once."""
    for prefix, loader in checkpoint_loaders().items():
        if prefix == "":
            CheckpointLoader.register_scheme(prefixes="", loader=load, force=True)
        elif not getattr(loader, "refuses_code", False):
            CheckpointLoader.register_scheme(prefixes=prefix, loader=_refusing(loader), force=True)
