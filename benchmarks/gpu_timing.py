"""Time, peak memory and profile of a call on the device: CUDA events on a GPU, the clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]
# Seconds that the repeats of one measurement may take.
SPAN = 2.0
# A kernel that nothing else launches marks the ends of parts in a profile.
MARKER = "spin_kernel"


class Device:
    """Where a benchmark runs. ``toy`` marks sizes for a machine without a GPU, which show only that it works.

    Args:
        seconds: time for the section; :meth:`over` says when it is used up.
    """

    def __init__(self, name: str, toy: bool, seconds: float = 1e9) -> None:
        self.name, self.toy = name, toy
        self.cuda = name.startswith("cuda")
        self.kind = name.split(":")[0]
        self._end = time.monotonic() + seconds

    def facts(self) -> Row:
        if not self.cuda:
            return {"device": "CPU"}
        properties = torch.cuda.get_device_properties(0)
        return {
            "device": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "multiprocessors": properties.multi_processor_count,
        }

    def over(self) -> bool:
        return time.monotonic() > self._end

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def pick(self, real: Any, toy: Any) -> Any:
        """The published size, or a small one."""
        return toy if self.toy else real

    def half(self, on: bool) -> Any:
        """bfloat16 autocast, or none."""
        return torch.autocast(self.kind, torch.bfloat16, enabled=on)

    def measure(self, run: Callable[[], Any], most: int = 20) -> tuple[float, float | None]:
        """Median milliseconds of repeats in a row, as many as fit into two seconds (two to ``most``), and the peak of
        memory in MiB above what was allocated before; None on a CPU, whose allocator does not tell.

        The first two calls warm up. Nothing waits between the repeats, as in a training.
        """
        run()
        self.wait()
        begin = time.perf_counter()
        run()
        self.wait()
        once = time.perf_counter() - begin
        if self.toy:
            return 1e3 * once, None
        rounds = max(2, min(most, int(SPAN / max(once, 1e-6))))
        if not self.cuda:
            times = []
            for _ in range(rounds):
                begin = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - begin))
            return statistics.median(times), None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
        marks[0].record()
        for mark in marks[1:]:
            run()
            mark.record()
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) for a, b in pairwise(marks)]
        return statistics.median(times), (torch.cuda.max_memory_allocated() - before) / 2**20


def beside(
    device: Device, ours: Callable[[], Any], twin: Callable[[], Any] | None = None, limit: float | None = None
) -> Row:
    """Ours, the plain-PyTorch twin, their ratio and its limit, memory; the twin may not fit."""
    milliseconds, memory = device.measure(ours)
    row: Row = {"ours_ms": milliseconds, "ours_mib": memory}
    if twin is None:
        return row
    try:
        milliseconds, memory = device.measure(twin)
    except torch.OutOfMemoryError:
        return row | {"twin": "out of memory"}
    row |= {"twin_ms": milliseconds, "twin_mib": memory}
    return row | judged("ratio", milliseconds / row["ours_ms"], limit)


def judged(name: str, value: float, limit: float | None, least: bool = True) -> Row:
    """A figure beside the limit that it should keep."""
    if limit is None:
        return {name: value}
    return {name: value, "limit": limit, "met": value >= limit if least else value <= limit}


def with_gradient(loss: Callable[[], Any], *inputs: Tensor) -> Any:
    """Value and gradients, so that forward and backward are timed."""
    found = loss()
    total = found if isinstance(found, Tensor) else sum(found[1:], start=found[0])
    return total.detach(), torch.autograd.grad(total, inputs)


Span = tuple[str, float, float]
"""Name, start and end of a kernel, in one unit of time."""


def kernels_of(profile: Any) -> list[Span]:
    """What ran on the GPU, without the ranges that code has named."""
    found = []
    for event in profile.events():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if on_gpu and not getattr(event, "is_user_annotation", False) and not event.name.startswith("Optimizer."):
            found.append((event.name, event.time_range.start, event.time_range.end))
    return found


def shares(kernels: Sequence[Span], parts: Sequence[str]) -> dict[str, float]:
    """Share of the time between the first and the last marker in which a kernel of each part ran, and of the ``gaps``
    in which none did.

    Args:
        kernels: in any order; ``len(parts) + 1`` of them are markers, whose own time counts as a gap.
        parts: what lies between two markers; the same name may come again.

    Raises:
        ValueError: another number of markers.
    """
    ordered = sorted(kernels, key=lambda kernel: kernel[1])
    count = sum(MARKER in name for name, _, _ in ordered)
    if count != len(parts) + 1:
        raise ValueError(f"profile: expected {len(parts) + 1} markers, got {count} among {len(ordered)} kernels")
    spent: Counter[str] = Counter(dict.fromkeys(parts, 0.0))
    place, first, busy_until = -1, 0.0, 0.0
    for name, start, end in ordered:
        if MARKER in name:
            place += 1
            if place == 0:
                first = busy_until = start
            if place == len(parts):
                total = start - first
                break
            busy_until = max(busy_until, end)
        elif place >= 0:
            # Kernels side by side count once.
            spent[parts[place]] += max(0.0, end - max(start, busy_until))
            busy_until = max(busy_until, end)
    found = {part: time / total for part, time in spent.most_common()}
    return {**found, "gaps": 1 - sum(found.values())}
