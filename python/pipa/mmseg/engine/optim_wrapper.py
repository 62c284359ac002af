"""Mixed precision without a gradient scaler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Networks run in bfloat16 where that is safe, weights and optimiser stay in float32; on CPUs and GPUs.

    bfloat16 has float32's range, so gradients need no scaling. mmengine's ``AmpOptimWrapper`` refuses CPUs and always
    scales, which makes the host wait for the device at every step; for float16 it is the one to take.

    Args:
        enabled: False trains in float32.
        kwargs: those of ``OptimWrapper``.

    >>> import torch
    >>> import pipa.mmseg
    >>> layer = torch.nn.Linear(4, 2)
    >>> wrapper = pipa.mmseg.AutocastOptimWrapper(optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
    >>> with wrapper.optim_context(layer):
    ...     out = layer(torch.ones(1, 4))
    >>> out.dtype, layer.weight.dtype
    (torch.bfloat16, torch.float32)
    """

    def __init__(self, enabled: bool = True, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.enabled = enabled

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16, enabled=self.enabled):
            yield
