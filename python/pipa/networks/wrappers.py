"""Networks inside the wrappers of PyTorch: compiled, data parallel, with activation checkpoints, sharded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from pipa.networks.maps import FeaturesError

# Components of a layer's name that a wrapper adds.
ADDED = {"_orig_mod", "module", "_checkpoint_wrapped_module"}


@dataclass
class Unwrapped:
    """A network without its wrappers, and what they stand for.

    core: the network itself. compiler: turns a function into a compiled one, as the network was; None if it was not.
    distributed: it came in DistributedDataParallel. process_group: that wrapper's.
    """

    core: nn.Module
    compiler: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    distributed: bool = False
    process_group: Any = None


def unwrap(module: nn.Module, name: str = "student") -> Unwrapped:
    """The network inside torch.compile, DataParallel and DistributedDataParallel, in any order.

    Raises:
        ValueError: a sharded network (FSDP), or DataParallel over several devices.
    """
    found = Unwrapped(module)
    while True:
        core: Any = found.core
        if isinstance(core, DistributedDataParallel):
            found.distributed, found.process_group, found.core = True, core.process_group, core.module
        elif isinstance(core, DataParallel):
            if len(core.device_ids) > 1:
                raise ValueError(
                    f"{name}: DataParallel over {len(core.device_ids)} devices keeps the feature maps on each of them; "
                    "use DistributedDataParallel, one process a device"
                )
            found.core = core.module
        elif hasattr(core, "_orig_mod") and hasattr(core, "dynamo_ctx"):
            found.compiler, found.core = core.dynamo_ctx, core._orig_mod
        else:
            break
    kinds = {type(p).__name__ for p in found.core.parameters()}
    if "DTensor" in kinds or type(found.core).__name__ == "FullyShardedDataParallel":
        raise ValueError(
            f"{name}: its parameters are sharded (FSDP or DTensor), and the teacher is a moving average of whole "
            "parameters; use DistributedDataParallel"
        )
    if "UninitializedParameter" in kinds:
        raise ValueError(f"{name}: has lazy layers without parameters yet; pass one image through it first")
    return found


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` or a part of it was compiled in place, with ``module.compile()``."""
    return any(layer._compiled_call_impl is not None for layer in module.modules())


def clean(name: str) -> str:
    """The name of a layer without what wrappers add to it."""
    return ".".join(part for part in name.split(".") if part not in ADDED)


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """The layer of that name, with or without the wrappers' additions.

    Raises:
        FeaturesError: there is none; the message names the network's layers.
    """
    layers = dict(module.named_modules())
    if name in layers:
        return layers[name]
    by_name = {clean(full): layer for full, layer in layers.items()}
    if clean(name) in by_name and clean(name):
        return by_name[clean(name)]
    names = ", ".join(child for child, _ in module.named_children())
    raise FeaturesError(f"features={name!r} is no layer of {type(module).__name__}; it has: {names}")
