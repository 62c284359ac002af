"""What the step needs of a network, as one public concept, and how modules of each library fulfil it."""

from pipa.networks.base import Head, Networks, Outputs, OwnOutputs, Region
from pipa.networks.maps import MapReader
from pipa.networks.plain import PlainNetworks
from pipa.networks.projection import ProjectionHead
from pipa.networks.quiet import quiet_train

__all__ = [
    "Head",
    "MapReader",
    "Networks",
    "Outputs",
    "OwnOutputs",
    "PlainNetworks",
    "ProjectionHead",
    "Region",
    "quiet_train",
]
