"""The networks' share of the recorded training steps: source and mixed losses, and the teacher's pseudo-labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("safetensors")

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from safetensors.torch import load_file

import pipa.mmseg  # noqa: F401  (registers)
from network_cases import Replay, close, load_part, loss_and_accuracy, segmentor
from pipa.mmseg.models.segmentors.step_adapter import backbone_features, crop, segmentor_outputs, teacher_logits


@pytest.mark.parametrize("tree", ["DAFormer", "HRDA"])
def test_first_step(golden: Path, tree: str) -> None:
    torch.set_num_threads(1)
    root = golden / "train_step"
    record = json.loads((root / f"{tree}_sgd.json").read_text())["steps"][0]
    with np.load(root / f"{tree}_sgd.npz") as data:
        arrays = {key: torch.from_numpy(data[key]) for key in data.files if key.startswith("s0_")}
    state = load_file(root / f"{tree}_init.safetensors")
    models = {}
    for name in ("model", "ema_model", "imnet_model"):
        models[name] = MODELS.build(ConfigDict(segmentor(tree))).train()
        load_part(models[name], state, name)
    student, teacher = models["model"], models["ema_model"]
    draws = [draw for kind, draw in record["rng"] if kind == "np.random.randint"]
    student.rng = Replay(draws)

    def check(image: torch.Tensor, label: torch.Tensor, weight: torch.Tensor | None, prefix: str) -> None:
        with torch.no_grad():
            out = segmentor_outputs(student, image)
        for name, part in zip(("decode", "decode.hr"), out.heads, strict=False):
            part_weight = None if weight is None else crop(weight, part.region)
            loss, acc = loss_and_accuracy(part.logits, crop(label, part.region), part_weight)
            close(part.weight * loss, torch.tensor(record["log_vars"][f"{prefix}{name}.loss_seg"]), 1e-4)
            close(acc, torch.tensor(record["log_vars"][f"{prefix}{name}.acc_seg"]), 1e-4)

    image = arrays["s0_img"].float()
    check(image, arrays["s0_gt"], None, "")
    check(arrays["s0_mixed_img"], arrays["s0_mixed_lbl"], arrays["s0_mixed_weight"], "mix.")
    assert not student.rng.draws

    # Step 0 starts the teacher from the student's parameters; its batch statistics are those of the target images.
    with torch.no_grad():
        for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
            ours.copy_(theirs)
        probability, label = teacher_logits(teacher, arrays["s0_target_img"].float()).softmax(1).max(1)
    close(probability, arrays["s0_pseudo_prob"], 1e-5, "confidence")
    assert (label == arrays["s0_pseudo_label"]).float().mean() > 0.9999

    maps = backbone_features(models["imnet_model"].eval(), image)
    size = 96 // 32 if tree == "DAFormer" else 128 // 2 // 32
    assert maps[-1].shape == (2, 32, size, size)
