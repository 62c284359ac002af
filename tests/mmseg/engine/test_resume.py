"""N iterations are the same weights, bit by bit, as k iterations, a resume, and N - k more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

import tiny

pytestmark = pytest.mark.slow

N = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


CASES: dict[str, dict[str, Any]] = {
    "daformer": {},
    "hrda": dict(kind="hrda"),
    "daformer, one worker": dict(workers=1),
    "hrda, one worker": dict(kind="hrda", workers=1),
    "memory bank": dict(pixel_memory_bank=16, pixel_target=True),
    "prototypes, distribution, start network": dict(
        label_network="initial",
        prototype_labels=True,
        prototype_batches=2,
        prototype_min_pixels=1,
        target_weight=1.0,
        structure_weight=1.0,
        distillation_weight=1.0,
        distribution_weight=0.1,
        distribution_target=True,
        pixel_target=True,
    ),
    "target patches": dict(patch_source="target", mix_classes="batch"),
    "other negatives": dict(patch_negatives="other_classes", projection_layers=[-1]),
    "head's map": dict(projection_layers="head", pixel_target=True),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_uninterrupted(case: str, root: Path, tmp_path: Path) -> None:
    straight = tiny.train(tiny.config(root, tmp_path / "a", iterations=N, **CASES[case]))
    expected = tiny.everything(straight)
    if "bank" in case:
        assert (expected["bank"][1] >= 0).any()
    few = (3,) if CASES[case].get("workers") else (1, 4)
    for k in few:
        torch.rand(k)  # the resuming process is somewhere else in its generators
        cfg = tiny.config(root, tmp_path / f"b{k}", iterations=N, **CASES[case])
        resumed = tiny.train(cfg, resume=True, load_from=tmp_path / "a" / f"iter_{k}.pth")
        assert not tiny.differences(expected, tiny.everything(resumed)), f"resumed at {k}"


def test_a_seed_nobody_gave_is_resumed_too(root: Path, tmp_path: Path) -> None:
    cfg = {**tiny.config(root, tmp_path / "a", iterations=2), "randomness": dict(seed=None)}
    straight = tiny.train(cfg)
    resumed = tiny.train({**cfg, "work_dir": str(tmp_path / "b")}, resume=True, load_from=tmp_path / "a" / "iter_1.pth")
    assert resumed.seed == straight.seed
    assert not tiny.differences(tiny.everything(straight), tiny.everything(resumed))
