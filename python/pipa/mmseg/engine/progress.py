"""Progress bar with time left and the main losses, where the output is a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Losses are read from the device only this often: reading waits for it.
REFRESH = 20


@HOOKS.register_module()
class ProgressHook(Hook):
    """Bar, iterations, time left, losses. Without a terminal it does nothing: the log lines carry the same."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def before_train(self, runner: Runner) -> None:
        console = Console(file=sys.stdout)
        if not (console.is_terminal and is_main_process()):
            return
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
        self._bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[losses]}"), console=console)
        self._task = self._bar.add_task("train", total=runner.max_iters, completed=runner.iter, losses="")
        self._bar.start()
        # Log lines go through the bar's console, or they would tear the bar apart.
        self._streams = [h for h in runner.logger.handlers if type(h) is logging.StreamHandler]
        self._old = [handler.setStream(sys.stdout) for handler in self._streams]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if self._bar is None:
            return
        self._bar.update(self._task, completed=runner.iter + 1)
        if outputs and (runner.iter + 1) % REFRESH == 0:
            losses = {k: float(v) for k, v in outputs.items() if k.startswith("loss")}
            text = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items())
            self._bar.update(self._task, losses=text)

    def after_train(self, runner: Runner) -> None:
        self.close()

    def close(self) -> None:
        """Put the terminal back as it was."""
        if self._bar is None:
            return
        self._bar.stop()
        for handler, stream in zip(self._streams, self._old, strict=True):
            handler.setStream(stream)
        self._bar = None
