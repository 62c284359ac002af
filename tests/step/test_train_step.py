"""Whole training steps of the released code: recorded batches and draws go through `PipaStep`, with its optimiser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("safetensors")

from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmseg.registry import MODELS
from safetensors.torch import load_file
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from network_cases import Replay, load_part, segmentor
from pipa import PipaStep
from pipa.mmseg.checkpoints.keys import convert_state_dict
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks

THINGS = [6, 7, 11, 12, 13, 14, 15, 16, 17, 18]
# The released code's formulation: ClassMix counts classes over the batch, losses are means over all pixels. These two
# trees have no contrastive terms.
RELEASED: dict[str, Any] = {
    "num_classes": 19,
    "mix_classes": "batch",
    "loss_average": "all",
    "pixel_weight": 0,
    "patch_weight": 0,
    "feature_distance_weight": 0.005,
    "feature_distance_classes": THINGS,
    "feature_distance_min_ratio": 0.75,
    "threshold": 0.968,
    "alpha": 0.999,
}
TREES: dict[str, dict[str, Any]] = {"DAFormer": {"ignore_top": 3, "ignore_bottom": 9}, "HRDA": {}}


def draws_of(record: dict[str, Any], label: Tensor) -> dict[str, Any]:
    """The step's form of a recorded iteration's draws. Class choices are positions in the batch's sorted ids."""
    ids = torch.unique(label)
    rng: list[tuple[str, dict[str, Any]]] = [(kind, draw) for kind, draw in record["rng"]]
    picks = [draw for kind, draw in rng if kind == "np.random.choice"]
    assert all(draw["n"] == len(ids) for draw in picks)
    jitters: Iterator[dict[str, Any]] = (draw for kind, draw in rng if kind == "kornia.ColorJitter")
    sigmas = (draw["out"] for kind, draw in rng if kind == "np.random.uniform")
    flags = [draw["out"] for kind, draw in rng if kind == "random.uniform"]

    def one() -> dict[str, Any]:
        jitter = None
        if flags[0] > 0.2:
            draw = next(jitters)
            jitter = {name: draw[f"{name}_factor"][0] for name in ("brightness", "contrast", "saturation", "hue")}
            jitter["order"] = draw["order"]
        return {"jitter": jitter, "sigma": next(sigmas) if flags[1] > 0.5 else None}

    return {"classes": [ids[draw["out"]].tolist() for draw in picks], "augment": [one() for _ in picks]}


def relative(actual: Tensor, expected: float) -> float:
    return abs(float(actual) - expected) / max(abs(expected), 1e-12)


def checksum(x: Tensor) -> Tensor:
    wave = torch.cos(0.37 * torch.arange(len(x), dtype=torch.float64))
    return torch.stack([x.sum(), x.abs().sum(), x @ wave, x.norm()])


