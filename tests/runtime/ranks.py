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

import tiny
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

import pipa.mmseg.hook
from pipa.mmseg.exchange import average
from pipa.mmseg.launch import init_launcher

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
            data_batch["inputs"] = [torch.full_like(i, float("nan"), dtype=torch.float32) for i in data_batch["inputs"]]


def check_average(core: Any, teacher: Any, failed: bool) -> Any:
    """`average`, with a look at what it starts from: DDP must have left every rank its own gradients."""
    own = {name: p.grad.clone() for name, p in core.named_parameters() if p.grad is not None}
    answer = average(core, teacher, failed)
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
    if settings.get("check_average"):
        pipa.mmseg.hook.average = check_average
    for number, run in enumerate(settings["runs"]):
        cfg = Config(run["config"])
        init_launcher(cfg, settings["launcher"])
        done = tiny.train(cfg.to_dict(), resume=run.get("resume", False))
        torch.save(tiny.everything(done), Path(settings["out"]) / f"{number}_{RANK}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
