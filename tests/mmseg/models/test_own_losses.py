"""Heads with another loss than the plain cross entropy: the source term is the model's own loss, value and gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import Tensor, nn
from torch.nn import functional

import pipa.mmseg  # noqa: F401  (registers)
from pipa import PipaStep
from pipa.mmseg.models.segmentors.step_adapter import segmentor_outputs, teacher_logits
from pipa.networks import OwnOutputs

CLASSES = 5
WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]
MIT = {"type": "MiT", "embed_dims": 8, "num_layers": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4), "drop_path_rate": 0.0}
CE: dict[str, Any] = {"type": "CrossEntropyLoss"}
DICE: dict[str, Any] = {"type": "DiceLoss", "loss_weight": 0.5}
OFF: dict[str, Any] = {
    "mix_weight": 0,
    "pixel_weight": 0,
    "patch_weight": 0,
    "feature_distance_weight": 0,
    "num_classes": CLASSES,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    register_all_modules(init_default_scope=True)
    torch.set_num_threads(1)


def head(index: int = 3, **change: Any) -> dict[str, Any]:
    return {
        "type": "FCNHead",
        "in_channels": (8, 16, 24, 32)[index],
        "in_index": index,
        "channels": 6,
        "num_convs": 1,
        "concat_input": False,
        "num_classes": CLASSES,
        "dropout_ratio": 0.0,
        "norm_cfg": {"type": "BN"},
        **change,
    }


def segmentor(decode_head: Any, **change: Any) -> Any:
    cfg = {"type": "EncoderDecoder", "backbone": MIT, "decode_head": decode_head, "test_cfg": {"mode": "whole"}}
    return MODELS.build(ConfigDict({**cfg, **change})).train()


def batch() -> tuple[Tensor, Tensor]:
    image = torch.randn(2, 3, 64, 64)
    label = torch.randint(0, CLASSES, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    label[:, :9, :20] = 255
    return image, label


def samples(label: Tensor) -> list[Any]:
    return [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in label]


def trained_by_mmseg(model: Any, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of mmsegmentation's own training step on a copy."""
    twin = copy.deepcopy(model)
    loss, _ = twin.parse_losses(twin.loss(image, samples(label)))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


