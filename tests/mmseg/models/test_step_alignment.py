"""HRDA through the whole step: the pixel term's labels are those of the detail crop the encoder really saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from pipa import PipaStep
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks

CLASSES = 5
BN = {"type": "BN", "requires_grad": True}
MODEL: dict[str, Any] = {
    "type": "HRDAEncoderDecoder",
    "backbone": {"type": "MiT", "embed_dims": 8, "num_layers": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
    "decode_head": {
        "type": "HRDAHead",
        "in_channels": [8, 8, 8, 8],
        "in_index": [0, 1, 2, 3],
        "channels": 8,
        "num_classes": CLASSES,
        "norm_cfg": BN,
        "align_corners": False,
        "attention_embed_dim": 8,
        "decoder_params": {
            "embed_dims": 8,
            "fusion_cfg": {"type": "conv", "kernel_size": 1, "norm_cfg": BN, "act_cfg": {"type": "ReLU"}},
        },
    },
    "hr_crop_size": (64, 64),
}


class Painted(nn.Module):
    """Projection head that names the class painted into the image the encoder saw last."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        crop = self.seen[-1][:, 0].round().long()
        # On the graph of the features, with no value of theirs.
        return nn.functional.one_hot(crop, CLASSES).permute(0, 3, 1, 2) + 0 * features[0].mean()


@pytest.mark.parametrize("seed", range(4))
def test_labels_follow_the_detail_crop(seed: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = MODELS.build(ConfigDict(MODEL)).train()
    label = torch.randint(0, CLASSES, (1, 16, 16)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = label.float().unsqueeze(1).repeat(1, 3, 1, 1)
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    off = {"mix_weight": 0, "patch_weight": 0, "feature_distance_weight": 0}
    step = PipaStep(
        model,
        num_classes=CLASSES,
        adapter=SegmentorNetworks,
        heads=nn.ModuleDict({"pixel_head": Painted(seen)}),
        pixel_sampling="all",
        pixel_weight=1.0,
        **off,
    )
    log = step(image, label, image)
    # Context at half size, then the detail crop at full size.
    assert [tuple(s.shape[2:]) for s in seen] == [(64, 64), (64, 64)]
    counts = torch.bincount(seen[-1][:, 0].long().flatten(), minlength=CLASSES).double()
    total = counts.sum()
    # Equal embeddings within a class, orthogonal ones between; any other pairing of labels gives more.
    expected = float((torch.log((counts - 1) + (total - counts) * math.exp(-10)) * counts).sum() / total)
    assert float(log["loss_pixel"]) == pytest.approx(expected, rel=1e-5)


def test_heads_of_the_detail_crop_are_compared_with_its_labels() -> None:
    """A detail head that is right about its crop has no loss there."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(MODEL)).train()
    label = torch.randint(0, CLASSES, (1, 128, 128))
    image = label.float().unsqueeze(1).repeat(1, 3, 1, 1)
    regions: list[Any] = []

    class Sure(SegmentorNetworks):
        def outputs(self, module: nn.Module, image: Tensor) -> Any:
            heads, features, detail = super().outputs(module, image)
            (_, whole, first), (_, region, second) = heads
            assert whole is None
            top, left, bottom, right = region
            regions.append(region)
            crop = image[:, 0, top:bottom, left:right].round().long()
            logits = 50.0 * nn.functional.one_hot(crop, CLASSES).permute(0, 3, 1, 2).float()
            full = 50.0 * nn.functional.one_hot(image[:, 0].round().long(), CLASSES).permute(0, 3, 1, 2).float()
            return [(full, None, first), (logits, region, second)], features, detail

    off = {"mix_weight": 0, "patch_weight": 0, "feature_distance_weight": 0, "pixel_weight": 0}
    step = PipaStep(model, num_classes=CLASSES, adapter=Sure, **off)
    for _ in range(4):
        assert float(step(image, label, image)["loss_source"]) < 1e-6
    assert len(set(regions)) > 1
