"""Torch files of tensors and plain values: reading without running code, whole or refused with one sentence."""

from __future__ import annotations

import errno
import pickle
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


class CheckpointError(ValueError):
    """The file cannot be used; the message says why, in one line."""


def load_plain(path: str | Path) -> dict[str, Any]:
    """Reads a torch file of tensors and plain values; CheckpointError if it asks for anything else."""
    return read(path, numpy_scalars())


def meta_of(path: str | Path) -> dict[Any, Any]:
    """The ``meta`` of a torch file; empty where it has none, or is no file that :func:`load_plain` reads."""
    try:
        meta = load_plain(path).get("meta")
    except CheckpointError:
        return {}
    return meta if isinstance(meta, dict) else {}


def read(path: str | Path, allowed: Sequence[Any] = (), map_location: Any = "cpu") -> dict[str, Any]:
    """The dictionary in a torch file, whole: read onto the host, checksums compared, no code run.

    Args:
        allowed: what the file may name beside tensors and plain values.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: unreadable, truncated, damaged, no torch file, it asks for code, or it holds something
            else than a dictionary; the message names the file.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: expected a checkpoint file, found a folder")
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(f"{path}: expected a checkpoint, found an empty file (0 bytes)")
        if zipfile.is_zipfile(path):  # files of old versions of torch are no archives and carry no checksums
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise CheckpointError(f"{path}: damaged, the checksum of {bad} does not match")
        with refused(str(path)), torch.serialization.safe_globals(list(allowed)):
            content = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary, got {type(content).__name__}")
    return content


@contextmanager
def refused(name: str) -> Iterator[None]:
    """Inside, what torch says about a file it cannot read becomes one sentence with the file's name."""
    try:
        yield
    except (CheckpointError, FileNotFoundError):
        raise
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|Unsupported class|Unsupported global:)\s+([\w.]+\.[\w.]+)", str(error))
        what = f"it asks for {wanted[1]}" if wanted else "it is no pickle of tensors and plain values"
        raise CheckpointError(f"{name}: refused, {what}; only tensors and plain values are read") from None
    except OSError as error:
        if error.strerror and error.errno not in (errno.EINVAL, None):  # EINVAL: a cut file, whose end is no end
            raise
        raise CheckpointError(f"{name}: not a readable torch checkpoint, truncated or damaged ({error})") from None
    except Exception as error:  # the unpickler of a damaged file raises anything
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{name}: not a readable torch checkpoint ({first})") from None


def numpy_scalars() -> list[Any]:
    """What a number or a plain array of NumPy needs; files of old versions name it by its old place."""
    scalar, rebuild = np._core.multiarray.scalar, np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    dtypes: list[Any] = [type(np.dtype(t)) for t in ("f8", "f4", "i8", "i4", "u4", "u1", "?")]
    old = [(scalar, "numpy.core.multiarray.scalar"), (rebuild, "numpy.core.multiarray._reconstruct")]
    return [np.dtype, np.ndarray, scalar, rebuild, *old, *dtypes]


def plain(value: Any) -> Any:
    """Numbers and arrays of NumPy as Python's own, in any nest of dictionaries, lists and tuples: so that a file of
    them loads with a bare ``torch.load``."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if type(value) in (dict, OrderedDict):
        return type(value)((plain(k), plain(v)) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(plain(v) for v in value)
    return value


def host(value: Any) -> Any:
    """Tensors copied to the host, in any nest of dictionaries, lists and tuples: so that a file of them opens on a
    machine without the device."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if type(value) in (dict, OrderedDict):
        return type(value)((k, host(v)) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(host(v) for v in value)
    return value
