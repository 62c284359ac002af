"""Time and peak memory of a call on the device: CUDA events on a GPU, the clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Device:
    """Where a benchmark runs. ``toy`` marks sizes for a machine without a GPU, which show only that it works."""

    def __init__(self, name: str, toy: bool) -> None:
        self.name, self.toy = name, toy
        self.cuda = name.startswith("cuda")

    def title(self) -> str:
        return torch.cuda.get_device_name() if self.cuda else "CPU"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def pick(self, real: Any, toy: Any) -> Any:
        """The published size, or a small one."""
        return toy if self.toy else real

    def milliseconds(self, run: Callable[[], Any], rounds: int = 10) -> float:
        """Median over the rounds, after two that warm up."""
        for _ in range(2):
            run()
        self.wait()
        times = []
        for _ in range(2 if self.toy else rounds):
            if self.cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                end.record()
                torch.cuda.synchronize()
                times.append(start.elapsed_time(end))
            else:
                begin = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    def peak_mib(self, run: Callable[[], Any]) -> float | None:
        """Memory above what is allocated before the call; None where the allocator does not tell (CPU)."""
        if not self.cuda:
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def busy(self, run: Callable[[], Any]) -> float | None:
        """Share of the time in which at least one kernel runs; in the rest the GPU waits for the host."""
        if not self.cuda:
            return None
        run()
        self.wait()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            begin = time.perf_counter()
            run()
            self.wait()
            wall = time.perf_counter() - begin
        kernels = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
        return min(1.0, kernels / wall)


def beside(device: Device, name: str, ours: Callable[[], Any], twin: Callable[[], Any] | None) -> dict[str, Any]:
    """One row: ours, the plain-PyTorch twin, ratio, memory; the twin may not fit."""
    row: dict[str, Any] = {"name": name, "ours_ms": device.milliseconds(ours), "ours_mib": device.peak_mib(ours)}
    if twin is None:
        return row
    try:
        row |= {"twin_ms": device.milliseconds(twin), "twin_mib": device.peak_mib(twin)}
        row["ratio"] = row["twin_ms"] / row["ours_ms"]
    except torch.OutOfMemoryError:
        row["twin"] = "out of memory"
    return row


def with_gradient(loss: Callable[[], Any], *inputs: Tensor) -> Any:
    """Value and gradients, so that forward and backward are timed."""
    found = loss()
    total = found if isinstance(found, Tensor) else sum(found[1:], start=found[0])
    return total.detach(), torch.autograd.grad(total, inputs)
