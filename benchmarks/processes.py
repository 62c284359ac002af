"""Data-parallel efficiency on one machine: images per second of two processes of one thread each, beside one process
of one thread and one of two. DAFormer on MiT-B0, all terms, 2 + 2 images of 256 x 256 per process, with optimiser.

    python benchmarks/processes.py [--rounds 5] [--processes 2]
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing as mp

from kernels import scene
from pipa import Group, PipaStep
from pipa.gradient_exchange import average
from pipa.mmseg.models.segmentors.embedding import build_heads
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks
from step import SETTINGS, SIDE, B, network


def train(rank: int, world: int, threads: int, rounds: int, answer: Any) -> None:
    """Best seconds of an iteration; the slowest process counts."""
    logging.disable(logging.INFO)
    torch.set_num_threads(threads)
    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
        dist.init_process_group("gloo", rank=rank, world_size=world)
    group = Group() if world > 1 else None
    torch.manual_seed(0)
    student: Any = network("daformer", False, 0.1)
    heads = build_heads(
        student, {"pixel": True, "patch": True}, dict(pixel_dim=256, patch_dim=128, projection_hidden=256)
    )
    imagenet = copy.deepcopy(student).requires_grad_(False)
    step = PipaStep(student, imagenet=imagenet, adapter=SegmentorNetworks, heads=heads, group=group, **SETTINGS)
    trained = torch.nn.ModuleList([student, heads])
    optimizer = torch.optim.AdamW(trained.parameters(), lr=6e-5, fused=True)
    torch.manual_seed(1 + rank)
    source, target, label = torch.randn(B, 3, SIDE, SIDE), torch.randn(B, 3, SIDE, SIDE), scene(B, SIDE, SIDE)
    times = []
    for _ in range(rounds + 1):
        if world > 1:
            dist.barrier()
        start = time.perf_counter()
        step(source, label, target)
        average(trained, step.teacher, False, group)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    answer.put(min(times[1:]))
    if world > 1:
        dist.destroy_process_group()


def seconds(world: int, threads: int, rounds: int) -> float:
    context = mp.get_context("spawn")
    answer = context.SimpleQueue()
    mp.spawn(train, (world, threads, rounds, answer), nprocs=world)
    return max(answer.get() for _ in range(world))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    most = options.processes
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the start\n")
    print("| processes | threads each | seconds per iteration | images of each domain per second | efficiency |")
    print("|---|---|---|---|---|")
    single = None
    for world, threads in ((1, 1), (1, most), (most, 1)):
        found = seconds(world, threads, options.rounds)
        rate = world * B / found
        single = single or rate
        share = rate / (single * world * threads)
        print(f"| {world} | {threads} | {found:.2f} | {rate:.2f} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
