"""What processes tell each other at the end of an iteration: gradients, buffers, and whether one of them failed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipa.group import Group, answers


def average(core: nn.Module, teacher: nn.Module | None, failed: bool, group: Group | None) -> Tensor | None:
    """Replace gradients and floating-point buffers by their means over all processes, in one flat exchange.

    The iteration has several backward passes and not every pass touches every parameter, which the reducer of
    DistributedDataParallel does not allow; summing once at the end is right for every combination of terms. A parameter
    without gradient on one rank counts as zero there; one without gradient on all of them keeps none, so that the
    optimiser leaves it alone (the patch head before its term starts). Running statistics of normalisation layers are
    averaged too, so that all ranks hold the same networks and the checkpoint of rank 0 is everyone's.

    Args:
        core: the network, with the projection heads. teacher: its running statistics are averaged too.
        failed: this process has no usable gradients; it takes part with zeros.
        group: all processes; None with a single one.

    Returns:
        How many processes failed, 0-dim on the device; None with a single process.

    Raises:
        GroupError: another process has died or did not answer in time.
    """
    if group is None or group.world == 1:
        return None
    parameters = [p for p in core.parameters() if p.requires_grad]
    present = group.any([p.grad is not None and not failed for p in parameters])
    parameters = [p for p, somewhere in zip(parameters, present, strict=True) if somewhere]
    modules = [core] if teacher is None else [core, teacher]
    buffers = [b for module in modules for b in module.buffers() if b.is_floating_point()]
    grads = [torch.zeros_like(p) if failed or p.grad is None else p.grad for p in parameters]
    values = [*grads, *buffers]
    # float32 at least: a sum of bfloat16 gradients would lose bits; float64 models keep theirs.
    dtype = reduce(torch.promote_types, {v.dtype for v in values}, torch.float32)
    # Filled on the device: a value that is copied there would make the host wait.
    flag = torch.full((1,), float(failed), dtype=dtype, device=next(core.parameters()).device)
    flat = torch.cat([v.detach().flatten().to(dtype) for v in values] + [flag])
    exchange(flat, group)
    flat /= group.world
    *means, share = flat.split([v.numel() for v in values] + [1])
    for parameter, mean in zip(parameters, means[: len(parameters)], strict=True):
        parameter.grad = mean.view_as(parameter).to(parameter.dtype)
    for buffer, mean in zip(buffers, means[len(parameters) :], strict=True):
        buffer.copy_(mean.view_as(buffer))
    return (share * group.world).round()[0]


def exchange(flat: Tensor, group: Group) -> None:
    """Sum over all processes, in place."""
    with answers():
        dist.all_reduce(flat, group=group.data)


def snapshot(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of (tensor, copy of its values), for :func:`restore`."""
    return [(tensor, tensor.detach().clone()) for tensor in tensors]


@torch.no_grad()
def restore(saved: list[tuple[Tensor, Tensor]]) -> None:
    """Put the copied values back."""
    for tensor, values in saved:
        tensor.copy_(values)
