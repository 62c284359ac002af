"""First values of the prototypes (ProDA): class means over the target with the network that the stage starts from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipa.group import Group
from pipa.networks import Networks


@torch.no_grad()
def class_means(
    networks: Networks,
    module: nn.Module,
    images: Iterable[Tensor],
    settings: dict[str, Any],
    group: Group | None = None,
) -> tuple[Tensor, Tensor]:
    """Means over all pixels of `images` of the features of ``module`` in evaluation mode, by its own labels.

    Args:
        images: normalised (B, 3, H, W). With a group: this process's part, equally many batches on each.

    Returns:
        Prototypes (K, D), and the number of updates (K,) they stand for: as many as the momentum remembers, 0 for a
        class with fewer than ``prototype_min_pixels`` pixels.
    """
    training = module.training
    classes, total, count = settings["num_classes"], None, None
    try:
        module.eval()
        for image in images:
            feat, logits = map_and_logits(networks, module, image, settings["prototype_layer"])
            if logits.shape[2:] != feat.shape[2:]:
                logits = nn.functional.interpolate(logits, feat.shape[2:], mode="bilinear", align_corners=False)
            member = nn.functional.one_hot(logits.argmax(1), classes).to(feat.dtype)  # (B, h, w, K)
            sums = torch.einsum("bdhw,bhwk->kd", feat, member)
            total = sums if total is None else total + sums
            seen = member.double().sum((0, 1, 2)) if member.device.type != "mps" else member.sum((0, 1, 2))
            count = seen if count is None else count + seen
    finally:
        module.train(training)
    if total is None or count is None:
        raise ValueError("first prototypes: expected at least one batch of target images, got none")
    if group is not None:
        total, count = group.sum(total), group.sum(count)
    momentum = settings["prototype_momentum"]
    remembered = 10**9 if momentum >= 1 else max(1, round(1 / (1 - momentum)))
    enough = count >= settings["prototype_min_pixels"]
    means = total / count.clamp_min(1).to(total.dtype)[:, None]
    return means.where(enough[:, None], torch.zeros_like(means)), enough.long() * remembered


def map_and_logits(networks: Networks, module: nn.Module, image: Tensor, layer: int | str) -> tuple[Tensor, Tensor]:
    """The map that prototypes live on and the logits of one image batch, in float32."""
    if layer == "head":
        with networks.classified(module) as seen:
            logits = networks.logits(module, image)
            feat = seen()
    else:
        feat = list(networks.features(module, image))[int(layer)]
        logits = networks.logits(module, image)
    return feat.float(), logits.float()
