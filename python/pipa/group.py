"""What the processes of a data-parallel training tell each other within an iteration."""

from __future__ import annotations

import contextlib
import datetime
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipa._core import NonFiniteError

_PLACES = ("begin", "end", "sum", "gather", "barrier")
_WENT_WELL, _NOT_FINITE, _FAILED = 0, 1, 2
# Every message has this many numbers, because a process that fails does not know which one the others wait for.
_NUMBERS = 7


class GroupError(RuntimeError):
    """Another process has failed, does not answer, or does something else than this one.

    >>> from pipa import GroupError
    >>> issubclass(GroupError, RuntimeError)
    True
    """


class PeerNonFiniteError(NonFiniteError):
    """A loss or gradient is NaN or infinite on another process, whose own error says which.

    >>> from pipa import NonFiniteError, PeerNonFiniteError
    >>> issubclass(PeerNonFiniteError, NonFiniteError)  # one except clause takes both
    True
    """


class Group:
    """The processes over which a batch is spread, for ``PipaStep(group=...)``.

    Each process gives the step an equal slice of the joined batch, in order of ranks, and the gradients are averaged
    over the processes afterwards. With a group, that mean is the gradient of one process with the joined batch.

    Before each exchange the processes meet on the host: one that has failed says so there, and all leave the iteration
    with an error instead of waiting for it. No accelerator is waited for.

    Args:
        process_group: of torch.distributed; None: all processes. Making a group over nccl is collective: all processes
            do it, at the same point.
        timeout: seconds after which a process that does not answer counts as lost (over nccl; gloo has its own).

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        data: the process group that exchanges tensors.

    Raises:
        ValueError: torch.distributed is not initialised.

    >>> import torch, torch.distributed as dist
    >>> from pipa import Group
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> group = Group()
    >>> (group.rank, group.world, group.sum(torch.ones(2)))
    (0, 1, tensor([1., 1.]))
    >>> dist.destroy_process_group()
    """

    def __init__(self, process_group: Any = None, timeout: float = 600) -> None:
        if not dist.is_initialized():
            raise ValueError("Group: call torch.distributed.init_process_group first (or train without a group)")
        self.rank, self.world = dist.get_rank(process_group), dist.get_world_size(process_group)
        self.data = self._host = process_group
        if "gloo" not in dist.get_backend(process_group):
            ranks = dist.get_process_group_ranks(process_group)
            self._host = dist.new_group(ranks, datetime.timedelta(seconds=timeout), backend="gloo")

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes of tensors of one shape and dtype."""
        self._meet_with("sum", tensor)
        total = tensor.clone()
        with answers():
            dist.all_reduce(total, group=self.data)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors of one shape and dtype, joined along dimension 0 in order of ranks."""
        self._meet_with("gather", tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.world)]
        with answers():
            dist.all_gather(parts, tensor.contiguous(), group=self.data)
        return torch.cat(parts)

    def meet(self, place: str, facts: Sequence[tuple[str, int]] = ()) -> None:
        """Return when all processes are here.

        Args:
            place: name of the point in the iteration.
            facts: (name, number) pairs that must be equal on all processes.

        Raises:
            PeerNonFiniteError: another process met a NaN or infinity. GroupError: another process failed otherwise, is
                lost, is at another point, or knows other facts.
        """
        named = [("point in the iteration", _PLACES.index(place)), *facts]
        numbers = [value & (2**62 - 1) for _, value in named]
        outcome, largest, smallest = self._tell(_WENT_WELL, numbers)
        if outcome == _NOT_FINITE:
            raise PeerNonFiniteError("not finite on another process, see its message")
        if outcome == _FAILED:
            raise GroupError("another process of this training has failed; its own message says why")
        for (name, _), number, high, low in zip(named, numbers, largest, smallest, strict=False):
            if high != low:
                # Larger ones are digests, which nobody can read.
                hint = f", {number} on process {self.rank}" if number < 2**32 and place == "begin" else ""
                raise GroupError(f"the processes differ in: {name}{hint}; start them with the same seed and settings")

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Which of the flags are up on any process; equally many on each."""
        message = torch.tensor(list(flags), dtype=torch.int32)
        with answers():
            dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self._host)
        return [bool(flag) for flag in message.tolist()]

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process leaves the iteration with ``error``; nothing to do if it came from them."""
        if not isinstance(error, (GroupError, PeerNonFiniteError)):
            with contextlib.suppress(GroupError):  # the error at hand matters more
                self._tell(_NOT_FINITE if isinstance(error, NonFiniteError) else _FAILED, [])

    def _meet_with(self, place: str, tensor: Tensor) -> None:
        text = f"{tuple(tensor.shape)} {tensor.dtype}"
        self.meet(place, [(f"tensor to exchange, here {text}", zlib.crc32(text.encode()))])

    def _tell(self, outcome: int, numbers: list[int]) -> tuple[int, list[int], list[int]]:
        """Worst outcome, and largest and smallest of each number."""
        own = numbers + [0] * (_NUMBERS - len(numbers))
        message = torch.tensor([outcome, *own, *(-number for number in own)])
        with answers():
            dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self._host)
        worst, *rest = message.tolist()
        return worst, rest[:_NUMBERS], [-number for number in rest[_NUMBERS:]]


@contextlib.contextmanager
def answers() -> Iterator[None]:
    """Around a collective operation: says in plain words that a process is lost."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GroupError(
            f"another process of this training has stopped or does not answer ({first}); its own message says why. "
            "The checkpoints are intact: resume the training"
        ) from error
