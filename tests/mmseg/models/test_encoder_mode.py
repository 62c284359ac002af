"""Frozen, adapted and fully trained transformers: values, gradients, teacher, resume, prediction and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("timm")

import pipa
import pipa.mmseg
import tiny
import tiny_vit
from pipa.commands import cli
from pipa.files.torch_file import load_plain
from pipa.mmseg.checkpoints.adapters import merged
from small_segmentors import scene

LORA = {"rank": 4, "alpha": 8.0, "targets": ["attn.qkv", "attn.proj", "mlp.fc1"]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def adapted(kind: str, **changes: Any) -> Any:
    pytest.importorskip("peft")
    return tiny_vit.build(kind, encoder="lora", pyramid=False, **{"lora": LORA, **changes})


@pytest.mark.parametrize("kind", list(tiny_vit.NAMES))
def test_adapters_against_merged_weights(kind: str) -> None:
    """A plain network with W + 2 B A gives the same maps; the first pass of a new one is that of the pretrained one."""
    plain = tiny_vit.scramble(tiny_vit.build(kind, pyramid=False)).eval()
    model = adapted(kind).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(1, 3, 3 * model.patch_size, 4 * model.patch_size)
    assert all(torch.equal(a, b) for a, b in zip(plain(image), model(image), strict=True))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    state = model.state_dict()
    for i in range(tiny_vit.DEPTH):
        for target in LORA["targets"]:
            layer = f"vit.blocks.{i}.{target}"
            down, up = (state[f"{layer}.lora_{half}.default.weight"] for half in "AB")
            plain.get_parameter(f"{layer}.weight").data += 2 * up @ down
    found = model(image)
    for a, b in zip(plain(image), found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    expected = plain.state_dict()
    weights = merged(state, LORA)
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", ["full", "frozen", "lora"])
def test_what_is_trained(mode: str) -> None:
    if mode == "lora":
        pytest.importorskip("peft")
    model = tiny_vit.build("dinov2", encoder=mode, drop_path_rate=0.5).train()
    sum(m.square().mean() for m in model(torch.randn(2, 3, 56, 56))).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    inside = {name for name in trained if name.startswith("vit.")}
    assert trained - inside  # the pyramid
    if mode == "full":
        assert len(inside) == len(list(model.vit.parameters()))
    elif mode == "frozen":
        assert not inside
        assert not model.vit.training
    else:
        assert inside
        assert all(".lora_" in name for name in inside)


def test_released_file_into_adapters(tmp_path: Path) -> None:
    torch.save(tiny_vit.released("dinov3"), tmp_path / "vit.pth")
    cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "vit.pth")}
    models = [tiny_vit.build("dinov3", pyramid=False, init_cfg=cfg), adapted("dinov3", init_cfg=cfg)]
    image = torch.randn(1, 3, 48, 64)
    maps = []
    for model in models:
        model.init_weights()
        maps.append(model.eval()(image)[3])
    assert torch.equal(*maps)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rang": 4}, "lora: expected keys of rank, alpha, dropout, targets, got 'rang'"),
        ({"rank": 0}, "lora.rank: expected at least 1, got 0"),
        ({"targets": ["attn.q"]}, "lora.targets: expected layers of the blocks of VisionTransformer, got 'attn.q'"),
    ],
)
def test_refusals(lora: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapted("dinov2", lora=lora)


def test_peft_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install .pipa-rs\[lora\]"):
        tiny_vit.build("dinov2", encoder="lora")


# -- a training --------------------------------------------------------------------------------------------------------


def training(root: Path, work_dir: Path, mode: str, iterations: int = 3) -> dict[str, Any]:
    """All terms on images of 48 pixels."""
    cfg = tiny.config(root, work_dir, iterations=iterations, patch_size=(32, 32), patch_warmup=0)
    cfg["model"]["backbone"] = tiny_vit.config("dinov3", encoder=mode, drop_path_rate=0.1)
    if mode == "lora":
        cfg["model"]["backbone"]["lora"] = {**LORA, "dropout": 0.1}
    cfg["model"]["decode_head"]["in_channels"] = [tiny_vit.DIM] * 4
    cfg["test_pipeline"] = [dict(type="LoadImage"), dict(type="PackSegInputs")]
    return cfg


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lora", "frozen"])
def test_a_training_resumes_exactly(mode: str, root: Path, tmp_path: Path) -> None:
    if mode == "lora":
        pytest.importorskip("peft")
    expected = tiny.everything(tiny.train(training(root, tmp_path / "a", mode)))
    resumed = tiny.train(training(root, tmp_path / "b", mode), resume=True, load_from=tmp_path / "a" / "iter_2.pth")
    assert not tiny.differences(expected, tiny.everything(resumed))
    first = load_plain(tmp_path / "a" / "iter_1.pth")
    for name, value in expected["student"].items():
        if name.startswith("backbone.vit."):
            moved = not torch.equal(value, first["state_dict"][name])
            assert moved == (mode == "lora" and ".lora_" in name), name
            # The teacher follows the adapters, and holds what is frozen to the last bit.
            teacher = expected["teacher"][name]
            assert torch.equal(teacher, value) == (not moved), name
            if moved:
                assert not torch.equal(teacher, first["pipa"]["teacher"][name])


@pytest.mark.slow
def test_predictions_and_exports_of_an_adapted_network_need_no_peft(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    file = tmp_path / "a" / "iter_2.pth"
    runner = tiny.train(training(root, tmp_path / "a", "lora", iterations=2))
    image = scene(64, 64)
    segmenter = pipa.load(file)
    found = segmenter.predict(image)
    core = runner.model.eval()
    batch = {"inputs": [torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())]}
    meta = [dict(ori_shape=(64, 64), img_shape=(64, 64))]
    with torch.no_grad():
        expected = core.encode_decode(core.data_preprocessor(batch)["inputs"], meta).softmax(1)
    np.testing.assert_allclose(found.confidence_hw, expected[0].amax(0).numpy(), atol=2e-3)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    assert (pipa.load(file).predict(image).label_hw == found.label_hw).all()
    for out, form in (("w.pth", []), ("w.safetensors", ["--format", "safetensors"])):
        assert cli.main(["export", str(file), "--out", str(tmp_path / out), *form]) == 0
        np.testing.assert_array_equal(pipa.load(tmp_path / out).predict(image).label_hw, found.label_hw)
    assert not [name for name in load_plain(tmp_path / "w.pth")["state_dict"] if "lora" in name or "base_layer" in name]
