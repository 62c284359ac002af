"""Scores without labels against loops over pixel pairs, and what must hold whatever the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipa import DTypeError, ShapeError
from pipa import functional as F
from pipa.functional import label_free


def slow(logits: Tensor, temperature: float = 0.05) -> dict[str, float]:
    """Every pixel asks every other one, in Python numbers."""
    rows = logits.double().permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).tolist()
    softmax = []
    for row in rows:
        top = max(row)
        powers = [math.exp(value - top) for value in row]
        softmax.append([power / sum(powers) for power in powers])
    entropies = [-sum(p * math.log(p) for p in row if p > 0) for row in softmax]
    unit = [[p / math.sqrt(sum(q * q for q in row)) for p in row] for row in softmax]
    dense = []
    for i, one in enumerate(unit):
        score = [
            sum(a * b for a, b in zip(one, two, strict=True)) / temperature for j, two in enumerate(unit) if j != i
        ]
        top = max(score)
        powers = [math.exp(value - top) for value in score]
        dense.append(-sum(p / sum(powers) * math.log(p / sum(powers)) for p in powers if p > 0))
    return {"entropy": sum(entropies) / len(rows), "snd": sum(dense) / len(rows)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "scale"), [((2, 5, 4, 7), 1), ((1, 19, 9, 5), 4), ((3, 2, 1, 3), 30), ((1, 3, 1, 2), 1)]
)
def test_scores_are_those_of_loops(shape: tuple[int, ...], scale: float, dtype: torch.dtype) -> None:
    logits = (torch.randn(shape, dtype=torch.float64) * scale).to(dtype)
    found, right = F.label_free_scores(logits), slow(logits)
    assert set(found) == {"entropy", "snd"}
    for name, value in right.items():
        assert found[name].shape == ()
        assert found[name].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert float(found[name]) == pytest.approx(value, abs=1e-9 if dtype == torch.float64 else 2e-5)
    warmer = F.label_free_scores(logits, temperature=0.7)
    assert float(warmer["snd"]) == pytest.approx(slow(logits, 0.7)["snd"], abs=2e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, similarities and pixels in blocks that do not divide them."""
    logits = torch.randn(2, 6, 11, 13, dtype=torch.float64)
    whole = F.label_free_scores(logits)
    monkeypatch.setattr(label_free, "_VALUES", 997)
    blocks = F.label_free_scores(logits)
    for name in whole:
        torch.testing.assert_close(blocks[name], whole[name])


def test_memory_is_a_block_whatever_the_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 pixels have 40,000 similarities, of which no more than a block is held."""
    monkeypatch.setattr(label_free, "_VALUES", 4000)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, Tensor))
            return out

    with Watch():
        F.label_free_scores(torch.randn(1, 4, 10, 20))
    assert 1000 < max(sizes) <= 4000


def test_limits() -> None:
    """Sure and of two minds; all alike; a hundred pixels of ten kinds."""
    flat = F.label_free_scores(torch.zeros(2, 8, 5, 5, dtype=torch.float64))
    assert float(flat["entropy"]) == pytest.approx(math.log(8))
    assert float(flat["snd"]) == pytest.approx(math.log(49))
    kinds = torch.arange(100) % 10
    sure = torch.nn.functional.one_hot(kinds, 10).double().T.reshape(1, 10, 10, 10) * 1000
    found = F.label_free_scores(sure)
    assert float(found["entropy"]) == pytest.approx(0, abs=1e-12)
    assert float(found["snd"]) == pytest.approx(math.log(9), abs=1e-4)  # nine others of its kind
    assert torch.isfinite(F.label_free_scores(sure * 1e6)["snd"])


def test_order_of_pixels_and_shift_of_logits_do_not_matter() -> None:
    logits = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    found = F.label_free_scores(logits)
    mixed = logits.permute(1, 0, 2, 3).flatten(1)[:, torch.randperm(84)].reshape(4, 1, 12, 7).transpose(0, 1)
    for name, value in F.label_free_scores(mixed + 5).items():
        torch.testing.assert_close(value, found[name])


def test_large_batches_are_sampled_at_even_steps() -> None:
    logits = torch.randn(3, 5, 40, 50)
    sample = logits.permute(0, 2, 3, 1).reshape(-1, 5)
    kept = sample[[(2 * i + 1) * 6000 // 1200 for i in range(600)]]
    found = F.label_free_scores(logits, max_pixels=600)
    right = F.label_free_scores(kept.T.reshape(1, 5, 20, 30))
    torch.testing.assert_close(found["snd"], right["snd"])
    torch.testing.assert_close(found["entropy"], F.label_free_scores(logits)["entropy"])
    assert label_free.spread(7, 100).tolist() == list(range(7))
    assert label_free.spread(10, 5).tolist() == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (torch.zeros(3, 4, 5), {}, ShapeError, r"logits_bchw: expected shape \(B, C, H, W\).*got \(3, 4, 5\)"),
        (torch.zeros(1, 1, 4, 5), {}, ShapeError, "at least 2 classes"),
        (torch.zeros(1, 2, 1, 1), {}, ShapeError, "at least 2 pixels"),
        (torch.zeros(1, 2, 4, 4, dtype=torch.long), {}, DTypeError, "expected floating point, got torch.int64"),
        (torch.zeros(1, 2, 4, 4), {"temperature": 0.0}, ValueError, "temperature: expected a positive number, got 0.0"),
        (torch.zeros(1, 2, 4, 4), {"max_pixels": 1}, ValueError, "max_pixels: expected 2 or more, got 1"),
    ],
)
def test_refusals(given: Tensor, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        F.label_free_scores(given, **options)
