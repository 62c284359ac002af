"""HRDA without recorded data: geometry, variants, odd sizes, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from pipa.inference.tiling import windows
from pipa.mmseg.models.segmentors.step_adapter import backbone_features, crop, segmentor_outputs, teacher_logits
from pipa.mmseg.models.sliding import TorchDraws, random_box

BN = {"type": "BN"}
MIT: dict[str, Any] = {
    "type": "MiT",
    "embed_dims": 8,
    "num_layers": (1, 1, 1, 1),
    "num_heads": (1, 2, 3, 4),
    # The usual reductions (8, 4, 2, 1) need images of 64 pixels at least.
    "sr_ratios": (2, 1, 1, 1),
    "drop_path_rate": 0.0,
}
HEAD: dict[str, Any] = {
    "type": "HRDAHead",
    "in_channels": [8, 16, 24, 32],
    "channels": 12,
    "num_classes": 5,
    "norm_cfg": BN,
    "dropout_ratio": 0.0,
    "attention_embed_dim": 6,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def hrda(head: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    cfg = {
        "type": "HRDAEncoderDecoder",
        "backbone": MIT,
        "decode_head": {**HEAD, **(head or {})},
        "hr_crop_size": (32, 32),
        "test_cfg": {"mode": "whole"},
        **kwargs,
    }
    return MODELS.build(ConfigDict(cfg)).eval()


class Fixed:
    def __init__(self, *values: int) -> None:
        self.values = list(values)

    def randint(self, low: int, high: int) -> int:
        value = self.values.pop(0)
        assert low <= value < high
        return value


def test_windows_cover_and_stay_inside() -> None:
    for size in [(64, 64), (65, 100), (32, 33), (20, 90)]:
        for stride in [(16, 16), (32, 32), (7, 31)]:
            seen = torch.zeros(size)
            for top, left, bottom, right in windows(size, (32, 32), stride):
                assert top >= 0
                assert left >= 0
                assert (bottom - top, right - left) == (min(32, size[0]), min(32, size[1]))
                seen[top:bottom, left:right] += 1
            assert seen.min() > 0
    with pytest.raises(ValueError, match="must be positive"):
        windows((8, 8), (4, 4), (0, 4))


def test_random_boxes_are_aligned_and_reproducible() -> None:
    def draw(seed: int) -> list[tuple[int, int, int, int]]:
        rng = TorchDraws(torch.Generator().manual_seed(seed))
        return [random_box((100, 64), (40, 32), 8, rng) for _ in range(200)]

    boxes = draw(1)
    assert boxes == draw(1) != draw(2)
    assert {b[0] for b in boxes} == {0, 8, 16, 24, 32, 40, 48}
    assert {b[1] for b in boxes} == {0, 8, 16, 24}
    assert all((b[2] - b[0], b[3] - b[1]) == (40, 32) for b in boxes)
    # Nothing to choose: no draw is made.
    assert random_box((32, 20), (32, 40), 8, Fixed()) == (0, 0, 32, 20)


def by_hand(model: Any, image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """The fusion of the paper for an image whose size and box lie on the cells of both heads."""
    top, left, bottom, right = box
    small = nn.functional.interpolate(image, scale_factor=0.5, mode="bilinear")
    features = model.backbone(small)
    context = model.decode_head.head(features)
    attention = model.decode_head.scale_attention(features).sigmoid()
    mask = torch.zeros(1, 1, *context.shape[2:])
    mask[:, :, top // 8 : bottom // 8, left // 8 : right // 8] = 1
    detail = torch.zeros(image.shape[0], 5, image.shape[2] // 4, image.shape[3] // 4)
    crop = model.decode_head.head(model.backbone(image[:, :, top:bottom, left:right]))
    detail[:, :, top // 4 : bottom // 4, left // 4 : right // 4] = crop

    def up(x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, detail.shape[2:], mode="bilinear")

    return up((1 - mask * attention) * context) + up(mask * attention) * detail


def test_fusion_of_a_crop_is_that_of_the_paper() -> None:
    model = hrda()
    model.rng = Fixed(3, 1)
    image = torch.randn(2, 3, 64, 96)
    out = segmentor_outputs(model, image)
    torch.testing.assert_close(out.heads[0].logits, by_hand(model, image, (24, 8, 56, 40)))
    assert [h.weight for h in out.heads] == [0.9, pytest.approx(0.1)]
    detail, region = out.detail
    assert out.heads[1].region == region == (24, 8, 56, 40)
    assert out.features[0].shape[2:] == (8, 12)
    assert detail[0].shape[2:] == (8, 8)
    label = torch.arange(64 * 96).view(1, 64, 96)
    assert crop(label, out.heads[1].region)[0, 0, 0] == 24 * 96 + 8


def test_one_window_over_the_whole_image_equals_the_whole_detail() -> None:
    model, whole = hrda(hr_crop_size=(64, 64)), hrda(hr_crop_size=None)
    whole.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(teacher_logits(model, image), teacher_logits(whole, image))
    unslid = hrda(hr_slide_inference=False)
    unslid.load_state_dict(model.state_dict())
    torch.testing.assert_close(teacher_logits(unslid, image), teacher_logits(whole, image))
    out = segmentor_outputs(whole, image)
    assert [h.region for h in out.heads] == [None, None]


@pytest.mark.parametrize("size", [(31, 45), (50, 77), (33, 33), (64, 31), (70, 101)])
@pytest.mark.parametrize("overlap", [True, False])
def test_any_image_size(size: tuple[int, int], overlap: bool) -> None:
    model = hrda(hr_slide_overlapping=overlap)
    image = torch.randn(1, 3, *size)
    full = teacher_logits(model, image)
    assert full.shape == (1, 5, *size)
    assert full.isfinite().all()
    out = segmentor_outputs(model, image)
    assert all(h.logits.isfinite().all() for h in out.heads)


def test_variants() -> None:
    image = torch.randn(2, 3, 64, 64)
    single = hrda({"attention_classwise": False})
    assert single.decode_head.scale_attention.conv_seg.weight.shape[0] == 1
    assert teacher_logits(single, image).shape == (2, 5, 64, 64)

    fixed = hrda({"fixed_attention": 0.0}, hr_crop_size=(32, 32))
    assert fixed.decode_head.scale_attention is None
    small = nn.functional.interpolate(image, scale_factor=0.5, mode="bilinear")
    context = fixed.decode_head.head(fixed.backbone(small))
    expected = nn.functional.interpolate(context, (16, 16), mode="bilinear")
    torch.testing.assert_close(segmentor_outputs(fixed, image).heads[0].logits, expected)

    coarse = hrda(scales=[0.5])
    assert coarse.decode_head.scale_attention is None
    out = segmentor_outputs(coarse, image)
    assert [(h.logits.shape[2:], h.weight) for h in out.heads] == [((8, 8), 1.0)]
    assert teacher_logits(coarse, image).shape == (2, 5, 64, 64)

    fine = hrda(feature_scale=1, scales=[0.25, 1])
    fine.eval()
    out = segmentor_outputs(fine, image)
    assert out.detail[1] == out.heads[1].region is not None
    for ours, theirs in zip(out.features, backbone_features(fine, image), strict=True):
        assert torch.equal(ours, theirs)
    assert out.features[0].shape[2:] == (16, 16)


def test_attention_head_of_an_aspp_fusion_is_a_1x1_fusion() -> None:
    model = hrda({"decoder_params": {"embed_dims": 10, "fusion_cfg": "sepaspp"}})
    attention = model.decode_head.scale_attention
    assert attention.fuse_layer.conv.kernel_size == (1, 1)
    assert attention.fuse_layer.conv.out_channels == attention.channels == 6
    assert type(model.decode_head.head.fuse_layer).__name__ == "ASPP"


def test_mmseg_interface() -> None:
    model = hrda(test_cfg={"mode": "slide", "crop_size": (48, 48), "stride": (24, 24), "batched_slide": True}).train()
    image = torch.randn(2, 3, 64, 64)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64)})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, 64, 64)))
        samples.append(sample)
    model.rng = Fixed(1, 2, 1, 2)
    losses = model.loss(image, samples)
    assert set(losses) == {"decode.loss_seg", "decode.acc_seg", "decode.hr.loss_seg", "decode.hr.acc_seg"}
    out = segmentor_outputs(model, image)
    label = torch.stack([s.gt_sem_seg.data for s in samples]).squeeze(1)
    for name, part in zip(("decode", "decode.hr"), out.heads, strict=True):
        region = crop(label, part.region)
        logits = nn.functional.interpolate(part.logits, region.shape[1:], mode="bilinear")
        expected = part.weight * nn.functional.cross_entropy(logits, region)
        torch.testing.assert_close(losses[f"{name}.loss_seg"], expected)
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    result = model.eval().predict(image, samples)
    assert result[0].pred_sem_seg.data.shape == (1, 64, 64)
    assert model(image, mode="tensor").shape == (2, 5, 16, 16)


def test_detail_crops_are_encoded_a_few_at_a_time() -> None:
    model = hrda(test_cfg={"mode": "whole"}).eval()
    image, seen = torch.randn(2, 3, 96, 64), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    results = []
    with torch.no_grad():
        for model.crops_per_pass in (1, 4, 1000):
            seen.clear()
            results.append(model.full_logits(image))
            # The context first, then detail crops of both images, no more than asked for where that is possible.
            assert seen[0] == (2, 3, 48, 32)
            assert all(shape[0] <= max(model.crops_per_pass, 2) for shape in seen[1:])
    assert len(seen) == 2
    for result in results[:-1]:
        torch.testing.assert_close(result, results[-1])


@pytest.mark.parametrize(
    ("error", "message", "head", "kwargs"),
    [
        (ValueError, "scales must be", {}, {"scales": [1, 2]}),
        (ValueError, "scales must be", {}, {"scales": [0.25, 0.5, 1]}),
        (ValueError, "feature_scale must be", {}, {"feature_scale": 0.75}),
        (ValueError, "crop_coord_divisible", {}, {"crop_coord_divisible": 0}),
        (ValueError, "hr_loss_weight", {"hr_loss_weight": 1.5}, {}),
        (ValueError, "fixed_attention", {"fixed_attention": -1.0}, {}),
    ],
)
def test_wrong_settings_are_named(error: type, message: str, head: dict[str, Any], kwargs: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        hrda(head, **kwargs)


def test_mixed_precision_and_channels_last() -> None:
    model = hrda().train()
    image = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.rng = Fixed(1, 2)
        low = segmentor_outputs(model, image)
        full = teacher_logits(model, image)
    model.rng = Fixed(1, 2)
    high = segmentor_outputs(model, image)
    for a, b in zip(low.heads, high.heads, strict=True):
        assert (a.logits.float() - b.logits).abs().max() < 0.1 * b.logits.abs().max()
    assert full.isfinite().all()
    sum(h.logits.float().square().mean() for h in low.heads).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
