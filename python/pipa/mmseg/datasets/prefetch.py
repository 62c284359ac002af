"""Threads that make samples before the training asks for them, instead of worker processes.

    train_dataloader = dict(num_workers=0, sampler=dict(type="DrawSampler", threads=4), ...)

`DrawSampler` knows its next draws; it has threads make their samples and hands the draws out one by one; the data set
then finds the sample ready, or waits for it. Nothing is pickled, no shared memory is used and no process is forked. It
needs a pipeline that runs natively (see native_pipeline.py): that code leaves the interpreter lock and the global
generators alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipa.mmseg.datasets.draw import Draw

# Samples that nobody fetched, beyond those that are meant to be ahead: a batch is drawn before it is fetched.
_SPARE = 1024


class Ahead:
    """Samples in the making, by draw. One per iterator of a sampler."""

    def __init__(self, dataset: Any, threads: int, count: int) -> None:
        self.dataset, self.count = dataset, count
        self.samples: dict[tuple[int, int, int], Future] = {}
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="pipa-loader")
        self.process = os.getpid()

    def run(self, draws: Iterator[Draw]) -> Iterator[Draw]:
        """The draws, each handed out after the `count` next ones were begun."""
        waiting: deque[Draw] = deque()
        self.dataset.ahead = self
        try:
            for draw in draws:
                self.samples[_key(draw)] = self.pool.submit(self.dataset.sample, draw)
                waiting.append(draw)
                if len(waiting) > self.count:
                    yield waiting.popleft()
                if len(self.samples) > self.count + _SPARE:
                    raise ValueError(
                        "DrawSampler: nobody fetches the samples of its threads; with threads=N set num_workers=0"
                    )
        finally:
            self.close()

    def take(self, draw: Draw) -> Future | None:
        """The sample of a draw, or None where it was not begun here (or before this process was forked)."""
        return self.samples.pop(_key(draw), None) if os.getpid() == self.process else None

    def close(self) -> None:
        if getattr(self.dataset, "ahead", None) is self:
            self.dataset.ahead = None
        self.samples.clear()
        if os.getpid() == self.process:  # a forked child has no such threads to wait for
            self.pool.shutdown(wait=False, cancel_futures=True)


def _key(draw: Draw) -> tuple[int, int, int]:
    return draw.seed, draw.stream, draw.number


class SampledAhead:
    """Base of data sets whose samples threads may make. A subclass has `sample` and `fused`."""

    ahead: Ahead | None = None

    def sample(self, index: int) -> dict:
        raise NotImplementedError

    def fused(self) -> Any:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        ahead = self.ahead
        future = ahead.take(index) if ahead is not None and isinstance(index, Draw) else None
        return self.sample(index) if future is None else future.result()

    def __getstate__(self) -> dict:  # threads do not travel to worker processes
        return {key: value for key, value in self.__dict__.items() if key != "ahead"}


def check(dataset: Any, threads: int) -> None:
    """Raise ValueError unless threads may make the samples of `dataset`."""
    if not isinstance(dataset, SampledAhead):
        why = f"{type(dataset).__name__} is no data set of this package"
    else:
        fused = dataset.fused()
        if fused is not None and not fused.loud:
            return
        why = (
            "its pipeline does not begin with LoadImage, LoadLabel, Resize, SyncCrop, RandomFlip as docs/data.md says"
            if fused is None
            else f"{', '.join(fused.loud)} may draw from the global generators"
        )
    raise ValueError(f"DrawSampler: threads={threads} needs a pipeline that runs natively, but {why}; use num_workers")
