"""The teacher without noise: batch statistics as in training, dropout and drop-path off."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def quiet_train(module: nn.Module) -> nn.Module:
    """Put ``module`` in training mode as far as its normalisation goes, and in evaluation mode for all else.

    Normalisation layers use the statistics of the batch and go on updating their own, as the released code has it.
    Every other module is told that it does not train. That silences dropout, drop-path and other noise of any library,
    under any name, and functional dropout too, because its owner decides with its own ``training``. What draws random
    numbers without looking at ``training`` stays noisy: nothing outside can tell.

    >>> import torch
    >>> from pipa.networks import quiet_train
    >>> net = quiet_train(torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout()))
    >>> net[0].training, net[1].training
    (True, False)
    """
    module.train()
    for layer in module.modules():
        # `train()` comes first: a backbone that keeps its norms frozen says so there, and they stay frozen.
        if not isinstance(layer, _NormBase):
            layer.training = False
    return module


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a normalisation layer of ``module`` uses the statistics of the batch at hand, as in a quiet teacher."""
    return any(isinstance(layer, _NormBase) and layer.training for layer in module.modules())
