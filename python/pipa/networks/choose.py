"""The adapter that fits a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from pipa.networks.base import Networks
from pipa.networks.plain import Features, PlainNetworks
from pipa.networks.search import LIBRARIES, library


def adapter_for(
    core: nn.Module,
    features: Features | None,
    num_classes: int,
    auxiliary_weight: float | Sequence[float] | None,
    align_corners: bool,
    finest_stride: int,
    compiler: Callable[..., Any] | None,
) -> Callable[..., Networks]:
    """Makes the :class:`Networks` of a network: that of its library, else :class:`PlainNetworks`."""
    name = library(core)
    kind: Any = PlainNetworks
    # What is asked for by name or function is caught in any network alike.
    if name is not None and not (name == "mmseg" and features is not None):
        file, _, attribute = LIBRARIES[name].partition(":")
        kind = getattr(import_module(file), attribute)
    if not issubclass(kind, PlainNetworks):
        for setting, given in (("auxiliary_weight", auxiliary_weight is not None), ("align_corners", align_corners)):
            if given:
                raise ValueError(f"{setting}: an mmsegmentation network has its own; set it in its decode heads")
        return partial(kind, finest_stride=finest_stride)
    return partial(
        kind,
        features=features,
        num_classes=num_classes,
        auxiliary_weight=auxiliary_weight,
        align_corners=align_corners,
        finest_stride=finest_stride,
        compiler=compiler,
    )
