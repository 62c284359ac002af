"""Several processes: ``torchrun --nproc_per_node 4 -m pipa train CONFIG --launcher pytorch``."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import print_log

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
# A process that has died or hangs ends the others after so many seconds.
TIMEOUT = 600


def init_launcher(cfg: Config, launcher: str = "none") -> None:
    """Prepare a config and this process for training with a launcher; call it before ``Runner.from_cfg``.

    With CUDA, mmengine starts nccl from ``env_cfg.dist_cfg``, whose ``timeout`` (seconds) is set here if it is not. On
    machines without CUDA this starts gloo, wraps the model for the CPU and replaces SyncBN, which needs CUDA, by BN.

    Args:
        launcher: "none" for a single process, "pytorch" for torchrun, "slurm" or "mpi" as in mmengine.

    Raises:
        ValueError: an unknown launcher, one that needs CUDA, or no torchrun environment.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher: expected one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    cfg.launcher = launcher
    if launcher == "none":
        return
    env = cfg.setdefault("env_cfg", {})
    options = env.setdefault("dist_cfg", {})
    timeout = options.setdefault("timeout", TIMEOUT)
    if launcher == "pytorch":
        missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name not in os.environ]
        if missing:
            raise ValueError(
                f"launcher 'pytorch': {', '.join(missing)} not set; start with "
                "`torchrun --nproc_per_node N -m pipa train CONFIG --launcher pytorch`"
            )
    if torch.cuda.is_available():
        options.setdefault("backend", "nccl")
        return
    if launcher != "pytorch":
        raise ValueError(f"launcher {launcher!r} needs CUDA; without it, use torchrun and launcher 'pytorch'")
    options["backend"] = "gloo"
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout))
    cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
    replaced = sum(_replace_sync_bn(part) for part in _dicts(cfg.get("model", {})))
    if replaced:
        print_log(f"no CUDA: {replaced} norm_cfg of type SyncBN became BN", logger="current")


def _dicts(node: Any) -> Iterator[dict[str, Any]]:
    """All dictionaries of a nested config."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from _dicts(child)


def _replace_sync_bn(part: dict[str, Any]) -> bool:
    if part.get("type") not in ("SyncBN", "MMSyncBN"):
        return False
    part["type"] = "BN"
    return True
