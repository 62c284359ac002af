"""Layer-wise learning rates for a pretrained transformer: the deeper a block, the faster it learns."""

from __future__ import annotations

import re
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers)\.(\d+)\.")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with ``paramwise_cfg=dict(layer_decay=0.9, ...)`` beside its own keys.

    Of an encoder of n blocks, block i learns at ``layer_decay ** (n - 1 - i)`` of the rate it has otherwise, and what
    comes before the blocks (patches, positions, tokens) at ``layer_decay ** n``. What comes after them (the last norm,
    a pyramid, heads) and adapters (LoRA), which start from nothing, are left alone.

    mmsegmentation's ``LearningRateDecayOptimizerConstructor`` knows only the names of its own BEiT, MAE and ConvNeXt,
    and no rate of its own for heads.

    Args of ``paramwise_cfg``:
        layer_decay: in (0, 1].
        layer_decay_module: the encoder inside the model, ``"backbone.vit"`` by default.

    Example::

        optim_wrapper = dict(
            constructor="LayerDecayConstructor",
            optimizer=dict(type="AdamW", lr=2.8e-6, weight_decay=0.01),
            paramwise_cfg=dict(layer_decay=0.9, custom_keys=dict(head=dict(lr_mult=10.0))),
        )

    >>> import torch
    >>> from pipa.mmseg import LayerDecayConstructor
    >>> blocks = torch.nn.ModuleList(torch.nn.Linear(1, 1, bias=False) for _ in range(3))
    >>> vit = torch.nn.ModuleDict({"blocks": blocks})
    >>> model = torch.nn.ModuleDict({"backbone": torch.nn.ModuleDict({"vit": vit})})
    >>> settings = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=1.0))
    >>> wrapper = LayerDecayConstructor(settings, dict(layer_decay=0.5))(model)
    >>> [group["lr"] for group in wrapper.optimizer.param_groups]
    [0.25, 0.5, 1.0]
    """

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: int | float | None = None
    ) -> None:
        """As the parent's; the outermost call then lowers the rates."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        decay = self.paramwise_cfg.get("layer_decay")
        where = self.paramwise_cfg.get("layer_decay_module", "backbone.vit")
        if not isinstance(decay, (int, float)) or not 0 < decay <= 1:
            raise ValueError(f"paramwise_cfg.layer_decay: expected a number in (0, 1], got {decay!r}")
        factors = layer_factors(module, where, float(decay))
        for group in params:
            factor = factors.get(id(group["params"][0]))
            if factor is not None:
                rate: Any = group.get("lr", self.base_lr)
                group["lr"] = rate * factor


def layer_factors(model: Any, where: str, decay: float) -> dict[int, float]:
    """Factor of the rate of each parameter (by ``id``) of the encoder ``where`` inside ``model``.

    Raises:
        ValueError: there is no such module, or it has no blocks.
    """
    try:
        encoder = model.get_submodule(where)
    except AttributeError as error:
        raise ValueError(f"paramwise_cfg.layer_decay_module: the model has no module {where!r} ({error})") from None
    names = [name for name, _ in encoder.named_parameters()]
    blocks = [int(found[1]) for found in map(_BLOCK.search, names) if found]
    if not blocks:
        raise ValueError(f"paramwise_cfg.layer_decay_module: expected an encoder with blocks, got {where!r}")
    depth, first = 1 + max(blocks), True
    factors: dict[int, float] = {}
    for name, parameter in encoder.named_parameters():
        found = _BLOCK.search(name)
        first = first and found is None and not name.startswith("norm.")
        if ".lora_" in name:
            continue
        if found:
            factors[id(parameter)] = decay ** (depth - 1 - int(found[1]))
        elif first:
            factors[id(parameter)] = decay**depth
    return factors
