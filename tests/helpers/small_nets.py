"""A small network and batch for tests of the whole step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipa import PipaStep

CLASSES = 4
SIDE = 32
# Small heads and few anchors, every pixel sure, no warm-up: for networks of any size.
SMALL_STEP: dict[str, Any] = {
    "threshold": 0.0,
    "pixel_dim": 8,
    "patch_dim": 8,
    "projection_hidden": 8,
    "pixel_max_anchors": 64,
    "pixel_max_per_class": 16,
    "patch_warmup": 0,
    "feature_distance_min_ratio": 0.1,
}
# Sizes for 32 x 32 images and features of stride 4; every term on.
ALL_TERMS: dict[str, Any] = {
    "num_classes": CLASSES,
    "threshold": 0.2,
    "pixel_max_anchors": 64,
    "pixel_max_per_class": 16,
    "patch_warmup": 0,
    "patch_size": [16, 16],
    "patch_align": 4,
    "mask_weight": 1.0,
    "mask_block": 8,
}
OFF: dict[str, Any] = {
    "mix_weight": 0,
    "pixel_weight": 0,
    "patch_weight": 0,
    "mask_weight": 0,
    "feature_distance_weight": 0,
}
TERMS = ("pixel", "feature_distance", "mix", "patch", "mask")


class SmallNet(nn.Module):
    """(logits, features) with strides 2 and 4. ``detached``: the classifier gives the backbone no gradient."""

    def __init__(self, detached: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = nn.ModuleList([nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)])
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(8, CLASSES, 1)
        self.detached = detached

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        shallow = self.backbone[0](image).relu()
        deep = self.norm(self.backbone[1](shallow)).relu()
        seen = deep.detach() if self.detached else deep
        return self.classifier(self.dropout(seen)), [shallow, deep]


def small_step(student: nn.Module | None = None, **settings: Any) -> tuple[nn.Module, PipaStep]:
    """Student in training mode and a step with every term on, unless the settings say otherwise."""
    torch.manual_seed(0)
    student = (SmallNet() if student is None else student).train()
    imagenet = SmallNet().requires_grad_(False)
    options = {"pixel_dim": 8, "patch_dim": 8, "projection_hidden": 8, "imagenet": imagenet}
    return student, PipaStep(student, **{**options, **ALL_TERMS, **settings})


def small_batch(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Source image, label (stripes of all classes, some pixels ignored) and target image."""
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randn(2, 2, 3, SIDE, SIDE, generator=generator)
    label = (torch.arange(SIDE) // 8 % CLASSES).expand(2, SIDE, SIDE).clone()
    label[:, ::5, ::7] = 255
    return source, label, target
