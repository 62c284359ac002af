"""Settings that make the networks faster or smaller and leave their function as it is.

They are applied to the networks after teacher and ImageNet model have been copied: what mmengine's own top-level keys
of the same purpose put on the student, a copy would share with it: the teacher would run the student's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from operator import attrgetter
from types import MethodType
from typing import Any

import torch
import torch._functorch.config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from pipa.networks.tokens import hidden_now, hiding_tokens

# Top-level keys of mmengine; settings of the same name do their work here.
MMENGINE_KEYS = ("compile", "activation_checkpointing")


class Tuning:
    """Speed and memory of student, teacher and ImageNet model.

    Args:
        compile: True, or arguments of ``torch.compile``: encoders and decode heads run compiled.
        activation_checkpointing: names of modules of the model ("backbone", "decode_head.fuse_layer", ...) that keep
            only their input for the backward pass and run again in it: less memory, one more forward pass of them.
        channels_last: maps of the networks lie in memory pixel by pixel instead of channel by channel.
    """

    def __init__(
        self, compile: bool | dict[str, Any], activation_checkpointing: str | Sequence[str], channels_last: bool
    ) -> None:
        self.compile = compile
        self.modules = (
            [activation_checkpointing] if isinstance(activation_checkpointing, str) else list(activation_checkpointing)
        )
        self.channels_last = channels_last
        if self.compile and self.modules:
            raise ValueError("compile, activation_checkpointing: choose one; compiled networks choose what they repeat")

    def check(self, runner: Runner) -> None:
        """Refuse mmengine's keys, of which one would be ignored in silence and the other train a wrong teacher.

        Raises:
            ValueError: names the key and the setting to use.
        """
        for key in MMENGINE_KEYS:
            if runner.cfg.get(key):
                raise ValueError(f"{key}: mmengine's key does not fit a network with a teacher; set pipa.{key} instead")
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name in self.modules:
            try:
                attrgetter(name)(model)
            except AttributeError as error:
                raise ValueError(f"activation_checkpointing: the model has no module {name!r} ({error})") from error

    def apply(
        self,
        student: nn.Module,
        *others: nn.Module | None,
        optimizer: Optimizer | None = None,
        keep_graph: bool = False,
    ) -> None:
        """Change the networks in place; state dicts keep their names.

        Args:
            optimizer: that of the student.
            keep_graph: some iterations have several backward passes over one graph (gradient norms).
        """
        networks = [student, *(other for other in others if other is not None)]
        if self.channels_last:
            for network in networks:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if optimizer is not None:
            follow_order(optimizer)
        if self.compile:
            if keep_graph:  # else a compiled backward pass reuses the memory of what it has read, and has no second one
                torch._functorch.config.donated_buffer = False
            options = self.compile if isinstance(self.compile, dict) else {}
            for network in networks:
                for part in parts(network):
                    part.compile(**options)
        for name in self.modules:
            checkpoint_activations(attrgetter(name)(student))

    def image(self, image_bchw: Tensor) -> Tensor:
        """The image in the networks' order of memory."""
        return image_bchw.contiguous(memory_format=torch.channels_last) if self.channels_last else image_bchw


def follow_order(optimizer: Optimizer) -> None:
    """Let moments lie in memory as their parameters do, which fused kernels expect and a checkpoint may not have."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def parts(network: Any) -> Iterator[nn.Module]:
    """Encoder, neck and decode heads: what is called as a whole, from maps to maps."""
    for name in ("backbone", "neck", "decode_head", "auxiliary_head"):
        part = getattr(network, name, None)
        if part is None:
            continue
        # HRDA's head hands its inner heads more than maps; these are the ones that compute.
        inner = [getattr(part, n, None) for n in ("head", "scale_attention")]
        heads = part if isinstance(part, nn.ModuleList) else [m for m in inner if m is not None] or [part]
        yield from heads


def checkpoint_activations(module: nn.Module) -> None:
    """Make ``module`` forget what it computes until the backward pass, and compute it again there.

    Random numbers are the same in the second run, and batch norms count a batch once.
    """
    # A method, which a copy of the module rebinds to itself.
    module.forward = MethodType(_forward_twice, module)


def _forward_twice(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(self).forward, self)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), Reusable(partial(once_more, self, hidden_now(self)))),
        **kwargs,
    )


class Reusable(AbstractContextManager[None]):
    """A context made anew each time it is entered: every backward pass over a kept graph runs the module again."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self.make = make
        self.entered = ExitStack()

    def __enter__(self) -> None:
        self.entered.enter_context(self.make())

    def __exit__(self, *error: Any) -> None:
        self.entered.close()


@contextmanager
def once_more(module: nn.Module, hidden_b1hw: Tensor | None) -> Iterator[None]:
    """The second run sees what the first one saw (masked consistency hides tokens), and counts nothing twice."""
    with frozen_statistics(module), hiding_tokens(module, hidden_b1hw):
        yield


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics and leave the running ones alone."""
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
