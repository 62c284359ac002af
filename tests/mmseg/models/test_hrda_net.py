"""HRDA against recorded runs of the released network: both passes, losses, gradients, BN and sliding inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("safetensors")

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from safetensors.torch import load_file
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from network_cases import Replay, backbone, check_gradients, close, head, load, loss_and_accuracy
from pipa.mmseg.checkpoints.keys import convert_state_dict
from pipa.mmseg.models.segmentors.step_adapter import crop, segmentor_outputs, teacher_logits
from pipa.networks import quiet_train


def build(info: dict[str, Any], state: dict[str, Tensor], crop: tuple[int, int], **test_cfg: Any) -> nn.Module:
    torch.set_num_threads(1)
    settings = info.get("cfg", {})
    depths = tuple(int(d) for d in settings.get("depths", "(1, 1, 1, 1)").strip("()").split(","))
    cfg = {
        "type": "HRDAEncoderDecoder",
        "backbone": backbone(depths),
        "decode_head": {
            **head("sepaspp"),
            "type": "HRDAHead",
            "single_scale_head": "DAFormerHead",
            "attention_embed_dim": 16,
            "attention_classwise": settings.get("classwise") != "False",
            "hr_loss_weight": 0.1,
        },
        "scales": [1, 0.5],
        "hr_crop_size": crop,
        "hr_slide_overlapping": settings.get("overlap") != "False",
        "feature_scale": 0.5,
        "crop_coord_divisible": 8,
        "test_cfg": {"mode": "whole", **test_cfg},
    }
    model = MODELS.build(ConfigDict(cfg))
    model.load_state_dict(convert_state_dict(state))
    return model.eval()


CASES = ["main"]


@pytest.mark.parametrize("name", CASES)
def test_slide_over_the_detail(golden: Path, name: str) -> None:
    info, arrays, state = load(golden / "hrda_net", name)
    model = build(info, state, tuple(info["hr_crop"]))
    with torch.no_grad():
        features = model._slide_features(arrays["img"])
        parts = model.decode_head.predict_scales(features)
        boxes = torch.tensor(features.boxes)[:, [0, 2, 1, 3]]
        assert torch.equal(boxes, arrays["slide_boxes"].long())
        close(parts.attention, arrays["scale_attention"], 1e-5, "attention")
        close(parts.context, arrays["lr_head"], 1e-5, "context logits")
        close((1 - parts.attention) * parts.context, arrays["lr_seg_masked"], 1e-5, "weighted context logits")
        close(parts.detail, arrays["hr_seg"], 1e-5, "detail logits")
        close(parts.fused, arrays["fused"], 1e-5, "fused logits")
        full = nn.functional.interpolate(arrays["fused"], arrays["img"].shape[2:], mode="bilinear")
        close(teacher_logits(model, arrays["img"]), full, 1e-5, "full-size logits")


@pytest.mark.parametrize("kind", ["eval", "evalw", "bntrain"])
@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_batch_statistics(golden: Path, name: str, kind: str) -> None:
    root = golden / "hrda_net"
    info, arrays, state = load(root, name)
    model = build(info, state, tuple(info["hr_crop"]))
    if kind == "bntrain":
        quiet_train(model)
    run = info[kind]
    model.rng = Replay(run["randint"])
    out = segmentor_outputs(model, arrays["img"])
    assert not model.rng.draws
    top, bottom, left, right = run["crop_box_y1y2x1x2"]
    fused, detail = out.heads
    assert fused.region is None
    assert detail.region == out.detail[1] == (top, left, bottom, right)
    close(fused.logits, arrays[f"{kind}_fused"], 1e-5, "fused logits")
    close(detail.logits, arrays[f"{kind}_hr_seg"], 1e-5, "detail logits")
    feature = f"{kind}_feat_last" if f"{kind}_feat_last" in arrays else f"{kind}_feat_scale0_last"
    close(out.features[-1], arrays[feature], 1e-5, "context features")
    if f"{kind}_feat_scale1_last" in arrays:
        close(out.detail[0][-1], arrays[f"{kind}_feat_scale1_last"], 1e-5, "detail features")

    total = torch.zeros(())
    for part, prefix in ((fused, "decode"), (detail, "decode.hr")):
        # The recorded run in training mode is a weighted one.
        weight = crop(arrays["weight"], part.region) if kind != "eval" else None
        loss, acc = loss_and_accuracy(part.logits, crop(arrays["label"], part.region), weight)
        close(part.weight * loss, torch.tensor(run["log"][f"{prefix}.loss_seg"]), 1e-4, prefix)
        close(acc, torch.tensor(run["log"][f"{prefix}.acc_seg"]), 1e-4, prefix)
        total = total + part.weight * loss
    close(total, torch.tensor(run["log"]["loss"]), 1e-4, "loss")
    total.backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    for key in ("decode_head.head.conv_seg.weight", "decode_head.scale_attention.conv_seg.weight"):
        assert float(gradients[key].norm()) == pytest.approx(run["grad_norms"][key], rel=1e-4, abs=1e-5)
    if kind == "bntrain":
        check_gradients(model, load_file(root / f"{name}_grads_bntrain.safetensors"))
        values = model.state_dict()
        for key, value in load_file(root / f"{name}_bn_after.safetensors").items():
            close(values[key].float(), value.float(), 1e-5, key)


@pytest.mark.parametrize("batched", [False, True])
def test_slide_inference(golden: Path, batched: bool) -> None:
    info, arrays, state = load(golden / "hrda_net", "slide")
    image = arrays["img"]
    cfg = {"mode": "slide", "stride": (32, 32), "crop_size": (64, 64), "batched_slide": batched}
    model = build(info, state, (32, 32), **cfg)
    metas = [{"ori_shape": image.shape[2:], "img_shape": image.shape[2:]}]
    with torch.no_grad():
        logits = model.inference(image, metas)
        whole = build(info, state, (32, 32)).inference(image[:, :, :64, :96], metas)
    close(logits.softmax(1)[:, :, ::2, ::2], arrays["softmax"], 1e-5, "slide")
    assert (logits.argmax(1) == arrays["pred"]).float().mean() > 0.999
    small = nn.functional.interpolate(logits, (48, 64), mode="bilinear").argmax(1)[0]
    assert (small == arrays["pred_simple"]).float().mean() > 0.999
    close(whole.softmax(1)[:, :, ::2, ::2], arrays["whole_softmax_64x96"], 1e-5, "whole")
