"""Patch contrast of the released code: recorded losses and gradients of both directions, and its five-step run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipa import functional as F

CASES = [
    "small",
    "chunks_b_exact",
    "low_conf",
    "one_class",
    "large_norm",
]


def load(golden: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / "patch_contrast" / f"{name}.npz") as file:
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


def overlap_rows(maps: Tensor, top_left: Tensor, bottom_right: Tensor, flip: Tensor) -> Tensor:
    """Rows of the overlap of every image, unflipped, from [B,D,H,W]; boxes are [ys, xs] in pixels at stride 8."""
    rows = []
    for b in range(maps.shape[0]):
        image = maps[b].flip(-1) if flip[b] else maps[b]
        (top, left), (bottom, right) = (top_left[:, b] // 8).tolist(), (bottom_right[:, b] // 8).tolist()
        rows.append(image[:, top:bottom, left:right].flatten(1).T)
    return torch.cat(rows)


def test_five_steps(golden: Path) -> None:
    """Crop, unflip and select as recorded; a bank of three steps; losses and gradients by the projected maps."""
    case = {key: torch.from_numpy(value) for key, value in load(golden, "overlap_5steps").items()}
    bank: list[tuple[Tensor, Tensor]] = []
    for step in range(5):
        out, feat, label, conf = [], [], [], []
        for v in "12":
            geometry = (case[f"ul{v}"], case[f"br{v}"], case[f"s{step}_flip{v}"])
            out.append(case[f"s{step}_out{v}"].clone().requires_grad_())
            feat.append(overlap_rows(out[-1], *geometry))
            label.append(overlap_rows(case[f"s{step}_label{v}"][:, None], *geometry)[:, 0])
            conf.append(overlap_rows(case[f"s{step}_conf{v}"][:, None], *geometry)[:, 0])
            torch.testing.assert_close(feat[-1], case[f"s{step}_feat{v}"])
        for maps, v in zip(out, "12", strict=True):
            chosen = case[f"s{step}_sel{v}"]
            rows = maps.detach().permute(0, 2, 3, 1).flatten(0, 2)
            bank.append((rows[chosen], case[f"s{step}_label{v}"].reshape(-1)[chosen]))
        bank = bank[-6:]
        bank_feat, bank_label = (torch.cat(parts) for parts in zip(*bank, strict=True))
        assert len(bank_feat) == case[f"s{step}_bank_len"]
        losses = F.patch_contrast_gated(*feat, bank_feat, bank_label, *label, *conf)
        for loss, v in zip(losses, "12", strict=True):
            np.testing.assert_allclose(loss.detach(), case[f"s{step}_loss{v}"], rtol=1e-5)
        total = 0.01 * (losses[0] + losses[1])
        np.testing.assert_allclose(total.detach(), case[f"s{step}_loss_unsup"], rtol=1e-5)
        total.backward()
        for x, v in zip(out, "12", strict=True):
            expected = case[f"s{step}_grad{v}"]
            assert x.grad is not None
            torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
