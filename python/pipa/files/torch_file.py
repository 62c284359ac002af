"""Torch files of tensors and plain values: reading without running code, whole or refused with one sentence."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch


class CheckpointError(ValueError):
    """The file cannot be used; the message says why, in one line."""


def load_plain(path: str | Path) -> dict[str, Any]:
    """Reads a torch file of tensors and plain values; CheckpointError if it asks for anything else."""
    path = Path(path)
    try:
        with torch.serialization.safe_globals(numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|Unsupported class|Unsupported global:)\s+([\w.]+\.[\w.]+)", str(error))
        what = f"it asks for {wanted[1]}" if wanted else "it is not a pickle of tensors"
        raise CheckpointError(f"{path.name}: refused, {what}; only tensors and plain values are read") from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path.name}: not a readable torch checkpoint ({first})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name}: expected a dictionary, got {type(content).__name__}")
    return content


def numpy_scalars() -> list[Any]:
    """What a number or a plain array of NumPy needs; files of old versions name it by its old place."""
    scalar, rebuild = np._core.multiarray.scalar, np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    dtypes: list[Any] = [type(np.dtype(t)) for t in ("f8", "f4", "i8", "i4", "u4", "u1", "?")]
    old = [(scalar, "numpy.core.multiarray.scalar"), (rebuild, "numpy.core.multiarray._reconstruct")]
    return [np.dtype, np.ndarray, scalar, rebuild, *old, *dtypes]
