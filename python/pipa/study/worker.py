"""One training of a study in this process: ``python -m pipa.study.worker FOLDER``.

FOLDER/run.json says what to train. The process holds FOLDER/.lock, with its number, while it lives. It ends when its
parent is gone, and can be killed at any moment: started again, it goes on from the newest checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

from pipa.files.atomic import write_text

RUN, RESULT, LOCK = "run.json", "result.json", ".lock"
# Exit code of a training that a signal ended before its last iteration.
STOPPED = 75


def main(folder: Path) -> int:
    """Train what ``folder/run.json`` says and write ``folder/result.json``."""
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a worker whose parent was killed ends within a second
        lock.write(str(os.getpid()))
        lock.flush()
        from pipa.mmseg.run.study_run import run_once

        wanted = json.loads((folder / RUN).read_text())
        result = run_once(wanted["run"], folder, wanted["test"], wanted.get("weights"))
        if result is None:
            return STOPPED
        write_text(folder / RESULT, json.dumps(result))
        if not wanted["keep_checkpoints"]:
            remove_checkpoints(folder)
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
    sys.exit(main(Path(sys.argv[1])))
