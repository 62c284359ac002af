"""Which parameters of a network belong to its encoder: those that its maps depend on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipa.networks.base import Networks
from pipa.networks.trial import REFUSALS, blank, evaluating, sizes, unchanged_draws


def encoder_parameters(networks: Networks, module: nn.Module) -> list[Tensor]:
    """Trained parameters that the encoder maps of a blank image depend on, by autograd's graph.

    Weights, statistics, modes and draws stay as they are.

    Returns:
        None of them twice; an empty list if the network gives no map, takes no blank image, or trains no encoder.
    """
    for size in sizes(module):
        try:
            # A compiled part is one node of the graph, which does not tell a map's parameters from the others.
            with torch.enable_grad(), torch.compiler.set_stance("force_eager"), evaluating(module), unchanged_draws():
                return reached(networks.features(module, blank(module, size)))
        except REFUSALS:
            continue
    return []


def reached(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Leaves of autograd's graph above ``tensors``."""
    found: dict[int, Tensor] = {}
    nodes = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        above = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= above
        nodes += above
    return list(found.values())
