"""How an encoder lays out classes and domains: distances between and within them, measured with labels.

Shape suffixes: B batch, C classes, D channels, H W size, P pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipa.networks.projection import concatenate


@dataclass(frozen=True)
class ClassMeans:
    """Mean direction of each class.

    mean_cd: mean of the unit features of a class; shorter than 1 by as much as they differ. seen_c: bool.
    """

    mean_cd: Tensor
    seen_c: Tensor

    @property
    def within(self) -> float:
        """Mean cosine distance of a pixel to its class's direction, averaged over the classes."""
        return float((1 - self.mean_cd[self.seen_c].norm(dim=1)).mean())

    @property
    def between(self) -> float:
        """Mean cosine distance of the directions of two classes."""
        unit = F.normalize(self.mean_cd[self.seen_c], dim=1)
        i, j = torch.triu_indices(len(unit), len(unit), 1)
        return float((1 - (unit[i] * unit[j]).sum(1)).mean())


def unit_features(features: Sequence[Tensor]) -> Tensor:
    """Encoder maps (B, D_i, H_i, W_i) as one (B, D, H_0, W_0): each of length 1, so that none drowns the others."""
    return F.normalize(concatenate([F.normalize(m.float(), dim=1) for m in features]), dim=1)


def class_means(
    batches: Iterable[tuple[Tensor, Tensor]],
    features: Callable[[Tensor], Sequence[Tensor]],
    num_classes: int,
) -> ClassMeans:
    """Mean directions over (image_bchw, label_bhw) pairs; ids outside of 0..num_classes-1 are left out."""
    total: Tensor | None = None
    number_c = torch.zeros(num_classes, dtype=torch.float64)
    for image, label_bhw in batches:
        unit_bdhw = unit_features(features(image)).double().cpu()
        grid = unit_bdhw.shape[2:]
        label_p = F.interpolate(label_bhw[:, None].double().cpu(), grid, mode="nearest").flatten().long()
        unit_pd = unit_bdhw.permute(0, 2, 3, 1).flatten(0, 2)
        kept = (label_p >= 0) & (label_p < num_classes)
        if total is None:
            total = unit_pd.new_zeros(num_classes, unit_pd.shape[1])
        total.index_add_(0, label_p[kept], unit_pd[kept])
        number_c += torch.bincount(label_p[kept], minlength=num_classes)
    if total is None:
        raise ValueError("class_means: expected at least one batch, got none")
    return ClassMeans(total / number_c.clamp(min=1)[:, None], number_c > 0)


def layout(source: ClassMeans, target: ClassMeans) -> dict[str, float]:
    """Cosine distances, 0 to 2, within classes and between them on both domains, and across the domains.

    ``across``: of a class's two directions, mean over the classes of both. ``matched``: share of those whose direction
    on the target is nearest to its own on the source.
    """
    both = source.seen_c & target.seen_c
    s, t = (F.normalize(means.mean_cd[both], dim=1) for means in (source, target))
    distance = 1 - t @ s.T
    matched = (distance.argmin(1) == torch.arange(len(distance))).double().mean()
    return {
        "source_within": source.within,
        "source_between": source.between,
        "target_within": target.within,
        "target_between": target.between,
        "across": float(distance.diagonal().mean()),
        "matched": float(matched),
    }
