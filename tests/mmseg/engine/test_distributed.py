"""Two processes, on the CPU and on GPUs where there are two: equal ranks, exact resume, the joined batch, one end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import Config

import ranks as _ranks  # noqa: F401  (registers its hooks)
import tiny
from joined import OFF
from pipa.mmseg.engine.launcher import init_launcher

pytestmark = pytest.mark.slow

HELPERS = Path(__file__).resolve().parents[2] / "helpers"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def torchrun(tmp_path: Path, runs: list[dict[str, Any]], seconds: float = 240, **settings: Any) -> tuple[int, str]:
    """Exit code and output of the runs, done one after the other by two processes."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(dict(runs=runs, out=str(tmp_path), launcher="pytorch", **settings)))
    done = subprocess.run(
        [*LAUNCHER, str(HELPERS / "ranks.py"), str(file)], capture_output=True, text=True, timeout=seconds, check=False
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
    "each for itself": {"joined": False, "pixel_memory_bank": 16},
}


BAD = ("nan", "nan target", "gradient")
KINDS = ("daformer", "hrda")
Results = dict[str, tuple[Any, Any]]


def still(root: Path, work: Path, kind: str, batch: int, **extra: Any) -> dict[str, Any]:
    """A training without noise and batch statistics: nothing but the iteration itself."""
    terms = dict(pixel_memory_bank=16, loss_average="valid", patch_warmup=1, threshold=0.35, **extra)
    cfg = tiny.config(root, work, kind=kind, iterations=4, batch=batch, **terms)
    cfg["model"]["backbone"]["drop_path_rate"] = 0.0
    cfg["model"]["decode_head"].update(norm_cfg=dict(type="GN", num_groups=2), dropout_ratio=0.0)
    cfg["custom_hooks"].append(dict(type="StillHook"))
    # In float32 AdamW would make whole steps out of the rounding of gradients that are zero.
    cfg["optim_wrapper"]["optimizer"] = dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.01)
    return cfg


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """Folder, and what both ranks hold at the end, of all trainings that end by themselves; one launch for all."""
    out = tmp_path_factory.mktemp("trained")
    runs: dict[str, dict[str, Any]] = {}
    for name, terms in COMBINATIONS.items():
        cfg = tiny.config(root, out / name, iterations=4, batch=1, **terms)
        cfg["default_hooks"]["checkpoint"].update(interval=2)
        runs[name] = dict(config=cfg)
    last = tiny.config(root, out / "again", iterations=4, batch=1, **COMBINATIONS["hrda, memory bank"])
    runs["first half"] = dict(config={**last, "train_cfg": {**last["train_cfg"], "max_iters": 2}})
    runs["resumed"] = dict(config=last, resume=True)
    for run in runs.values():
        run["check_average"] = True
    for kind in BAD:
        for policy in ("skip", "stop"):
            name = f"{kind} {policy}"
            cfg = tiny.config(root, out / name, iterations=3, batch=1, nonfinite=policy, pixel_memory_bank=16)
            cfg["custom_hooks"].append(dict(type="MisfortuneHook", kind=kind, at=1))
            runs[name] = dict(config=cfg, fails=policy == "stop")
    for kind in KINDS:
        runs[f"still {kind}"] = dict(config=still(root, out / f"still {kind}", kind, 1))
    runs["still apart"] = dict(config=still(root, out / "still apart", "daformer", 1, joined=False))
    code, output = torchrun(out, list(runs.values()))
    assert code == 0, output[-6000:]
    return out, {name: (result(out, i, 0), result(out, i, 1)) for i, name in enumerate(runs)}


def test_ranks_stay_equal_and_resume_exactly(trained: tuple[Path, Results]) -> None:
    _, results = trained
    for name in COMBINATIONS:
        ranks = [dict(state) for state in results[name]]
        banks = [state.pop("bank") for state in ranks]
        assert not tiny.differences(*ranks), name
        assert bool(tiny.differences(*banks)) == (name == "each for itself"), name
    for rank in (0, 1):
        assert not tiny.differences(results["hrda, memory bank"][rank], results["resumed"][rank]), rank


