"""Work on many files at once, with a progress bar; a bad file does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipa.files.images import DataError


def run(items: Sequence[Any], work: Callable[[Any], Any], workers: int | None, progress: bool, title: str) -> list[Any]:
    """Results of `work` for each item, in order, on threads (the work releases the GIL), with a progress bar.

    A bad file does not stop the others; the error at the end names the first ten.
    """
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    results: list[Any] = [None] * len(items)
    errors: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task(title, total=len(items))
        waiting: dict[Future, int] = {}
        queue = iter(range(len(items)))
        try:
            while True:
                # A short queue, so that an interrupt ends the run after the files in hand.
                while len(waiting) < 4 * workers and (index := next(queue, None)) is not None:
                    waiting[pool.submit(work, items[index])] = index
                if not waiting:
                    break
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    index = waiting.pop(future)
                    try:
                        results[index] = future.result()
                    except (OSError, ValueError) as error:
                        errors.append(str(error))
                    bar.advance(task)
        except BaseException:
            for future in waiting:
                future.cancel()
            raise
    if errors:
        more = f"\n... and {len(errors) - 10} more" if len(errors) > 10 else ""
        raise DataError(f"{len(errors)} of {len(items)} files are not usable:\n" + "\n".join(errors[:10]) + more)
    return results
