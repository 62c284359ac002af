"""Weights and description in one safetensors file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from pipa.files.atomic import write
from pipa.inference.export.metadata import NAME, from_text, to_text

SUFFIX = ".safetensors"


def write_safetensors(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write tensors and plain values (atomically). ImportError: the package safetensors is missing."""
    save = _package().save
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    data = save(tensors, metadata={"format": "pt", NAME: to_text(dict(meta))})
    write(path, lambda file: file.write(data))
    return path


def read_safetensors(path: Path) -> dict[str, Any]:
    """``{"state_dict", "meta"}``. FileNotFoundError, or ValueError for what is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    with _opened(path) as file:
        text = (file.metadata() or {}).get(NAME, "{}")
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
        return {"state_dict": state, "meta": from_text(text)}


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries beside its tensors. ValueError: no such file."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file; what goes wrong inside is a ValueError that names it, but for a package that is missing."""
    _package()
    opened = importlib.import_module("safetensors").safe_open
    try:
        with opened(str(path), framework="pt", device="cpu") as file:
            yield file
    except Exception as error:  # its own error type, and json's
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None


def _package() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError:
        raise ImportError("safetensors files need the package safetensors: pip install pipa-rs[export]") from None
