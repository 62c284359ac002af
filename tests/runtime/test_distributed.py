"""Two processes on the CPU: equal ranks, exact resume, the gradient of the joined batch, and one end for all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

import tiny
from mmengine.config import Config
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn

from pipa.mmseg.adapter import SegmentorNetworks
from pipa.mmseg.launch import init_launcher
from pipa.step import PipaStep

HERE = Path(__file__).resolve().parent
OFF: dict[str, Any] = dict(pixel_weight=0, patch_weight=0, mix_weight=0, mask_weight=0, feature_distance_weight=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


def torchrun(tmp_path: Path, runs: list[dict[str, Any]], seconds: float = 240, **settings: Any) -> tuple[int, str]:
    """Exit code and output of the runs, done one after the other by two processes."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(dict(runs=runs, out=str(tmp_path), launcher="pytorch", **settings)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(HERE / "ranks.py"), str(file)], capture_output=True, text=True, timeout=seconds, check=False
    )
    return done.returncode, done.stdout + done.stderr


def result(tmp_path: Path, run: int, rank: int) -> Any:
    return torch.load(tmp_path / f"{run}_{rank}.pt", weights_only=True)


COMBINATIONS: dict[str, dict[str, Any]] = {
    "everything": {},
    "source only": OFF,
    "mix": {**OFF, "mix_weight": 1.0},
    "mix, pixel": {**OFF, "mix_weight": 1.0, "pixel_weight": 0.1},
    "patch": {**OFF, "patch_weight": 0.1},
    "mask, feature distance": {**OFF, "mask_weight": 1.0, "feature_distance_weight": 0.005},
    "hrda, memory bank": {"kind": "hrda", "pixel_memory_bank": 16},
}


def test_ranks_stay_equal_and_resume_exactly(root: Path, tmp_path: Path) -> None:
    runs = []
    for i, terms in enumerate(COMBINATIONS.values()):
        cfg = tiny.config(root, tmp_path / f"w{i}", iterations=4, batch=1, **terms)
        cfg["default_hooks"]["checkpoint"].update(interval=2)
        runs.append(dict(config=cfg))
    last = tiny.config(root, tmp_path / "again", iterations=4, batch=1, **COMBINATIONS["hrda, memory bank"])
    first = {**last, "train_cfg": {**last["train_cfg"], "max_iters": 2}}
    runs += [dict(config=first), dict(config=last, resume=True)]
    code, output = torchrun(tmp_path, runs, check_average=True)
    assert code == 0, output[-3000:]
    for i, name in enumerate(COMBINATIONS):
        ranks = [result(tmp_path, i, rank) for rank in (0, 1)]
        banks = [state.pop("bank") for state in ranks]
        assert not tiny.differences(*ranks), name
        if "bank" in name:  # a bank holds the features of its own process
            assert tiny.differences(*banks)
    straight = list(COMBINATIONS).index("hrda, memory bank")
    for rank in (0, 1):
        assert not tiny.differences(result(tmp_path, straight, rank), result(tmp_path, len(runs) - 1, rank)), rank


def test_one_rank_with_bad_images_skips_on_all(root: Path, tmp_path: Path) -> None:
    cfg = tiny.config(root, tmp_path / "w", iterations=3, batch=1, nonfinite="skip", pixel_memory_bank=16)
    cfg["custom_hooks"].append(dict(type="MisfortuneHook", kind="nan", at=1))
    code, output = torchrun(tmp_path, [dict(config=cfg)])
    assert code == 0, output[-3000:]
    ranks = [result(tmp_path, 0, rank) for rank in (0, 1)]
    for state in ranks:
        assert all(torch.isfinite(bank.float()).all() for bank in state.pop("bank"))
    assert not tiny.differences(*ranks)
    assert all(torch.isfinite(value).all() for value in ranks[0]["student"].values())
    assert (tmp_path / "w" / "nonfinite_iter_1_rank1.pt").exists()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("die", "the disk of this machine is gone"),
        ("kill", "Signal 9 (SIGKILL)"),
        ("hang", "another process of this training has stopped or does not answer"),
    ],
)
def test_a_lost_rank_ends_the_run_with_a_message(kind: str, expected: str, root: Path, tmp_path: Path) -> None:
    cfg = tiny.config(root, tmp_path / "w", iterations=50, batch=1)
    cfg["env_cfg"] = dict(dist_cfg=dict(timeout=15))
    cfg["custom_hooks"].append(dict(type="MisfortuneHook", kind=kind, at=2))
    began = time.monotonic()
    code, output = torchrun(tmp_path, [dict(config=cfg)])
    assert code != 0
    assert expected in output, output[-3000:]
    assert time.monotonic() - began < 200
    assert (tmp_path / "w" / "iter_2.pth").exists()


