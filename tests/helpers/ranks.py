"""Body of the processes of test_distributed.py: `torchrun ranks.py settings.json`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

import pipa.mmseg.engine.iteration
import tiny
from pipa import NonFiniteError
from pipa.gradient_exchange import average
from pipa.mmseg.engine.launcher import init_launcher

RANK = int(os.environ.get("RANK", 0))


@HOOKS.register_module()
class MisfortuneHook(Hook):
    """At iteration `at`, the process of rank `rank` dies, hangs, or poisons its images."""

    def __init__(self, kind: str, rank: int = 1, at: int = 1) -> None:
        self.kind, self.rank, self.at = kind, rank, at

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.rank != RANK or batch_idx != self.at:
            return
        if self.kind == "die":
            raise OSError("the disk of this machine is gone")
        if self.kind == "kill":
            os.kill(os.getpid(), 9)
        if self.kind == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # torchrun then needs no 30 seconds to end it
            time.sleep(1000)
        if self.kind == "nan":
            spoil(data_batch)
        if self.kind == "nan target":
            hook = tiny.pipa_hook(runner)
            hook.iteration.target = SpoilOnce(hook.iteration.target)
        if self.kind == "gradient":
            weight = pipa.mmseg.models.segmentors.step_adapter.core_model(runner).decode_head.conv_seg.weight
            self.handle = weight.register_hook(self.spoil_gradient)

    def spoil_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        self.handle.remove()
        return gradient * float("inf")


@HOOKS.register_module()
class StillHook(Hook):
    """Takes batch statistics out of the projection heads, the last place where images would meet.

    And gives biases to the layers whose outputs are normalised: where all inputs are zero (padding, masked blocks), a
    norm makes a thousandfold out of rounding.
    """

    def before_train(self, runner: Any) -> None:
        with torch.no_grad():
            for name, parameter in runner.model.named_parameters():
                if name.endswith(("projection.bias", "project.0.bias", "project.3.bias")):
                    parameter.copy_(torch.linspace(-1, 1, len(parameter)))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for module in runner.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


def spoil(batch: dict[str, Any]) -> dict[str, Any]:
    batch["inputs"] = [torch.full_like(i, float("nan"), dtype=torch.float32) for i in batch["inputs"]]
    return batch


class SpoilOnce:
    """A loader's iterator whose next batch is bad."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.done = inner, False

    def __next__(self) -> Any:
        batch = next(self.inner)
        batch = batch if self.done else spoil(batch)
        self.done = True
        return batch


def check_average(core: Any, teacher: Any, failed: bool, group: Any) -> Any:
    """`average`, with a look at what it starts from: DDP must have left every rank its own gradients."""
    own = {name: p.grad.clone() for name, p in core.named_parameters() if p.grad is not None}
    answer = average(core, teacher, failed, group)
    ranks = [None, None]
    torch.distributed.all_gather_object(ranks, own)
    for name, parameter in core.named_parameters():
        if name in own:
            torch.testing.assert_close(parameter.grad, (ranks[0][name] + ranks[1][name]) / 2)
    if not any(not torch.equal(ranks[0][name], ranks[1][name]) for name in own):
        raise AssertionError("the ranks' gradients were equal before they were averaged")
    return answer


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    for number, run in enumerate(settings["runs"]):
        pipa.mmseg.engine.iteration.average = check_average if run.get("check_average") else average
        cfg = Config(run["config"])
        init_launcher(cfg, settings["launcher"])
        file = Path(settings["out"]) / f"{number}_{RANK}.pt"
        try:
            done = tiny.train(cfg.to_dict(), resume=run.get("resume", False))
        except NonFiniteError as error:
            if not run.get("fails"):
                raise
            torch.save(dict(error=f"{type(error).__name__}: {error}"), file)  # the next run starts in this process
            continue
        torch.save(tiny.everything(done), file)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