def deviation(ours: Iterator[tuple[str, Tensor]], expected: dict[str, list[float]]) -> float:
    """Largest difference of the recorded sums of parameters or buffers, relative to the tensor's absolute sum.

    Recorded of each tensor x: sum, sum of |x|, dot product with cos(0.37 i), which no order of the values leaves alone,
    and the L2 norm.
    """
    sums = convert_state_dict({key: torch.tensor(value, dtype=torch.float64) for key, value in expected.items()})
    worst, seen = 0.0, set()
    for name, value in ours:
        if name.endswith("num_batches_tracked"):
            continue
        x = value.detach().double().flatten()
        # Our one projection of the attention holds the released "q" and, after it, the twice as long "kv".
        parts = [x] if len(sums[name]) == 4 else x.split([len(x) // 3, 2 * len(x) // 3])
        found = torch.cat([checksum(part) for part in parts])
        worst = max(worst, float((found - sums[name]).abs().max() / x.abs().sum().clamp_min(1e-3)))
        seen.add(name)
    assert seen == set(sums)
    return worst


@pytest.mark.parametrize("tree", list(TREES))
def test_iterations(golden: Path, tree: str, record_property: Callable[[str, object], None]) -> None:
    torch.set_num_threads(1)
    root = golden / "train_step"
    steps = json.loads((root / f"{tree}_sgd.json").read_text())["steps"]
    with np.load(root / f"{tree}_sgd.npz") as data:
        arrays = {key: torch.from_numpy(data[key]) for key in data.files}
    init = load_file(root / f"{tree}_init.safetensors")
    models: dict[str, nn.Module] = {}
    for name in ("model", "ema_model", "imnet_model"):
        models[name] = MODELS.build(ConfigDict(segmentor(tree)))
        load_part(models[name], init, name)
    student = models["model"].train()
    step = PipaStep(
        student,
        teacher=models["ema_model"],
        imagenet=models["imnet_model"].requires_grad_(False),
        adapter=SegmentorNetworks,
        **RELEASED,
        **TREES[tree],
    )
    # The released key "norm" as `norm_decay_mult`: mmsegmentation's MiT calls the last norm of a stage "layers.i.2".
    # Norms of the decode head have the key "head" in both, and decay.
    paramwise = {"custom_keys": {"head": {"lr_mult": 10.0}, "pos_block": {"decay_mult": 0.0}}, "norm_decay_mult": 0.0}
    optimizer = build_optim_wrapper(
        student,
        ConfigDict(
            type="OptimWrapper",
            optimizer={"type": "SGD", "lr": 2e-3, "weight_decay": 0.01},
            paramwise_cfg=paramwise,
        ),
    ).optimizer

    worst: dict[str, float] = {}
    for t, record in enumerate(steps):
        batch = {key[3:]: value for key, value in arrays.items() if key.startswith(f"s{t}_")}
        label = batch["gt"].long()
        student.rng = Replay([draw for kind, draw in record["rng"] if kind == "np.random.randint"])
        optimizer.zero_grad()
        log = step(
            batch["img"].float(),
            label,
            batch["target_img"].float(),
            valid_mask=batch.get("valid_pseudo_mask"),
            draws=draws_of(record, label),
        )
        assert not student.rng.draws
        values = record["log_vars"]
        expected = {
            "loss_source": values["decode.loss_seg"] + values.get("decode.hr.loss_seg", 0.0),
            "acc_source": values["decode.acc_seg"],
            "loss_feature_distance": values["src.loss_imnet_feat_dist"],
            "loss_mix": values["mix.decode.loss_seg"] + values.get("mix.decode.hr.loss_seg", 0.0),
            "acc_mix": values["mix.decode.acc_seg"],
            "loss": sum(record["backward_values"]),
        }
        assert set(log) == {*expected, "pseudo_weight"}
        for name, value in expected.items():
            worst["log"] = max(worst.get("log", 0.0), relative(log[name], value))
        last = step.last
        assert last is not None
        # Two classes of one pixel may tie to the last bit of the teacher's logits.
        for name, labels in (("mixed_label", batch["mixed_lbl"][:, 0]), ("pseudo_label", batch["pseudo_label"])):
            different = float((last[name] != labels).float().mean())
            worst[f"{name}s"] = max(worst.get(f"{name}s", 0.0), different)
        torch.testing.assert_close(last["mixed_weight"], batch["mixed_weight"].float(), rtol=1e-6, atol=0)
        if "mixed_img" in batch:
            image = float((last["mixed_image"] - batch["mixed_img"]).abs().max())
            worst["image"] = max(worst.get("image", 0.0), image)
        optimizer.step()
        for name, model in (("student", models["model"]), ("teacher", models["ema_model"])):
            for what, values, recorded in (
                (f"{name} parameters", model.named_parameters(), record[name]),
                (f"{name} buffers", model.named_buffers(), record[f"{name}_buffers"]),
            ):
                worst[what] = max(worst.get(what, 0.0), deviation(values, recorded))
    for what, value in worst.items():
        record_property(what, value)
    assert worst["log"] < 1e-5
    assert max(worst["mixed_labels"], worst["pseudo_labels"]) < 1e-4
    assert worst["image"] < 1e-5
    assert max(worst["student parameters"], worst["teacher parameters"]) < 1e-5
    assert max(worst["student buffers"], worst["teacher buffers"]) < 1e-5
