"""One training per folder: what an earlier one left is not mixed with a new one, and two at once are noticed."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import IO, Any

from pipa.files.numbered import number_in, numbered
from pipa.files.torch_file import CheckpointError

try:
    import fcntl
except ImportError:  # Windows has no record locks; there nothing is noticed
    fcntl = None  # type: ignore[assignment]

POINTER = "last_checkpoint"
LOCK = ".training"
# What a training writes about itself from line to line (RepeatableHook).
EVALUATIONS, LOG, PROGRESS = "evaluations.jsonl", "log.jsonl", "progress.json"
DIARIES = (EVALUATIONS, LOG, PROGRESS)


def to_resume(folder: Path, template: str, work_dir: Path | None = None) -> tuple[list[Path], str]:
    """Checkpoints to try, best first, and a remark.

    Args:
        work_dir: holds `last_checkpoint`; None: the folder of the checkpoints.

    `last_checkpoint` decides: files with a higher number belong to another training. Behind it come those it was saved
    after.
    """
    present = numbered(folder, template)
    pointer = (work_dir or folder) / POINTER
    try:
        # Only the name counts: the folder may have moved since.
        name = re.split(r"[/\\]", pointer.read_text(encoding="utf-8").strip())[-1]
    except (OSError, UnicodeDecodeError):
        return present, f"{pointer} is not there or not readable: the highest number is taken" if present else ""
    last = folder / name
    if last in present:
        return present[present.index(last) :], ""
    number = number_in(name, template)
    if number is None:
        return ([last, *present], "") if last.is_file() else (present, f"{pointer} names {name!r}, which is not there")
    older = [path for path in present if (number_in(path.name, template) or 0) < number]
    return older, f"{pointer} names {name}, which is not there"


def claim(folder: Path, template: str, overwrite: bool, work_dir: Path) -> None:
    """A start from nothing: refuse a folder with the checkpoints of an earlier training, or remove what it left.

    Args:
        work_dir: holds `last_checkpoint` and the diaries; the checkpoints may lie in another folder.

    Raises:
        CheckpointError: there are some, and nobody has agreed to lose them.
    """
    found = numbered(folder, template)
    best = sorted(folder.glob("best_*.pth"))
    if (found or best) and not overwrite:
        names = ", ".join(path.name for path in [*found, *best][:3])
        raise CheckpointError(
            f"{folder}: holds the checkpoints of an earlier training ({names}); --resume goes on with it, --overwrite "
            "removes them and starts anew, --work-dir takes another folder"
        )
    if overwrite:
        # The diaries too: a study would take the earlier training's evaluations for the new one's.
        for path in [*found, *best, *(work_dir / name for name in (POINTER, *DIARIES))]:
            path.unlink(missing_ok=True)


class FolderLock:
    """Holds a folder for one training. The system lets go of it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._file: IO[Any] | None = None

    def take(self) -> None:
        """CheckpointError if another process trains in this folder; where the file system has no locks, nothing."""
        if fcntl is None or self._file is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        try:
            # A record lock: children that were forked do not hold it on.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(
                f"{self.path.parent}: another training runs in this folder ({_who(file.read())}); wait for it, stop "
                "it, or choose another --work-dir"
            ) from None
        except OSError:
            file.close()
            return
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.path.unlink(missing_ok=True)


def _who(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['process']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"