# -- equality with one process ----------------------------------------------------------------------------------------


def networks(kind: str) -> nn.Module:
    """A segmentor whose images do not meet inside the network: no batch statistics, no noise."""
    register_all_modules(init_default_scope=True)
    torch.manual_seed(3)
    cfg = tiny.model(kind)
    cfg["backbone"]["drop_path_rate"] = 0.0
    cfg["decode_head"].update(norm_cfg=dict(type="GN", num_groups=2), dropout_ratio=0.0)
    model = MODELS.build(Config(dict(m=cfg)).m).double().train()
    if kind == "hrda":
        model.hr_crop_size = None  # every process draws a detail crop of its own
    return model


def draws(images: slice, patch: bool, mask: bool) -> dict[str, Any]:
    """Recorded draws of a batch of two, or of the part that one rank takes."""
    jitter = dict(brightness=1.1, contrast=0.9, saturation=1.2, hue=0.05, order=[0, 1, 2, 3])
    augment = [dict(jitter=jitter, sigma=None), dict(jitter=None, sigma=0.7)]
    grid = torch.rand(2, 16, generator=torch.Generator().manual_seed(1)).tolist()
    return dict(
        classes=[[0], [1, 2]][images],
        augment=augment[images],
        patches=((0, 0, 48, 48), (16, 8, 64, 56), False, True) if patch else None,
        mask=grid[images] if mask else None,
        mask_augment=augment[images],
    )


def gradients(kind: str, terms: dict[str, Any], images: slice) -> list[torch.Tensor]:
    gen = torch.Generator().manual_seed(5)
    source, target = (torch.randn(2, 3, 64, 64, generator=gen, dtype=torch.float64) for _ in range(2))
    label = torch.randint(0, 3, (2, 8, 8), generator=gen).repeat_interleave(8, 1).repeat_interleave(8, 2)
    model = networks(kind)
    common = dict(
        num_classes=3, patch_warmup=0, patch_size=(48, 48), mask_block=16, threshold=0.0, pixel_sampling="all"
    )
    torch.manual_seed(4)
    step = PipaStep(
        model, adapter=SegmentorNetworks, pixel_dim=4, patch_dim=4, projection_hidden=None, **{**common, **OFF, **terms}
    ).double()
    for module in step.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    step(
        source[images],
        label[images],
        target[images],
        draws=draws(images, "patch_weight" in terms, "mask_weight" in terms),
    )
    parameters = [*model.parameters(), *step.head_parameters()]
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


EQUAL: dict[str, dict[str, Any]] = {
    "source": {},
    "mix": dict(mix_weight=1.0),
    "mask": dict(mask_weight=1.0),
    "patch": dict(patch_weight=0.1),
    "mix, patch, mask": dict(mix_weight=1.0, patch_weight=0.1, mask_weight=1.0),
}


@pytest.mark.parametrize("terms", EQUAL)
@pytest.mark.parametrize("kind", ["daformer", "hrda"])
def test_the_mean_over_ranks_is_the_gradient_of_the_joined_batch(kind: str, terms: str) -> None:
    """Terms that see one image at a time, with the draws of the joined batch; docs/reliability.md lists the others."""
    torch.set_num_threads(1)
    joined = gradients(kind, EQUAL[terms], slice(0, 2))
    ranks = [gradients(kind, EQUAL[terms], slice(i, i + 1)) for i in (0, 1)]
    assert sum(float(g.abs().sum()) for g in joined) > 0
    for whole, *parts in zip(joined, *ranks, strict=True):
        torch.testing.assert_close(whole, sum(parts) / 2, rtol=1e-7, atol=1e-10)


def test_launcher_refuses_what_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"RANK, WORLD_SIZE, LOCAL_RANK not set; start with `torchrun"):
        init_launcher(Config({}), "pytorch")
    with pytest.raises(ValueError, match="expected one of none, pytorch, slurm, mpi, got 'horovod'"):
        init_launcher(Config({}), "horovod")
