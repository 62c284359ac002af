"""The balanced sample: quotas, hard and easy halves, seeds, resume, and the memory bank."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from pipa import PixelContrastLoss
from pipa import functional as F


def picked(label: Tensor, prediction: Tensor | None = None, **settings: int) -> Tensor:
    index, valid = F.choose_anchors(label, prediction, **settings)
    assert valid.all()
    assert len(index.unique()) == len(index)
    return index


def test_every_class_gets_the_same_share() -> None:
    label = torch.zeros(2, 50, 50, dtype=torch.int64)
    label[:, :10, :10] = 7
    label[0, 20, :3] = 9
    label[1, 30, 30] = 11
    label[1, 40:] = 255
    classes, counts = label.reshape(-1)[picked(label)].unique(return_counts=True)
    # 11 has one pixel, so it can have no partner; 9 gives all it has.
    assert dict(zip(classes.tolist(), counts.tolist(), strict=True)) == {0: 100, 7: 100, 9: 3}
    classes, counts = label.reshape(-1)[picked(label, max_anchors=60)].unique(return_counts=True)
    assert dict(zip(classes.tolist(), counts.tolist(), strict=True)) == {0: 20, 7: 20, 9: 3}
    assert label.reshape(-1)[picked(label, min_pixels=101)].unique().tolist() == [0, 7]


@pytest.mark.parametrize(("hard", "expected"), [(0, 0), (8, 8), (30, 30), (170, 30), (195, 55), (200, 60)])
def test_half_hard_half_easy(hard: int, expected: int) -> None:
    """200 pixels of a class, 60 wanted: half of each kind, and where one kind is short the other fills up."""
    label = torch.zeros(1, 10, 20, dtype=torch.int64)
    prediction = label.clone()
    prediction.reshape(-1)[torch.randperm(200)[:hard]] = 1
    index = picked(label, prediction, max_per_class=60)
    assert len(index) == 60
    wrong = prediction.reshape(-1)[index] == 1
    assert int(wrong.sum()) == expected
    assert wrong[:expected].all()


def test_every_pixel_has_the_same_chance() -> None:
    label = torch.zeros(1, 4, 5, dtype=torch.int64)
    hits = torch.zeros(20)
    for seed in range(2000):
        hits[picked(label, max_per_class=5, seed=seed)] += 1
    # Binomial(2000, 1/4): deviation 19.4, so 5 deviations.
    assert (hits - 500).abs().max() < 97


def test_seed_decides_and_state_resumes() -> None:
    embedding, label = torch.randn(2, 8, 20, 20), torch.randint(0, 3, (2, 20, 20))
    settings = {"max_per_class": 10, "memory_bank": 16, "num_classes": 3}
    one = PixelContrastLoss(seed=5, **settings)
    first = [one(embedding, label) for _ in range(2)]
    assert first[0] != first[1]
    again = PixelContrastLoss(seed=5, **settings)
    assert [again(embedding, label) for _ in range(2)] == first
    assert PixelContrastLoss(seed=6, **settings)(embedding, label) != first[0]

    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    resumed = PixelContrastLoss(seed=99, **settings)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [resumed(embedding, label) for _ in range(3)] == [one(embedding, label) for _ in range(3)]

    torch.manual_seed(11)
    plain = PixelContrastLoss(max_per_class=10)(embedding, label)
    torch.manual_seed(11)
    assert PixelContrastLoss(max_per_class=10)(embedding, label) == plain


def test_memory_keeps_the_newest_of_each_class() -> None:
    loss = PixelContrastLoss(seed=0, memory_bank=3, num_classes=2)
    for step in range(4):
        embedding = torch.full((1, 2, 1, 4), float(step + 1))
        # 255 is ignored, and not kept.
        label = torch.tensor([[[0, 0, 255, 255]]]) if step < 3 else torch.tensor([[[1, 1, 1, 1]]])
        loss(embedding, label)
    feat, ids, _ = loss.get_extra_state()["bank"]
    kept = sorted((int(c), float(f[0])) for c, f in zip(ids, feat, strict=False) if c >= 0)
    assert kept == [(0, 2.0), (0, 3.0), (0, 3.0), (1, 4.0), (1, 4.0), (1, 4.0)]


def test_memory_without_a_partner_in_the_batch_gives_positives() -> None:
    loss = PixelContrastLoss(seed=0, memory_bank=4, num_classes=2, sampling="all")
    loss(torch.randn(1, 4, 1, 2), torch.tensor([[[0, 0]]]))
    embedding = torch.randn(1, 4, 1, 2, requires_grad=True)
    value = loss(embedding, torch.tensor([[[0, 1]]]))
    value.backward()
    assert value > 0
    assert embedding.grad is not None
    assert embedding.grad.abs().sum() > 0
