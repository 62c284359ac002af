"""Patch contrast of the released code: recorded losses and gradients of both directions, and its five-step run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipa import functional as F

CASES = [
    "small",
    "chunks_b50",
    "chunks_b_exact",
    "bank9600",
    "low_conf",
    "equal_conf",
    "one_class",
    "d128",
    "large_norm",
]


def load(golden: Path, name: str) -> dict[str, np.ndarray]:
    path = golden / "patch_contrast" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is described in README.json but not in this copy of the golden data")
    with np.load(path) as file:
        return dict(file)


def chunk_of(golden: Path, name: str) -> int:
    cases = json.loads((golden / "patch_contrast" / "README.json").read_text())["cases"]
    return int(next(case["b"] for case in cases if case["file"] == f"{name}.npz"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_recorded(golden: Path, name: str, dtype: torch.dtype) -> None:
    case = {key: torch.from_numpy(value) for key, value in load(golden, name).items()}
    feat1 = case["feat1"].to(dtype).requires_grad_()
    feat2 = case["feat2"].to(dtype).requires_grad_()
    names = ("bank_label", "label1", "label2", "conf1", "conf2")
    others = [case["bank"].to(dtype), *(case[key] for key in names)]
    losses = F.patch_contrast_gated(feat1, feat2, *others, chunk=chunk_of(golden, name))
    for loss, feat, other, number in zip(losses, (feat1, feat2), (feat2, feat1), "12", strict=True):
        own_grad, other_grad = torch.autograd.grad(loss, [feat, other], allow_unused=True)
        assert other_grad is None
        for ours, what in ((loss.detach(), f"loss{number}"), (own_grad, f"grad{number}")):
            exact = case[f"{what}_f64"]
            if dtype == torch.float64:
                np.testing.assert_allclose(ours, exact, rtol=1e-9, atol=1e-9 * max(float(exact.abs().max()), 1e-6))
            else:
                # The noise of the float32 original is its own distance from its float64 run.
                noise = float((case[what].double() - exact).abs().max())
                np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=2 * noise + 1e-6 * float(exact.abs().max()))
