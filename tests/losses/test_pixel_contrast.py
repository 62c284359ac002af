"""Pixel contrast of the released code: recorded values, gradients and sampled pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipa import PixelContrastLoss
from pipa import functional as F

GROUPS = [
    "c2",
    "c5",
    "c19",
    "one_class",
    "one_class_two_images",
    "large_x2",
    "identical",
]
MAPS = ["mixed5", "all_easy", "all_hard", "few_easy"]


def load(golden: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / "pixel_contrast" / f"{name}.npz") as file:
        return dict(file)


def run(feats: np.ndarray, labels: np.ndarray, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    feat = torch.from_numpy(feats).to(dtype).requires_grad_()
    loss = F.pixel_contrast(feat, torch.from_numpy(labels))
    loss.backward()
    assert feat.grad is not None
    return loss.detach(), feat.grad


@pytest.mark.parametrize("name", GROUPS)
def test_float64_twin(golden: Path, name: str) -> None:
    case = load(golden, f"contrastive_{name}")
    loss, grad = run(case["feats"], case["labels"], torch.float64)
    np.testing.assert_allclose(loss, case["loss_f64"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grad, case["grad_f64"], rtol=1e-9, atol=1e-9 * max(1e-3, np.abs(case["grad_f64"]).max()))


@pytest.mark.parametrize("name", GROUPS)
def test_float32(golden: Path, name: str) -> None:
    case = load(golden, f"contrastive_{name}")
    loss, grad = run(case["feats"], case["labels"], torch.float32)
    np.testing.assert_allclose(loss, case["loss"], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(grad, case["grad"], rtol=1e-4, atol=2e-5 * max(1e-3, np.abs(case["grad"]).max()))


def in_extended_precision(feats: np.ndarray, labels: np.ndarray) -> float:
    """The released formula in 80-bit floats, whose exponents reach far below those of float64."""
    rows = feats.astype(np.longdouble).reshape(-1, feats.shape[-1])
    label = np.repeat(labels, feats.shape[1])
    score = rows @ rows.T / np.longdouble(0.1)
    same = label[:, None] == label
    score -= score.max(1, keepdims=True)
    other = (np.exp(score) * ~same).sum(1, keepdims=True)
    positive = same & ~np.eye(len(rows), dtype=bool)
    log_prob = np.where(positive, score - np.log(np.exp(score) + other), 0)
    return float(-(0.1 / 0.07) * (log_prob.sum(1) / positive.sum(1)).mean())


def test_features_of_any_length_are_exact(golden: Path) -> None:
    """Unnormalised features: the original is NaN in float32, and in float64 off by 3e-6 with a NaN gradient."""
    case = load(golden, "contrastive_unnormalised")
    assert np.isnan(case["loss"])
    assert np.isnan(case["grad_f64"]).any()
    exact = in_extended_precision(case["feats"], case["labels"])
    np.testing.assert_allclose(exact, case["loss_f64"], rtol=1e-5)
    for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        loss, grad = run(case["feats"], case["labels"], dtype)
        np.testing.assert_allclose(loss, exact, rtol=rtol)
        assert grad.isfinite().all()


def test_finite_where_the_released_code_is_nan_in_float64_too(golden: Path) -> None:
    case = load(golden, "contrastive_large_x30")
    assert np.isnan(case["loss_f64"])
    results = [run(case["feats"], case["labels"], dtype) for dtype in (torch.float32, torch.float64)]
    assert all(torch.isfinite(loss) and grad.isfinite().all() for loss, grad in results)
    torch.testing.assert_close(results[0][0].double(), results[1][0], rtol=1e-5, atol=0)


def test_no_pair_is_zero_where_the_released_code_is_nan(golden: Path) -> None:
    case = load(golden, "contrastive_view1_unpaired")
    assert np.isnan(case["loss"])
    loss, grad = run(case["feats"], case["labels"], torch.float32)
    assert loss == 0
    assert (grad == 0).all()


def replayed_priority(case: dict[str, np.ndarray]) -> Tensor:
    """Priorities that make our sampler take the pixels the recorded permutations took."""
    label, predict = case["labels_resized"], case["predict"]
    priority = np.zeros(label.shape, dtype=np.float64)
    permutations = iter(np.split(case["perm_flat"], np.cumsum(case["perm_len"])[:-1]))
    for image in range(label.shape[0]):
        for class_id in np.unique(label[image]):
            here = label[image] == class_id
            if here.sum() <= 100:
                continue
            for half in (here & (predict[image] != class_id), here & (predict[image] == class_id)):
                ys, xs = np.nonzero(half)
                order = next(permutations)
                assert len(order) == len(ys)
                priority[image, ys[order], xs[order]] = np.arange(len(order))
    assert next(permutations, None) is None
    return torch.from_numpy(priority)


@pytest.mark.parametrize("name", MAPS)
def test_released_sampler_replayed(golden: Path, name: str) -> None:
    """Recorded permutations give the recorded pixels, and those the recorded loss and gradient of the map."""
    case = load(golden, f"forward_{name}")
    groups, views = case["sample_pos"].shape
    _, channels, height, width = case["feats"].shape
    label = torch.from_numpy(case["labels_resized"])
    index, valid = F.choose_anchors(
        label,
        torch.from_numpy(case["predict"]),
        priority_bhw=replayed_priority(case),
        min_pixels=101,
        per_image=True,
        ignore_index=-1,
    )
    assert valid.all()
    recorded = case["sample_img"] * height * width + case["sample_pos"]
    np.testing.assert_array_equal(index.numpy(), recorded.reshape(-1))

    feat = torch.from_numpy(case["feats"]).requires_grad_()
    rows = feat.permute(0, 2, 3, 1).reshape(-1, channels)[index]
    classes = label.reshape(-1)[index].reshape(groups, views)[:, 0]
    loss = F.pixel_contrast(rows.reshape(groups, views, channels), classes)
    loss.backward()
    np.testing.assert_allclose(loss.detach(), case["loss"], rtol=2e-6)
    assert feat.grad is not None
    np.testing.assert_allclose(feat.grad, case["grad"], rtol=1e-3, atol=2e-5 * np.abs(case["grad"]).max())


@pytest.mark.parametrize("name", MAPS)
def test_labels_are_resized_as_released(golden: Path, name: str) -> None:
    """The module given full-size labels draws what it draws from the recorded resized ones."""
    case = load(golden, f"forward_{name}")
    feat = torch.from_numpy(case["feats"])
    losses = [
        PixelContrastLoss(seed=3)(feat, torch.from_numpy(case[key]), torch.from_numpy(case["predict"]))
        for key in ("labels_full", "labels_resized")
    ]
    assert losses[0] == losses[1]
