"""What the step asks of a network, and how networks of each library answer."""

from pipa.networks.base import Networks, Outputs, quiet_train
from pipa.networks.plain import PlainNetworks

__all__ = ["Networks", "Outputs", "PlainNetworks", "quiet_train"]
