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


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    for number, run in enumerate(settings["runs"]):
        cfg = Config(run["config"])
        init_launcher(cfg, settings["launcher"])
        if settings.get("timeout"):
            cfg.env_cfg.dist_cfg.timeout = settings["timeout"]
        done = tiny.train(cfg.to_dict(), resume=run.get("resume", False))
        torch.save(tiny.everything(done), Path(settings["out"]) / f"{number}_{RANK}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
