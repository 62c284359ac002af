"""DAFormerHead on MiT against recorded runs of the released network: logits, losses, gradients, BN and inference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmseg")
safetensors = pytest.importorskip("safetensors.torch")

from mmengine.config import ConfigDict  # noqa: E402
from mmseg.models.segmentors import EncoderDecoder  # noqa: E402
from mmseg.models.utils import resize  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import pipa.mmseg  # noqa: E402, F401  (registers)
from pipa.mmseg.checkpoint_keys import convert_state_dict  # noqa: E402

BN = {"type": "BN", "requires_grad": True}
RELU = {"type": "ReLU"}
ASPP = {"type": "aspp", "dilations": (1, 6, 12, 18), "norm_cfg": BN, "act_cfg": RELU}
FUSION: dict[str, Any] = {
    "sepaspp": {**ASPP, "sep": True, "pool": False},
    "aspp": {**ASPP, "sep": False, "pool": False},
    "aspp_pool": {**ASPP, "sep": True, "pool": True},
    "conv1": {"type": "conv", "kernel_size": 1, "norm_cfg": BN, "act_cfg": RELU},
    "sepaspp_bottleneck": {**ASPP, "type": "rawconv_and_aspp", "kernel_size": 1, "sep": True, "pool": False},
}


def backbone(depths: tuple[int, ...]) -> dict[str, Any]:
    return {"type": "MiT", "embed_dims": 8, "num_layers": depths, "num_heads": (1, 2, 3, 4), "drop_path_rate": 0.1}


def head(fusion: str) -> dict[str, Any]:
    return {
        "type": "DAFormerHead",
        "in_channels": [8, 16, 24, 32],
        "in_index": [0, 1, 2, 3],
        "channels": 16,
        "num_classes": 19,
        "norm_cfg": BN,
        "align_corners": False,
        "decoder_params": {"embed_dims": 16, "fusion_cfg": FUSION[fusion]},
    }


def load(root: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    path = root / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"{path.name} is not part of this copy of the golden data")
    cases = json.loads((root / "README.json").read_text())["cases"]
    info = next(case for case in cases if case["file"] == f"{name}.npz")
    with np.load(root / f"{name}.npz") as data:
        arrays = {key: torch.from_numpy(data[key]) for key in data.files}
    arrays = {key: a.float() if a.dtype == torch.float16 else a for key, a in arrays.items()}
    return info, arrays, safetensors.load_file(path)


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


def without_dropout(model: nn.Module) -> nn.Module:
    """Training mode for the norms, test mode for everything that draws."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "DropPath":
            module.eval()
    return model


def loss_and_accuracy(logits: Tensor, label_b1hw: Tensor, weight_bhw: Tensor | None) -> tuple[Tensor, Tensor]:
    label = label_b1hw[:, 0].long()
    full = resize(logits, label.shape[1:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(full, label, ignore_index=255, reduction="none")
    loss = (loss if weight_bhw is None else loss * weight_bhw).mean()
    return loss, 100.0 * (full.argmax(1) == label).float().mean()


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Largest difference, relative to the largest value where that is above one."""
    actual = actual.detach()
    scale = max(1.0, float(expected.abs().max()))
    error = float((actual - expected).abs().max()) / scale
    assert error <= tolerance, f"{what}: {error:.2e} > {tolerance:.0e}"


def check_gradients(model: nn.Module, expected: dict[str, Tensor]) -> None:
    gradients = {name: p.grad for name, p in model.named_parameters()}
    expected = convert_state_dict(expected)
    assert set(expected) == set(gradients)
    for name, value in expected.items():
        close(gradients[name], value, 1e-4, name)


CASES = ["sepaspp", "sepaspp_d2132_rect", "sepaspp_odd", "aspp", "aspp_pool", "conv1", "sepaspp_bottleneck"]


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
    if "logits" in arrays:
        metas = [{"img_shape": arrays["img"].shape[2:]}]
        with torch.no_grad():
            close(model.encode_decode(arrays["img"], metas), arrays["logits"], 1e-5, "full-size logits")


@pytest.mark.parametrize("kind", ["eval", "evalw", "bntrain"])
def test_losses_gradients_and_batch_statistics(golden: Path, kind: str) -> None:
    root = golden / "daformer_net"
    info, arrays, state = load(root, "sepaspp")
    model = build(info, state)
    if kind == "bntrain":
        without_dropout(model)
    logits = model.decode_head(model.extract_feat(arrays["img"]))
    loss, acc = loss_and_accuracy(logits, arrays["label"], arrays["weight"] if kind == "evalw" else None)
    close(loss, arrays[f"{kind}_loss"], 1e-4, "loss")
    close(acc, arrays[f"{kind}_acc"], 1e-4, "accuracy")
    loss.backward()
    grads = root / f"sepaspp_grads_{kind}.safetensors"
    if grads.exists():
        check_gradients(model, safetensors.load_file(grads))
    else:
        norms = info[f"grad_norms_{kind}"]
        ours = {name: p.grad for name, p in model.named_parameters()}
        for name in ("decode_head.conv_seg.weight", "decode_head.fuse_layer.bottleneck.conv.weight"):
            assert float(ours[name].norm()) == pytest.approx(norms[name], rel=1e-4)
    if kind == "bntrain":
        expected = safetensors.load_file(root / "sepaspp_bn_after.safetensors")
        ours = model.state_dict()
        for name, value in expected.items():
            close(ours[name].float(), value.float(), 1e-5, name)


def test_whole_slide_and_flip_inference(golden: Path) -> None:
    info, arrays, state = load(golden / "daformer_net", "infer")
    image = arrays["img"]
    size = tuple(image.shape[2:])
    whole = build(info, state)
    sliding = build(info, state, mode="slide", stride=(16, 24), crop_size=(32, 48))

    def predict(image: Tensor, **meta: Any) -> Any:
        sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": size, **meta})
        with torch.no_grad():
            return whole.predict(image, [sample])[0]

    rescaled = predict(image, ori_shape=(40, 56))
    close(rescaled.seg_logits.data.softmax(0)[None], arrays["whole_rescale"], 1e-5, "whole, rescaled")
    assert (rescaled.pred_sem_seg.data[0] == arrays["pred"]).float().mean() > 0.999
    turned = predict(image, flip=True, flip_direction="horizontal").seg_logits.data.softmax(0)[None]
    close(turned, arrays["whole_norescale_flip"], 1e-5, "result of a flipped image is turned back")
    flipped = predict(image.flip(3), flip=True, flip_direction="horizontal").seg_logits.data.softmax(0)
    mean = (predict(image).seg_logits.data.softmax(0) + flipped) / 2
    assert (mean.argmax(0) == arrays["aug_pred"]).float().mean() > 0.999
    with torch.no_grad():
        slide = sliding.inference(image, [{"img_shape": size, "ori_shape": size}]).softmax(1)
    close(slide, arrays["slide_b0"], 1e-5, "slide")
    close(slide, arrays["slide_b1"], 1e-5, "batched slide")
