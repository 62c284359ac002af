"""Plain transformers (DINOv2, DINOv3): values of a slow form, released file layouts, sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("timm")

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from test_backbones import segmentor
from torch import nn

import pipa.mmseg  # noqa: F401  (registers)
import tiny_vit
from pipa.files.torch_file import CheckpointError
from pipa.mmseg.engine.network_options import checkpoint_activations
from pipa.mmseg.models.segmentors.step_adapter import segmentor_channels, segmentor_outputs, teacher_logits
from pipa.networks.tokens import hiding_tokens

KINDS = list(tiny_vit.NAMES)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def loaded(kind: str, state: dict[str, Any], folder: Path, **changes: Any) -> Any:
    """A model whose init_weights reads the state from a file."""
    file = folder / "weights.pth"
    torch.save(state, file)
    cfg = {"type": "Pretrained", "checkpoint": str(file)}
    model = tiny_vit.build(kind, pyramid=False, init_cfg=cfg, **changes)
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_released_files_give_the_values_of_a_slow_form(kind: str, tmp_path: Path) -> None:
    state = tiny_vit.released(kind)
    model = loaded(kind, state, tmp_path)
    side = 3 * model.patch_size
    image = torch.randn(1, 3, side, 64 if kind == "dinov3" else side)
    for found, expected in zip(model(image), tiny_vit.forward(state, image), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(model.mask_token, state["mask_token"][0])


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_hidden_patches_are_the_mask_token(kind: str, tmp_path: Path) -> None:
    """Also when the encoder computes its activations a second time in the backward pass."""
    state = tiny_vit.released(kind)
    model = loaded(kind, state, tmp_path).train()
    side = 3 * model.patch_size
    image = torch.randn(1, 3, side, side)
    hidden_n = torch.tensor([0, 1, 1, 0, 0, 0, 1, 0, 1]).bool()
    hidden = hidden_n.view(1, 1, 3, 3).repeat_interleave(model.patch_size, 2).repeat_interleave(model.patch_size, 3)
    expected = tiny_vit.forward(state, image, hidden_n)
    grads = []
    for again in (False, True):
        if again:
            checkpoint_activations(model)
        with hiding_tokens(model, hidden):
            found = model(image)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)
        model.zero_grad()
        found[3].square().mean().backward()
        grads.append(model.vit.blocks[0].attn.qkv.weight.grad.clone())
    assert torch.equal(*grads)
    assert not torch.allclose(model(image)[3], expected[3], atol=1e-2)


@pytest.mark.parametrize("change", ["prefix", "grouped", "container", "timm", "safetensors"])
def test_other_containers_of_one_state(change: str, tmp_path: Path) -> None:
    state = tiny_vit.released("dinov2")
    model = loaded("dinov2", state, tmp_path)
    file = tmp_path / "other.pth"
    content: dict[str, Any] = state
    if change == "prefix":
        content = {"teacher": {f"module.backbone.{k}": v for k, v in state.items()}}
    elif change == "grouped":
        content = {k.replace("blocks.", "blocks.0."): v for k, v in state.items()}
    elif change == "container":
        content = {"state_dict": state, "epoch": 3}
    elif change == "timm":
        content = model.vit.state_dict()
    if change == "safetensors":
        file = tmp_path / "other.safetensors"
        pytest.importorskip("safetensors.torch").save_file(state, file)
    else:
        torch.save(content, file)
    other = tiny_vit.build("dinov2", pyramid=False, init_cfg={"type": "Pretrained", "checkpoint": str(file)})
    other.init_weights()
    image = torch.randn(1, 3, 42, 56)
    assert all(torch.equal(a, b) for a, b in zip(model(image), other.eval()(image), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_transformers(kind: str, tmp_path: Path) -> None:
    """That library's own network is the oracle."""
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 42}
    if kind == "dinov3":
        cfg = library.DINOv3ViTConfig(**sizes, patch_size=16, intermediate_size=128, num_register_tokens=4)
        theirs = library.DINOv3ViTModel(cfg)
    elif kind == "dinov2":
        theirs = library.Dinov2Model(library.Dinov2Config(**sizes, patch_size=14))
    else:
        cfg = library.Dinov2WithRegistersConfig(**sizes, patch_size=14, num_register_tokens=4)
        theirs = library.Dinov2WithRegistersModel(cfg)
    tiny_vit.scramble(theirs).eval()
    model = loaded(kind, theirs.state_dict(), tmp_path)
    patch = model.patch_size
    image = torch.randn(2, 3, 3 * patch, 3 * patch)
    tokens = theirs(image).last_hidden_state[:, 1 if kind == "dinov2" else 5 :]
    torch.testing.assert_close(model(image)[3], tokens.transpose(1, 2).unflatten(2, (3, 3)), atol=2e-4, rtol=1e-4)


