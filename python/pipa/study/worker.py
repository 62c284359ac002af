"""One training of a study in this process: ``python -m pipa.study.worker FOLDER PARENT``.

FOLDER/run.json says what to train, PARENT is the number of the process that asks for it. The process holds
FOLDER/.lock, with its number, while it lives. It ends when its parent is gone, and can be killed at any moment: started
again, it goes on from the newest checkpoint.

``python -m pipa.study.worker --check`` reads runs on its standard input and says what of them cannot be trained.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipa.files.atomic import write_text

RUN, RESULT, LOCK = "run.json", "result.json", ".lock"
# Exit code of a training that a signal ended before its last iteration.
STOPPED = 75


def main(folder: Path, parent: int) -> int:
    """Train what ``folder/run.json`` says and write ``folder/result.json``."""
    # The number comes from the parent: asked for here, it may be that of whoever took over an orphan.
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a worker whose parent was killed ends within a second
        lock.write(str(os.getpid()))
        lock.flush()
        wanted = json.loads((folder / RUN).read_text())
        if ended_meanwhile(folder, wanted):
            return 0
        from pipa.mmseg.run.study_run import run_once

        given = {key: wanted.get(key) for key in ("weights", "data_root", "like")}
        result = run_once(wanted["run"], folder, wanted["test"], **given)
        if result is None:
            return STOPPED
        write_text(folder / RESULT, json.dumps(result))
        if not wanted["keep_checkpoints"]:
            remove_checkpoints(folder)
    return 0


def ended_meanwhile(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether the worker that held the lock before, of a study that was killed, has come to its end."""
    return (folder / RESULT).is_file() and (not wanted["keep_checkpoints"] or any(folder.glob("*.pth")))


def check() -> int:
    """Say what of the runs on the standard input cannot be trained; the last line is the sentence for the user."""
    from pipa.mmseg.run.study_check import check_run

    asked = json.load(sys.stdin)
    for run in asked["runs"]:
        try:
            check_run(run, asked["test"], asked["evaluations"], asked["data_root"])
        except ValueError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return 1
    return 0


def end_with_parent(parent: int) -> None:
    """A study that was killed must leave no training behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(STOPPED)


def remove_checkpoints(folder: Path) -> None:
    """Weights and mmengine's own logs of a finished run; its numbers are in the result."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".pth" or path.name == "last_checkpoint":
            path.unlink()


if __name__ == "__main__":
    sys.exit(check() if sys.argv[1] == "--check" else main(Path(sys.argv[1]), int(sys.argv[2])))
