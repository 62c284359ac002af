"""Time and memory of one call in this process (Linux)."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def first_run(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds, and the MB that the process grew by meanwhile (result included), sampled twice a millisecond."""
    ctypes.CDLL(None).malloc_trim(0)  # memory kept from earlier runs would hide what this one needs
    start, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.0005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        begin = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - begin
        peak = max(peak, resident())
    finally:
        done.set()
        thread.join()
    return result, seconds, max(0, peak - start) / 2**20


def best(function: Callable[[], Any], first: float, rounds: int) -> float:
    """Best time of `rounds`, or of as many as fit into a fifth of a second: threads of the work before may still spin.
    A first run of more than two seconds is taken as it is."""
    if first > 2:
        return first
    times: list[float] = []
    while len(times) < rounds or sum(times) < 0.2:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
