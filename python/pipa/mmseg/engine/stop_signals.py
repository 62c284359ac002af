"""SIGTERM and SIGINT as a wish to stop after the running iteration, agreed on by all processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.runner import Runner


class StopSignals:
    """Listens between :meth:`listen` and :meth:`ignore`. The first signal is noted, a second has its usual effect."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._old: dict[int, Any] = {}
        self._pid = os.getpid()
        self._group: Any = None

    @property
    def name(self) -> str:
        return "another process" if self.number is None else signal.Signals(self.number).name

    def listen(self) -> None:
        self.number, self._pid = None, os.getpid()
        if get_world_size() > 1:
            # On the host, so that asking never waits for a device.
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread() and not self._old:
            _forget_earlier()
            self._old = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}

    def ignore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a forked data worker: its parent decides
        self.ignore()
        if not _in_training(frame):  # a training that ended with an exception (in a notebook) has left us here
            os.kill(self._pid, number)
            return
        self.number = number
        if hasattr(signal, "SIGCHLD"):
            # Loader workers may have got the signal too. torch would raise at their end; the iteration needs none.
            signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        name = signal.Signals(number).name
        print(f"\n{name}: saving after this iteration, then stopping; once more stops at once", file=sys.stderr)

    def alone(self) -> bool:
        """A signal has come and no other process needs to agree."""
        return self.number is not None and self._group is None

    def agreed(self) -> bool:
        """Whether any process has had a signal. With several processes all must ask at the same point."""
        if self._group is None:
            return self.number is not None
        flag = torch.tensor([self.number is not None], dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag)


def isolate(loader: Any) -> None:
    """Keep signals to the whole process group (Ctrl-C, ``timeout``) from a loader's workers: the training decides.

    Call it before the loader's iterator is made. Workers still end with the training, by torch's own watch on it.
    """
    if getattr(loader, "num_workers", 0) > 0 and not isinstance(loader.worker_init_fn, _OwnGroup):
        loader.worker_init_fn = _OwnGroup(loader.worker_init_fn)


class _OwnGroup:
    """A worker_init_fn; an object, because it must be picklable for spawned workers."""

    def __init__(self, inner: Callable[[int], Any] | None) -> None:
        self.inner = inner

    def __call__(self, worker: int) -> None:
        if hasattr(os, "setpgid"):
            os.setpgid(0, 0)
        if self.inner is not None:
            self.inner(worker)


def _forget_earlier() -> None:
    """A training that ended with an exception never came to give the signals back: do it for it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        owner = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(owner, StopSignals):
            owner.ignore()


def _in_training(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not Runner.train.__code__:
        frame = frame.f_back
    return frame is not None