@pytest.mark.parametrize("kind", BAD)
def test_one_rank_with_bad_numbers_skips_or_stops_on_all(kind: str, trained: tuple[Path, Results]) -> None:
    """Before, between and after what the processes tell each other in an iteration."""
    out, results = trained
    ranks = results[f"{kind} skip"]
    assert not tiny.differences(*ranks)
    assert ranks[0]["iteration"] == (3, 3)
    assert all(torch.isfinite(bank.float()).all() for bank in ranks[0]["bank"])
    assert all(torch.isfinite(value).all() for value in ranks[0]["student"].values())
    assert {int(moments["step"]) for moments in ranks[0]["optimizer"]["state"].values()} == {1, 2}
    healthy, bad = (state["error"] for state in results[f"{kind} stop"])
    assert healthy == "NonFiniteError: iteration 1: not finite on another process, see its message"
    assert bad.startswith("NonFiniteError: iteration 1: the "), bad
    for policy in ("skip", "stop"):
        assert (out / f"{kind} {policy}" / "nonfinite_iter_1_rank1.pt").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(kind: str, trained: tuple[Path, Results], root: Path, tmp_path: Path) -> None:
    """A whole training, data and draws included, from the seed alone: two processes with one image, one with two."""

    def furthest(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
        pairs = [(ours[part][name], value) for part in ("student", "teacher") for name, value in theirs[part].items()]
        pairs.append((ours["bank"][0], theirs["bank"][0]))
        return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)

    _, results = trained
    one, two = tiny.everything(tiny.train(still(root, tmp_path, kind, 2))), results[f"still {kind}"][0]
    assert furthest(two, one) < 1e-5
    assert torch.equal(two["bank"][1], one["bank"][1])
    if kind == "daformer":
        assert furthest(results["still apart"][0], one) > 1e-3


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
    assert expected in output, output[-6000:]
    assert time.monotonic() - began < 200
    assert (tmp_path / "w" / "iter_2.pth").exists()


# -- equality with one process ----------------------------------------------------------------------------------------


NCCL = pytest.param(
    "nccl",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(torch.cuda.device_count() < 2, reason="nccl: two processes need two GPUs"),
    ],
)


@pytest.fixture(scope="module", params=["gloo", NCCL])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def compared(backend: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What joined.py found; one launch for all combinations."""
    file = tmp_path_factory.mktemp("joined") / "found.json"
    command = [*LAUNCHER, str(HELPERS / "joined.py"), backend, str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return json.loads(file.read_text())


def test_every_combination_of_terms_equals_one_process_with_the_joined_batch(compared: dict[str, Any]) -> None:
    """Same seed, other slices: gradients, and parameters, teacher and memory bank after AdamW's steps, in float64."""
    found = compared["cases"]
    combinations = {name for name in found if ": source" in name}
    assert len(combinations) == 2 * 48
    for name, case in found.items():
        if name == "without a group":
            continue
        limits = dict(gradient=1e-11, parameters=1e-9, teacher=1e-9, bank=1e-11, prototypes=1e-11, distribution=1e-11)
        far = {part: case[part] for part, limit in limits.items() if not case.get(part, 0) <= limit}
        assert not far, (name, far)
        assert all(abs(value) < 1e-11 for value in case["losses"].values()), (name, case["losses"])
        assert case["draws"], name
        assert case["size"] > 1e-3, name
    # That the comparison sees a difference, and that the ranks have shares of their own.
    without = found["without a group"]
    assert without["gradient"] > 1e-2
    assert without["parameters"] > 1e-4
    assert abs(without["shares"][0] - without["shares"][1]) > 0.01


def test_a_step_fails_on_all_processes_or_on_none(compared: dict[str, Any], backend: str) -> None:
    not_finite = ("PeerNonFiniteError: not finite on another process", "NonFiniteError: iteration 0: the term ")
    named = ("GroupError: another process of this training has failed", "ValueError: source label")
    expected = {
        "nan": (not_finite[0], f"{not_finite[1]}'m"),  # mix or mask
        "id": named if backend == "gloo" else not_finite,  # a device is not waited for: its loss is NaN
        "seed": ("GroupError: the processes differ in: seed or state of the random numbers",) * 2,
        "size": ("GroupError: the processes differ in: images per process",) * 2,
        "settings": ("GroupError: the processes differ in: settings",) * 2,
        "none": ("fine 1",) * 2,
    }
    for name, starts in expected.items():
        texts = compared["failures"][name]
        assert all(text.startswith(start) for text, start in zip(texts, starts, strict=True)), texts
        assert name == "none" or all(text.endswith(" 0") for text in texts), texts  # not counted as done


def test_launcher_refuses_what_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"RANK, WORLD_SIZE, LOCAL_RANK not set; start with `torchrun"):
        init_launcher(Config({}), "pytorch")
    with pytest.raises(ValueError, match="expected one of none, pytorch, slurm, mpi, got 'horovod'"):
        init_launcher(Config({}), "horovod")