def test_positions_are_resampled_to_the_image() -> None:
    model = tiny_vit.scramble(tiny_vit.build("dinov2", pyramid=False)).eval()
    image = torch.randn(1, 3, 70, 56)
    found = model(image)[0]
    table = model.vit.pos_embed[:, 1:].unflatten(1, (3, 3)).permute(0, 3, 1, 2)
    table = nn.functional.interpolate(table, (5, 4), mode="bicubic", antialias=True)
    other = tiny_vit.build("dinov2", pyramid=False, img_size=(70, 56)).eval()
    state = model.state_dict()
    state["vit.pos_embed"] = torch.cat([model.vit.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], 1)
    other.load_state_dict(state)
    torch.testing.assert_close(found, other(image)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_with_daformer_head(kind: str) -> None:
    model = segmentor(tiny_vit.config(kind), [32] * 4)
    model.init_weights()
    patch = model.backbone.patch_size
    image = torch.randn(2, 3, 4 * patch, 6 * patch)
    out = segmentor_outputs(model.train(), image)
    assert [tuple(m.shape[1:]) for m in out.features] == [(32, 16, 24), (32, 8, 12), (32, 4, 6), (32, 2, 3)]
    out.heads[0].logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert segmentor_channels(model) == model.backbone.out_channels
    assert teacher_logits(model.eval(), torch.randn(1, 3, 50, 77)).shape == (1, 4, 50, 77)


def test_inside_hrda() -> None:
    head = {
        "type": "HRDAHead",
        "in_channels": [32] * 4,
        "channels": 8,
        "attention_embed_dim": 4,
        "num_classes": 4,
        "norm_cfg": {"type": "BN"},
    }
    cfg = {
        "type": "HRDAEncoderDecoder",
        "backbone": tiny_vit.config("dinov3"),
        "decode_head": head,
        "hr_crop_size": (64, 64),
    }
    model = MODELS.build(ConfigDict(cfg)).eval()
    image = torch.randn(1, 3, 128, 128)
    assert segmentor_outputs(model, image).heads[0].logits.shape == (1, 4, 32, 32)
    assert teacher_logits(model, image).shape == (1, 4, 128, 128)


def test_a_crop_that_is_no_multiple_is_refused_and_a_picture_is_resized() -> None:
    model = tiny_vit.scramble(tiny_vit.build("dinov2", pyramid=False))
    image = torch.randn(1, 3, 50, 56)
    with pytest.raises(
        ValueError, match=r"image: expected .* multiples of the patch, 14 pixels, got 50 x 56; .* 56 x 56"
    ):
        model.train()(image)
    resized = nn.functional.interpolate(image, (56, 56), mode="bilinear", align_corners=False)
    assert torch.equal(model.eval()(image)[3], model(resized)[3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_name": "vit_base_patch14_dino"}, "model_name: expected a transformer of timm such as"),
        ({"model_name": "resnet10t"}, "resnet10t cannot be made as a plain transformer"),
        ({"out_indices": (0, 1, 2)}, "four rising block numbers"),
        ({"out_indices": (0, 1, 2, 4)}, "four rising block numbers below 4"),
        ({"out_indices": (0, 1, 1, 2)}, "four rising block numbers below 4"),
        ({"encoder": "half"}, "encoder: expected one of full, lora, frozen, got 'half'"),
        ({"lora": {"rank": 4}}, "lora: expected encoder='lora' beside it, got encoder='full'"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_vit.build("dinov2", **change)


def test_too_small_an_image() -> None:
    with pytest.raises(ValueError, match="more than 14 pixels"):
        tiny_vit.build("dinov2")(torch.randn(1, 3, 56, 14))


def broken(change: str) -> dict[str, Any]:
    state = tiny_vit.released("dinov3" if change == "bias" else "dinov2")
    if change == "missing":
        del state["blocks.3.ls2.gamma"]
    elif change == "shape":
        state["norm.weight"] = torch.zeros(48)
    elif change == "deeper":
        state.update({k.replace("blocks.3", "blocks.4"): v for k, v in state.items() if "blocks.3" in k})
    return state if change != "empty" else {"epoch": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "holds no blocks.3.ls2.gamma, which the encoder needs; is it the file of this model_name"),
        ("shape", r"norm.weight is \(48,\), the encoder's is \(32,\); is it the file of this model_name"),
        ("deeper", "holds blocks.4.attn.proj.bias, which the encoder has not"),
        ("empty", "expected the weights of a transformer, found no tensors"),
        ("bias", "blocks.0.attn.qkv.bias is not zero; choose the model_name that ends in _qkvb"),
    ],
)
def test_files_of_other_networks_are_refused(change: str, message: str, tmp_path: Path) -> None:
    kind = "vit_small_patch16_dinov3" if change == "bias" else "dinov2"
    with pytest.raises(CheckpointError, match=message):
        loaded(kind, broken(change), tmp_path)


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    for place, error, message in [
        ("https://example.org/dinov2.pth", ValueError, "expected a local file; nothing is downloaded"),
        (str(tmp_path / "none.pth"), FileNotFoundError, "the encoder's weights are not there; get it from"),
    ]:
        model = tiny_vit.build("dinov2", init_cfg={"type": "Pretrained", "checkpoint": place})
        with pytest.raises(error, match=message):
            model.init_weights()


def test_timm_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install .pipa-rs\[timm\]"):
        tiny_vit.build("dinov2")
