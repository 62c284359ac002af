"""DAFormerHead on MiT against recorded runs of the released network: logits, losses, gradients and BN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("safetensors")

from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from safetensors.torch import load_file
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from network_cases import backbone, check_gradients, close, head, load, loss_and_accuracy
from pipa.mmseg.checkpoints.keys import convert_state_dict
from pipa.networks import quiet_train


def build(info: dict[str, Any], state: dict[str, Tensor], **test_cfg: Any) -> EncoderDecoder:
    torch.set_num_threads(1)
    cfg = {
        "type": "EncoderDecoder",
        "backbone": backbone(tuple(info.get("depths", (1, 1, 1, 1)))),
        "decode_head": head(info.get("fusion", "sepaspp")),
        "test_cfg": {"mode": "whole", **test_cfg},
    }
    model = MODELS.build(ConfigDict(cfg))
    model.load_state_dict(convert_state_dict(state))
    return model.eval()


CASES = ["sepaspp", "aspp_pool", "conv1", "sepaspp_bottleneck"]


@pytest.mark.parametrize("name", CASES)
def test_features_and_logits(golden: Path, name: str) -> None:
    info, arrays, state = load(golden / "daformer_net", name)
    model = build(info, state)
    with torch.no_grad():
        features = model.extract_feat(arrays["img"])
        logits = model.decode_head(features)
    for i, feature in enumerate(features):
        close(feature, arrays[f"feat{i}"], 1e-5, f"feature {i}")
    close(logits, arrays["head_logits"], 1e-5, "logits")
    metas = [{"img_shape": arrays["img"].shape[2:]}]
    full = nn.functional.interpolate(arrays["head_logits"], arrays["img"].shape[2:], mode="bilinear")
    with torch.no_grad():
        close(model.encode_decode(arrays["img"], metas), full, 1e-5, "full-size logits")


@pytest.mark.parametrize("kind", ["eval", "evalw", "bntrain"])
def test_losses_gradients_and_batch_statistics(golden: Path, kind: str) -> None:
    root = golden / "daformer_net"
    info, arrays, state = load(root, "sepaspp")
    model = build(info, state)
    if kind == "bntrain":
        quiet_train(model)
    logits = model.decode_head(model.extract_feat(arrays["img"]))
    loss, acc = loss_and_accuracy(logits, arrays["label"], arrays["weight"] if kind == "evalw" else None)
    close(loss, arrays[f"{kind}_loss"], 1e-4, "loss")
    close(acc, arrays[f"{kind}_acc"], 1e-4, "accuracy")
    loss.backward()
    norms = info[f"grad_norms_{kind}"]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name in ("decode_head.conv_seg.weight", "decode_head.fuse_layer.bottleneck.conv.weight"):
        assert float(gradients[name].norm()) == pytest.approx(norms[name], rel=1e-4)
    if kind == "bntrain":
        check_gradients(model, load_file(root / "sepaspp_grads_bntrain.safetensors"))
        expected = load_file(root / "sepaspp_bn_after.safetensors")
        ours = model.state_dict()
        for name, value in expected.items():
            close(ours[name].float(), value.float(), 1e-5, name)
