"""Slow references of prototypes and class distributions: loops over pixels and classes in Python floats."""

from __future__ import annotations

import math

from torch import Tensor


def pixels(map_bdhw: Tensor) -> list[list[float]]:
    return map_bdhw.detach().double().permute(0, 2, 3, 1).reshape(-1, map_bdhw.shape[1]).tolist()


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    parts = [math.exp(s - top) for s in scores]
    return [p / sum(parts) for p in parts]


def weights(feat: Tensor, proto: Tensor, temperature: float, seen: list[bool] | None = None) -> list[list[float]]:
    """Rows [pixels][K]."""
    rows = proto.detach().double().tolist()
    seen = seen or [True] * len(rows)
    found = []
    for f in pixels(feat):
        distance = [math.dist(f, eta) if s else None for eta, s in zip(rows, seen, strict=True)]
        known = [d for d in distance if d is not None]
        neutral = sum(known) / len(known) if known else 0.0
        found.append(softmax([-(neutral if d is None else d) / temperature for d in distance]))
    return found


def symmetric(logits: Tensor, label: Tensor, ce: float, rce: float, floor: float, ignore: int) -> float:
    costs = []
    for z, y in zip(pixels(logits), label.flatten().tolist(), strict=True):
        if y == ignore:
            continue
        p = softmax(z)
        forward = -math.log(p[y])
        reverse = -sum(p_k * math.log(max(1.0 if k == y else 0.0, floor)) for k, p_k in enumerate(p))
        costs.append(ce * forward + rce * reverse)
    return sum(costs) / len(costs) if costs else 0.0


def consistency(
    student: Tensor,
    teacher: Tensor,
    proto: Tensor,
    temperature: float,
    valid: list[bool],
    seen: list[bool] | None = None,
) -> float:
    pairs = zip(weights(teacher, proto, temperature, seen), weights(student, proto, temperature, seen), strict=True)
    costs = [
        sum(a * (math.log(a) - math.log(b)) for a, b in zip(z, other, strict=True) if a > 0)
        for (z, other), counts in zip(pairs, valid, strict=True)
        if counts
    ]
    return sum(costs) / len(costs) if costs else 0.0


def distribution(embedding: Tensor, label: Tensor, mean: Tensor, var: Tensor, temperature: float, ignore: int) -> float:
    means, variances, costs = mean.double().tolist(), var.double().tolist(), []
    for e, y in zip(pixels(embedding), label.flatten().tolist(), strict=True):
        if y == ignore:
            continue
        length = math.sqrt(sum(v * v for v in e)) or 1.0
        e = [v / length for v in e]
        scores = [
            sum(v * m for v, m in zip(e, mu, strict=True)) / temperature
            + sum(v * v * s for v, s in zip(e, variance, strict=True)) / (2 * temperature**2)
            for mu, variance in zip(means, variances, strict=True)
        ]
        costs.append(-math.log(softmax(scores)[y]))
    return sum(costs) / len(costs) if costs else 0.0
