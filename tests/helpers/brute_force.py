"""Slow references: plain loops in float64, written from the equations and sharing no code with the product."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def cosine(a: list[float], b: list[float]) -> float:
    na = math.sqrt(sum(x * x for x in a))
    nb = math.sqrt(sum(x * x for x in b))
    return 0.0 if na == 0 or nb == 0 else sum(x * y for x, y in zip(a, b, strict=True)) / (na * nb)


def contrast(
    anchor: Tensor, key: Tensor, positives: list[list[int]], own: list[int], temperature: float
) -> tuple[float, list[float]]:
    """Loss and the cost of each anchor that counts. `own[i]` is the key that is anchor i, or -1."""
    anchors, keys = anchor.double().tolist(), key.double().tolist()
    costs = []
    for i, a in enumerate(anchors):
        mine = [p for p in positives[i] if p != own[i]]
        if not mine:
            continue
        score = [cosine(a, k) / temperature for k in keys]
        others = [s for k, s in enumerate(score) if k != own[i]]
        top = max(others)
        log_sum = top + math.log(sum(math.exp(s - top) for s in others))
        costs.append(log_sum - sum(score[p] for p in mine) / len(mine))
    return (sum(costs) / len(costs) if costs else 0.0), costs


def same_class(anchor_label: Tensor, key_label: Tensor) -> list[list[int]]:
    return [[k for k, b in enumerate(key_label.tolist()) if b == a] for a in anchor_label.tolist()]


def pixel_map(embedding: Tensor, label: Tensor, ignore_index: int, temperature: float) -> float:
    """L_pixel over every pixel of [B,D,H,W] that is not ignored."""
    rows, classes = [], []
    for b in range(embedding.shape[0]):
        for y in range(embedding.shape[2]):
            for x in range(embedding.shape[3]):
                if int(label[b, y, x]) != ignore_index:
                    rows.append(embedding[b, :, y, x])
                    classes.append(int(label[b, y, x]))
    if not rows:
        return 0.0
    feat, ids = torch.stack(rows), torch.tensor(classes)
    return contrast(feat, feat, same_class(ids, ids), list(range(len(ids))), temperature)[0]


def patch_maps(
    patch1: Tensor,
    patch2: Tensor,
    overlap1: tuple[int, int, int, int],
    overlap2: tuple[int, int, int, int],
    flip1: bool,
    flip2: bool,
    temperature: float,
) -> float:
    """L_patch: each direction's mean over the overlap, averaged over directions and images."""
    total = 0.0
    height, width = overlap1[2] - overlap1[0], overlap1[3] - overlap1[1]
    for b in range(patch1.shape[0]):
        cells = [(p, y, x) for p in (0, 1) for y in range(patch1.shape[2]) for x in range(patch1.shape[3])]
        feat = torch.stack([(patch1, patch2)[p][b, :, y, x] for p, y, x in cells])
        place = {cell: i for i, cell in enumerate(cells)}
        pairs = []
        for r in range(height):
            for c in range(width):
                mirrored = width - 1 - c if flip1 != flip2 else c
                one = place[0, overlap1[0] + r, overlap1[1] + c]
                two = place[1, overlap2[0] + r, overlap2[1] + mirrored]
                pairs.append((one, two))
        for direction in (pairs, [(two, one) for one, two in pairs]):
            anchors = [i for i, _ in direction]
            loss, _ = contrast(feat[anchors], feat, [[j] for _, j in direction], anchors, temperature)
            total += loss / 2
    return total / patch1.shape[0]


def pixel_official(feat: Tensor, label: Tensor, temperature: float, base_temperature: float) -> float:
    """The released formula in 80-bit floats, pair by pair."""
    views = feat.shape[1]
    rows = feat.double().reshape(-1, feat.shape[2]).numpy().astype(np.longdouble)
    ids = [int(c) for c in label for _ in range(views)]
    means = []
    for i in range(len(rows)):
        score = [(rows[i] * row).sum() / np.longdouble(temperature) for row in rows]
        top = max(score)
        other = sum((np.exp(s - top) for s, c in zip(score, ids, strict=True) if c != ids[i]), np.longdouble(0))
        pairs = [
            score[j] - top - np.log(np.exp(score[j] - top) + other)
            for j in range(len(rows))
            if j != i and ids[j] == ids[i]
        ]
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return float(-(temperature / base_temperature) * sum(means) / len(means)) if means else 0.0


def numeric_gradient(function, x: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of a float function of one float64 tensor."""
    gradient = torch.zeros_like(x)
    flat, out = x.detach().clone().reshape(-1), gradient.reshape(-1)
    for i in range(flat.numel()):
        keep = float(flat[i])
        flat[i] = keep + step
        high = function(flat.reshape(x.shape))
        flat[i] = keep - step
        low = function(flat.reshape(x.shape))
        flat[i] = keep
        out[i] = (high - low) / (2 * step)
    return gradient
