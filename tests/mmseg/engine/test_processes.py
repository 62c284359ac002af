"""Loader workers under every start method, two trainings in a row, clean exits, nothing left after a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmseg")

import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def started() -> Iterator[list[Any]]:
    """Processes to end, whatever the test finds."""
    processes: list[Any] = []
    yield processes
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def config(root: Path, work: Path, method: str, **kwargs: Any) -> dict[str, Any]:
    cfg = tiny.config(root, work, workers=1, **kwargs)
    return {**cfg, "env_cfg": dict(mp_cfg=dict(mp_start_method=method))}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_trainings_with_workers_and_a_clean_exit(method: str, root: Path, tmp_path: Path, started: list[Any]) -> None:
    """Under fork, a second one forks after rayon and torch have started their threads in the first one."""
    names = ("a", "b") if method == "fork" else ("a",)
    cfgs = [config(root, tmp_path / name, method, iterations=2) for name in names]
    process = tiny.processes().Process(target=tiny.children, args=(cfgs, str(tmp_path / "log"), 2))
    started.append(process)
    process.start()
    process.join(170)
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-3000:]
    assert all((tmp_path / name / "iter_2.pth").exists() for name in names)


def workers_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_killed_training_leaves_no_worker_and_no_shared_memory(
    root: Path, tmp_path: Path, started: list[Any]
) -> None:
    shared = set(os.listdir("/dev/shm"))
    cfg = config(root, tmp_path / "w", "fork", iterations=10_000)
    cfg["default_hooks"]["checkpoint"]["interval"] = 3
    process = tiny.processes().Process(target=tiny.child, args=(cfg, str(tmp_path / "log")))
    started.append(process)
    process.start()
    end = time.monotonic() + 90
    while not (tmp_path / "w" / "iter_3.pth").exists():
        assert time.monotonic() < end, "waited in vain"
        assert process.is_alive(), (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.05)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    end = time.monotonic() + 60  # torch's workers look for their parent every five seconds
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end, "workers outlive the training"
        time.sleep(0.2)
    pids = {str(pid) for pid in (process.pid, *workers)}
    left = {name for name in set(os.listdir("/dev/shm")) - shared if pids & set(name.split("_"))}
    assert not left
