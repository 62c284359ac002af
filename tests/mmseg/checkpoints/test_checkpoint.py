"""Conversion of released checkpoints: every key accounted for, refusals, and files that load."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import MODELS

import pipa.mmseg  # noqa: F401  (registers)
from pipa.files.torch_file import CheckpointError, load_plain
from pipa.mmseg.checkpoints.convert import TEACHER_KEY, convert_checkpoint
from pipa.mmseg.checkpoints.keys import convert_state_dict, rename
from pipa.mmseg.checkpoints.model import build_from_keys
from pipa.mmseg.models.backbones.mit import MiT

TREES = ["DAFormer", "HRDA", "MIC_seg", "PiPa", "PiPa_DAFormer"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def released(golden: Path, name: str) -> dict[str, torch.Tensor]:
    """A state dict with the recorded names and shapes whose memory is one number."""
    shapes = json.loads((golden / "keys" / f"{name}.json").read_text())
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def encoder_keys(depths: tuple[int, ...] = (1, 1, 1, 1), dims: tuple[int, ...] = (4, 8, 12, 16)) -> dict[str, Any]:
    """Random SegFormer parameters under their released names."""
    state = {}
    for i, (depth, dim, sr) in enumerate(zip(depths, dims, (8, 4, 2, 1), strict=True), start=1):
        kernel = 7 if i == 1 else 3
        state[f"patch_embed{i}.proj.weight"] = torch.randn(dim, 3 if i == 1 else dims[i - 2], kernel, kernel)
        state[f"patch_embed{i}.proj.bias"] = torch.randn(dim)
        norms = [f"patch_embed{i}.norm", f"norm{i}"]
        for j in range(depth):
            block = f"block{i}.{j}"
            norms += [f"{block}.norm1", f"{block}.norm2"]
            shapes = {"attn.q": (dim, dim), "attn.kv": (2 * dim, dim), "attn.proj": (dim, dim)}
            shapes |= {"mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim), "mlp.dwconv.dwconv": (4 * dim, 1, 3, 3)}
            if sr > 1:
                shapes["attn.sr"] = (dim, dim, sr, sr)
                norms.append(f"{block}.attn.norm")
            for name, shape in shapes.items():
                state[f"{block}.{name}.weight"] = torch.randn(shape)
                state[f"{block}.{name}.bias"] = torch.randn(shape[0])
        for name in norms:
            state[f"{name}.weight"] = torch.randn(dim)
            state[f"{name}.bias"] = torch.randn(dim)
    return state


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("size", ["b0", "b5"])
def test_every_released_key_has_a_place_in_our_network(golden: Path, tree: str, size: str) -> None:
    state = released(golden, f"{tree}_segmentor_mit_{size}")
    training_only = {key for key in state if key.startswith(("cls_head.", "proj_head."))}
    converted = convert_state_dict({key: value for key, value in state.items() if key not in training_only})
    # A copy of the big network costs two seconds; its names follow from the same rules as those of the small one.
    if size == "b0":
        ours = build_from_keys(converted).state_dict()
        assert {name: value.shape for name, value in converted.items()} == {k: v.shape for k, v in ours.items()}
    assert bool(training_only) == tree.startswith("PiPa")
    assert len(converted) == len(state) - len(training_only) - sum(".attn.kv." in key for key in state)


@pytest.mark.parametrize("tree", ["HRDA", "PiPa_DAFormer"])
def test_a_whole_training_state(golden: Path, tmp_path: Path, tree: str) -> None:
    state = {key: value.clone() for key, value in released(golden, f"{tree}_uda_mit_b0").items()}
    # The teacher comes first here: the order of the keys must not matter.
    state = {key: state[key] for key in sorted(state)}
    for key in state:
        if key.startswith("ema_model.") and state[key].is_floating_point():
            state[key] += 1
    file = tmp_path / "latest.pth"
    meta = {"CLASSES": ["road", "sky"], "PALETTE": [[1, 2, 3], [4, 5, 6]], "best": np.float64(0.5), "iter": 3}
    torch.save({"state_dict": state, "meta": meta, "optimizer": {"state": {}}}, file)
    out = tmp_path / "converted" / "student.pth"
    report = convert_checkpoint(file, out)
    assert report.kind == "training state"
    assert sorted([key for _, key, _ in report.used] + [key for key, _ in report.skipped]) == sorted(state)
    assert not report.missing
    reasons = Counter(why for _, why in report.skipped)
    assert reasons["frozen ImageNet copy, made anew from the encoder's own file"] == sum(
        key.startswith("imnet_model.") for key in state
    )
    if tree.startswith("PiPa"):
        assert reasons["auxiliary classifier of the released code, which never trained it"] == 16
    text = report.format(verbose=True)
    assert all(key in text for key in state)
    assert "missing      0" in report.format()

    content = load_plain(out)
    assert content["meta"]["dataset_meta"] == {"classes": ("road", "sky"), "palette": [[1, 2, 3], [4, 5, 6]]}
    assert float(content["state_dict"]["decode_head." + ("head." if tree == "HRDA" else "") + "conv_seg.bias"][0]) == 0
    assert float(content[TEACHER_KEY]["backbone.layers.0.2.bias"][0]) == 1
    model = build_from_keys(content["state_dict"])
    load_checkpoint(model, str(out), strict=True)
    assert not list(out.parent.glob(".*"))

    other = tmp_path / "other.pth"
    torch.save({"state_dict": {}, "meta": {"iter": 3}}, other)
    before = other.read_bytes()
    with pytest.raises(FileExistsError, match=r"other\.pth: is there and no checkpoint of an earlier conversion"):
        convert_checkpoint(file, other)
    assert other.read_bytes() == before
    convert_checkpoint(file, out, use_teacher=True)  # over its own
    assert float(load_plain(out)["state_dict"]["backbone.layers.0.2.bias"][0]) == 1


def test_values_of_an_imagenet_encoder(tmp_path: Path) -> None:
    state = {**encoder_keys(), "head.weight": torch.randn(10, 16), "head.bias": torch.randn(10)}
    file, out = tmp_path / "mit.pth", tmp_path / "out.pth"
    torch.save(state, file)
    report = convert_checkpoint(file, out)
    assert report.kind == "encoder"
    assert report.skipped == [("head.weight", "ImageNet classifier"), ("head.bias", "ImageNet classifier")]
    assert not report.missing
    settings = {"embed_dims": 4, "num_layers": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)}
    model = MiT(**settings, init_cfg={"type": "Pretrained", "checkpoint": str(out)})
    model.init_weights()
    ours = model.state_dict()
    q, kv = state["block2.0.attn.q.weight"], state["block2.0.attn.kv.weight"]
    assert torch.equal(ours["layers.1.1.0.attn.attn.in_proj_weight"], torch.cat([q, kv]))
    assert torch.equal(ours["layers.2.1.0.ffn.layers.4.weight"][:, :, 0, 0], state["block3.0.mlp.fc2.weight"])
    assert torch.equal(ours["layers.3.2.weight"], state["norm4.weight"])
    # A converted file converts to itself.
    again = convert_checkpoint(out, tmp_path / "again.pth")
    assert not again.missing
    assert len(again.used) == len(ours)


def test_missing_extra_and_wrong_shapes_are_reported(tmp_path: Path) -> None:
    state = encoder_keys()
    del state["block1.0.mlp.fc1.bias"]
    state["norm3.weight"] = torch.zeros(7)
    state["block1.0.strange.weight"] = torch.zeros(1)
    state["epoch"] = 3
    file = tmp_path / "mit.pth"
    torch.save({"state_dict": {f"module.backbone.{key}": value for key, value in state.items()}}, file)
    report = convert_checkpoint(file)
    assert report.missing == [("network", "layers.0.1.0.ffn.layers.0.bias"), ("network", "layers.2.2.weight")]
    assert sorted(report.skipped) == [
        ("module.backbone.block1.0.strange.weight", "unknown name"),
        ("module.backbone.epoch", "not a tensor (int)"),
        ("module.backbone.norm3.weight", "its shape is (7,), the network's is (12,)"),
    ]


def test_an_encoder_for_a_given_segmentor(tmp_path: Path) -> None:
    file = tmp_path / "mit.pth"
    torch.save(encoder_keys(), file)
    head = {"type": "DAFormerHead", "in_channels": [4, 8, 12, 16], "channels": 6, "num_classes": 3}
    backbone = {"type": "MiT", "embed_dims": 4, "num_layers": (1, 1, 1, 2), "num_heads": (1, 2, 3, 4)}
    model = MODELS.build({"type": "EncoderDecoder", "backbone": backbone, "decode_head": head})
    report = convert_checkpoint(file, model=model)
    assert len(report.missing) == 14
    assert all(name.startswith("layers.3.1.1.") for _, name in report.missing)


def test_other_networks_by_name(tmp_path: Path) -> None:
    backbone = {"type": "ResNetV1c", "depth": 18, "base_channels": 4, "stem_channels": 4, "norm_cfg": {"type": "BN"}}
    head = {"type": "DLV2Head", "in_channels": 32, "in_index": 3, "num_classes": 3}
    model = MODELS.build({"type": "EncoderDecoder", "backbone": backbone, "decode_head": head})
    file = tmp_path / "deeplab.pth"
    torch.save({"state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}, file)
    report = convert_checkpoint(file, tmp_path / "out.pth", model=model)
    assert not report.missing + report.skipped
    load_checkpoint(model, str(tmp_path / "out.pth"), strict=True)
    # Without the network, the file cannot be checked.
    with pytest.raises(CheckpointError, match="patch embedding"):
        convert_checkpoint(file)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch should_not_exist",)


def save_zip(content: Any, path: str) -> None:
    torch.save(content, path)


def save_old(content: Any, path: str) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: Any, path: str) -> None:
    Path(path).write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [save_zip, save_old, save_pickle])
def test_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Any, str], None]) -> None:
    monkeypatch.chdir(tmp_path)
    save({"meta": Evil(), "state_dict": encoder_keys()}, "evil.pth")
    with pytest.raises(
        CheckpointError, match=r"^evil\.pth: refused, it asks for (posix|nt)\.system; only tensors [^\n]*$"
    ):
        convert_checkpoint("evil.pth", "out.pth")
    assert not Path("should_not_exist").exists()
    assert not Path("out.pth").exists()


def test_unusable_files(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        convert_checkpoint(file)
    torch.save(torch.zeros(2), file)
    with pytest.raises(CheckpointError, match="expected a dictionary, got Tensor"):
        convert_checkpoint(file)
    torch.save({"conv1.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"no parameter of a known network \(first keys: conv1.weight\)"):
        convert_checkpoint(file)
    state = encoder_keys()
    torch.save(state, file)
    with pytest.raises(ValueError, match="would replace its own input"):
        convert_checkpoint(file, file)
    with pytest.raises(CheckpointError, match="holds no teacher"):
        convert_checkpoint(file, use_teacher=True)
    del state["block1.0.attn.kv.weight"]
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r"attn\.q\.weight has no block1\.0\.attn\.kv\.weight beside it"):
        convert_checkpoint(file)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("backbone.patch_embed1.proj.weight", "backbone.layers.0.0.projection.weight"),
        ("norm4.bias", "layers.3.2.bias"),
        ("model.backbone.block3.39.attn.q.bias", "model.backbone.layers.2.1.39.attn.attn.in_proj_bias"),
        ("block2.1.mlp.dwconv.dwconv.weight", "layers.1.1.1.ffn.layers.1.weight"),
        ("decode_head.fuse_layer.bottleneck.conv.weight", "decode_head.fuse_layer.bottleneck.conv.weight"),
        ("block2.1.other.weight", "block2.1.other.weight"),
    ],
)
def test_rename(key: str, expected: str) -> None:
    assert rename(key) == expected
