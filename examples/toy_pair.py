"""The embedded domain pair as data sets of PyTorch, and a SegFormer that is small enough for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from pipa import toy

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLASSES = len(toy.CLASSES)


class Labelled(Dataset[tuple[Tensor, Tensor]]):
    """Synthetic scenes: normalised images (3, 128, 256) and class ids (128, 256)."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = toy.draw("source", index)
        return normalised(image), torch.from_numpy(label).long()


class Unlabelled(Dataset[Tensor]):
    """Images that look like photographs, without labels."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return normalised(toy.draw("target", index)[0])


def normalised(image_hwc: object) -> Tensor:
    image = torch.as_tensor(image_hwc).permute(2, 0, 1).float() / 255
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def network() -> SegformerForSemanticSegmentation:
    """Random weights; ``from_pretrained("nvidia/mit-b0", num_labels=CLASSES)`` starts from ImageNet's."""
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 4],
        decoder_hidden_size=48,
        num_labels=CLASSES,
    )
    return SegformerForSemanticSegmentation(config)


# A short run needs a fast teacher, a low bar and an early patch term; this encoder has no ImageNet weights.
SETTINGS = dict(
    num_classes=CLASSES,
    mean=MEAN,
    std=STD,
    alpha=0.9,
    threshold=0.7,
    patch_warmup=2,
    patch_size=[64, 96],
    feature_distance_weight=0,
    pixel_dim=32,
    patch_dim=32,
)
