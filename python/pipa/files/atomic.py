"""Files that are whole or not there: written beside their place, synced, read back, renamed.

A checkpoint carries its own checksums: torch writes a zip archive with the CRC-32 of every record, and
:func:`verify` compares them all. So there is no second file that could be out of step with the first.
"""

from __future__ import annotations

import errno
import os
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import torch

PART = ".part"


class DamagedFile(ValueError):
    """A file does not hold what was written to it, or could not be loaded again; `reason` says it without the name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def save(content: Any, path: str | Path, allowed: Sequence[Any] = ()) -> None:
    """``torch.save`` through :func:`write`, proved by :func:`verify` before it takes the place of an older file.

    Args:
        allowed: what else, beside tensors and plain values, the reader will accept.
    """
    write(Path(path), lambda file: torch.save(content, file), lambda part: verify(part, allowed))


def write(path: str | Path, fill: Callable[[IO[bytes]], Any], prove: Callable[[Path], None] | None = None) -> None:
    """Write a file so that readers see the old one or the whole new one, whenever the process or the machine stops.

    Args:
        fill: writes the content to an open file.
        prove: looks at the finished temporary file and raises if it is not right; the old file then stays.

    Raises:
        OSError: no space, no permission, ...; the old file and nothing else is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PART}")
    try:
        with part.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                # Drop the cached pages, so that what is read back comes from the disk where the system allows it.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if prove is not None:
            prove(part)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        named = _with_name(error, path)
        if named is not None:
            raise named from error
        raise
    sync_folder(path.parent)


def _with_name(error: BaseException, path: Path) -> OSError | None:
    """What system, NumPy and torch say of a full disk without the file's name, with it; None for any other error."""
    if isinstance(error, OSError) and error.filename is None:
        if error.errno is not None:
            return OSError(error.errno, error.strerror, str(path))
        return OSError(errno.ENOSPC, f"could not be written whole ({error}); is the disk full?", str(path))
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        return OSError(errno.ENOSPC, "could not be written whole; is the disk full?", str(path))
    return None


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """A UTF-8 text file through :func:`write`; returns its path."""
    write(Path(path), lambda file: file.write(text.encode()))
    return Path(path)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power failure (where the system can sync folders)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse to sync a folder; the file itself is synced
    finally:
        os.close(handle)


def verify(path: str | Path, allowed: Sequence[Any] = ()) -> None:
    """Read every byte of a torch file and compare the checksums; check that it asks for tensors and plain values only.

    Raises:
        DamagedFile: truncated, altered, or it would need code to be loaded. OSError: it cannot be read.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, zlib.error) as error:
        raise DamagedFile(path, f"truncated or damaged ({error})") from None
    if bad is not None:
        raise DamagedFile(path, f"damaged, the checksum of {bad} does not match")
    with torch.serialization.safe_globals(list(allowed)):
        try:
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        except OSError:
            raise
        except Exception as error:  # an archive of something else; torch raises anything
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise DamagedFile(path, f"no readable torch file ({first})") from None
    if unsafe:
        raise DamagedFile(
            path,
            f"it would not load again, it holds {', '.join(sorted(unsafe))}; only tensors and plain values may be "
            "saved in a checkpoint",
        )


def remove_parts(folder: str | Path, pattern: str) -> None:
    """Remove what writers that were killed have left: temporary files of files that match a glob pattern."""
    for part in Path(folder).glob(f".{pattern}.*{PART}"):
        part.unlink(missing_ok=True)


def refuse_other(path: Path, ours: Callable[[Path], bool], what: str) -> None:
    """Refuse to write over a file that is there, unless `ours` says that an earlier run of the same command made it.

    Args:
        what: the kind of file that `ours` looks for, for the message.

    Raises:
        FileExistsError: another file of that name is there, and would be lost.
    """
    if path.exists() and not (path.is_file() and ours(path)):
        raise FileExistsError(f"{path}: is there and no {what}; choose another place")


def refuse_input(out: str | Path, *inputs: str | Path) -> None:
    """Refuse to write a result over what it is made from, also through a link.

    Raises:
        ValueError: names both.
    """
    for given in inputs:
        same = Path(out).resolve() == Path(given).resolve()
        if not same and Path(out).exists() and Path(given).exists():
            same = os.path.samefile(out, given)
        if same:
            raise ValueError(f"{out}: the output would replace its own input {given}; choose another place")