CASES: dict[str, Any] = {
    "class weights": head(loss_decode={**CE, "class_weight": WEIGHTS}),
    "mean over labelled pixels": head(loss_decode={**CE, "avg_non_ignore": True}),
    "sigmoid": head(loss_decode={**CE, "use_sigmoid": True, "loss_weight": 2.0}),
    "dice beside cross entropy": head(loss_decode=[CE, DICE]),
    "lovasz beside cross entropy": head(
        loss_decode=[CE, {"type": "LovaszLoss", "per_image": True, "reduction": "mean"}]
    ),
    "hard pixels": head(sampler={"type": "OHEMPixelSampler", "thresh": 0.7, "min_kept": 100}),
    "hardest pixels": head(sampler={"type": "OHEMPixelSampler", "min_kept": 100}),
    "aligned corners": head(align_corners=True, loss_decode=[CE, DICE]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_source_term_is_the_models_own_loss(name: str) -> None:
    model = segmentor(copy.deepcopy(CASES[name]), auxiliary_head=[head(2, loss_decode={**CE, "loss_weight": 0.4})])
    image, label = batch()
    expected, gradients = trained_by_mmseg(model, image, label)
    log = PipaStep(model, **OFF)(image, label, image)
    assert float(log["loss_source"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(log["loss"]) == float(log["loss_source"])
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) == set(gradients)
    for key, gradient in gradients.items():
        torch.testing.assert_close(found[key], gradient, msg=key)


@pytest.mark.parametrize("change", [{}, {"align_corners": True}])
def test_a_plain_head_is_trained_as_mmsegmentation_trains_it(change: dict[str, Any]) -> None:
    """The step's own cross entropy: auxiliary weights and aligned corners are those of the heads."""
    aux = head(2, loss_decode={**CE, "loss_weight": 0.4}, **change)
    model = segmentor(head(loss_decode=[CE, {**CE, "loss_weight": 0.5}], **change), auxiliary_head=[aux])
    image, label = batch()
    assert not isinstance(segmentor_outputs(copy.deepcopy(model), image), OwnOutputs)
    expected, gradients = trained_by_mmseg(model, image, label)
    log = PipaStep(model, **OFF)(image, label, image)
    assert float(log["loss_source"]) == pytest.approx(float(expected), rel=1e-5)
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[key], msg=key, rtol=1e-4, atol=1e-6)


def test_mixed_and_masked_terms_are_the_cross_entropy_of_the_main_map() -> None:
    """With confidence in everything, the masked term is the cross entropy with the teacher's argmax, weighed 2."""
    model = segmentor(head(loss_decode=[{**CE, "loss_weight": 2.0}, DICE]), auxiliary_head=[head(2)])
    image, label = batch()
    plain = {"mask_augment": False, "mask_ratio": 0.0, "threshold": 0.0, "ignore_top": 0}
    step = PipaStep(model, **{**OFF, **plain, "mask_weight": 1.0})
    teacher = teacher_logits(copy.deepcopy(step.teacher), image).argmax(1)
    main = segmentor_outputs(copy.deepcopy(model), image)
    assert [h.weight for h in main.heads] == [2.0]
    logits = functional.interpolate(main.heads[0].logits, (64, 64), mode="bilinear")
    log = step(image, label, image)
    assert float(log["loss_mask"]) == pytest.approx(
        2 * float(functional.cross_entropy(logits, teacher).detach()), rel=1e-5
    )


def test_one_map_for_two_classes() -> None:
    """Sigmoid of one logit: the step sees two classes of the same probabilities."""
    binary = head(loss_decode={**CE, "use_sigmoid": True}, num_classes=2, out_channels=1, threshold=0.5)
    model = segmentor(binary).eval()
    image, label = batch()
    label = label.where(label == 255, label % 2)
    own = model.encode_decode(image, [{"img_shape": (64, 64)}])
    torch.testing.assert_close(teacher_logits(model, image).softmax(1)[:, 1:], own.sigmoid())
    model.train()
    expected, _ = trained_by_mmseg(model, image, label)
    log = PipaStep(model, **{**OFF, "num_classes": 2, "mix_weight": 1.0})(image, label, image)
    assert float(log["loss_source"]) == pytest.approx(float(expected), rel=1e-6)


def test_hrda_honours_its_losses() -> None:
    """Both maps, each with its share, as `model.loss` has them."""
    decode = {
        "type": "HRDAHead",
        "in_channels": [8, 16, 24, 32],
        "in_index": [0, 1, 2, 3],
        "channels": 8,
        "num_classes": CLASSES,
        "norm_cfg": {"type": "BN"},
        "dropout_ratio": 0.0,
        "attention_embed_dim": 8,
        "decoder_params": {"embed_dims": 8, "fusion_cfg": "conv1"},
        "loss_decode": [{**CE, "class_weight": WEIGHTS}, DICE],
    }
    model = segmentor(decode, type="HRDAEncoderDecoder", hr_crop_size=(32, 32))
    image, label = batch()
    torch.manual_seed(3)
    expected, gradients = trained_by_mmseg(model, image, label)
    torch.manual_seed(3)
    log = PipaStep(model, **OFF)(image, label, image)
    assert float(log["loss_source"]) == pytest.approx(float(expected), rel=1e-6)
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[key], msg=key)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Mask2FormerHead", "classifies masks, which its own matching trains"), ("PointHead", "refines single points")],
)
def test_heads_without_a_map_are_refused(name: str, message: str) -> None:
    model = segmentor(head())
    model.decode_head.__class__ = type(name, (type(model.decode_head),), {})
    with pytest.raises(TypeError, match=f"decode: {name} {message}"):
        segmentor_outputs(model, torch.randn(1, 3, 64, 64))


def test_settings_that_the_heads_have_themselves() -> None:
    model: nn.Module = segmentor(head())
    with pytest.raises(ValueError, match="auxiliary_weight: an mmsegmentation network has its own"):
        PipaStep(model, auxiliary_weight=0.3, **OFF)
    with pytest.raises(ValueError, match="align_corners: an mmsegmentation network has its own"):
        PipaStep(model, align_corners=True, **OFF)
