"""PiPa: pixel- and patch-wise self-supervised domain adaptation for semantic segmentation.

>>> from pipa import PixelContrastLoss, PatchContrastLoss, PipaStep

>>> import torch
>>> PixelContrastLoss()(torch.zeros(1, 8, 4, 4), torch.zeros(2, 5, 5, dtype=torch.int64))
Traceback (most recent call last):
pipa.ShapeError: ...

What is wrong with an argument or a loss can be caught by kind, or by Python's:

>>> from pipa import DeviceError, DTypeError, NonFiniteError, ShapeError
>>> [error.__base__.__name__ for error in (ShapeError, DTypeError, DeviceError, NonFiniteError)]
['ValueError', 'TypeError', 'ValueError', 'ArithmeticError']

Three ways in: the losses and the step on any PyTorch network (this module), a hook for mmsegmentation configs
(:mod:`pipa.mmseg`), and the command line (``pipa train CONFIG``).
"""

from pipa import _abi

_abi.check()

import torch as _torch  # noqa: E402, F401  (loads libtorch, which _core links to)

from pipa import functional, inference, toy, viz  # noqa: E402
from pipa._core import (  # noqa: E402
    DeviceError,
    DTypeError,
    NonFiniteError,
    ShapeError,
    __version__,
)
from pipa.group import Group, GroupError, PeerNonFiniteError  # noqa: E402
from pipa.loading import load  # noqa: E402
from pipa.losses import PatchContrastLoss, PixelContrastLoss  # noqa: E402
from pipa.step import PipaStep  # noqa: E402

__all__ = [
    "DTypeError",
    "DeviceError",
    "Group",
    "GroupError",
    "NonFiniteError",
    "PatchContrastLoss",
    "PeerNonFiniteError",
    "PipaStep",
    "PixelContrastLoss",
    "ShapeError",
    "__version__",
    "functional",
    "inference",
    "load",
    "toy",
    "viz",
]
