"""The kernels' work in plain PyTorch and NumPy, with the operations and the order that research code uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipa import functional as F

C = 19
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))


def twin_pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    probability, label = torch.softmax(logits, dim=1).max(dim=1)
    confident = probability.ge(0.968).long() == 1
    share = confident.sum().item() / label.numel()
    return label, share * torch.ones(probability.shape)


def gaussian(size: int, sigma: float) -> Tensor:
    x = torch.arange(size) - size // 2
    weights = torch.exp(-(x**2) / (2 * sigma**2))
    return weights / weights.sum()


def twin_blur(image: Tensor, sigma: float) -> Tensor:
    ky, kx = F.blur_kernel_size(*image.shape[2:])
    kernel = torch.outer(gaussian(ky, sigma), gaussian(kx, sigma)).expand(image.shape[1], 1, -1, -1)
    padded = torch.nn.functional.pad(image, (kx // 2, kx // 2, ky // 2, ky // 2), mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel, groups=image.shape[1])


def to_hsv(image: Tensor) -> Tensor:
    value, index = image.max(1)
    delta = value - image.min(1)[0]
    saturation = delta / (value + 1e-6)
    divisor = torch.where(delta == 0, torch.ones_like(delta), delta)
    r, g, b = (value.unsqueeze(1) - image).unbind(1)
    hue = torch.stack([b - g, 2 * divisor + r - b, 4 * divisor + g - r], 1).gather(1, index[:, None])[:, 0] / divisor
    return torch.stack([2 * np.pi * ((hue / 6) % 1.0), saturation, value], 1)


def to_rgb(hsv: Tensor) -> Tensor:
    hue, s, v = hsv[:, 0] / (2 * np.pi), hsv[:, 1], hsv[:, 2]
    sector = torch.floor(hue * 6) % 6
    f = ((hue * 6) % 6) - sector
    p, q, t = v * (1 - s), v * (1 - f * s), v * (1 - (1 - f) * s)
    sector = sector.long()
    choice = torch.stack([sector, sector + 6, sector + 12], 1)
    return torch.stack((v, q, p, p, t, v, t, v, v, q, p, p, p, p, t, v, v, q), 1).gather(1, choice)


def twin_jitter(image: Tensor, draw: Any) -> Tensor:
    brightness, contrast, saturation, hue, order = (
        draw[name] for name in ("brightness", "contrast", "saturation", "hue", "order")
    )
    for step in order:
        if step == 0:
            image = (image + brightness - 1).clamp(0, 1)
        elif step == 1:
            image = (image * contrast).clamp(0, 1)
        else:
            h, s, v = to_hsv(image).unbind(1)
            s = (s * saturation).clamp(0, 1) if step == 2 else s
            h = torch.fmod(h + hue * 2 * np.pi, 2 * np.pi) if step == 3 else h
            image = to_rgb(torch.stack([h, s, v], 1))
    return image


def twin_mask(label: Tensor, classes: list[list[int]]) -> Tensor:
    masks = []
    for image, ids in zip(label, classes, strict=True):
        image, ids_t = torch.broadcast_tensors(image, torch.tensor(ids)[:, None, None])
        masks.append(image.eq(ids_t).sum(0, keepdims=True)[None])
    return torch.cat(masks)


def twin_mix_and_augment(label: Tensor, classes: list[list[int]], source: Tensor, target: Tensor, draws: Any) -> Tensor:
    mask = twin_mask(label, classes)
    results = []
    for i, draw in enumerate(draws):
        mixed = mask[i : i + 1] * source[i : i + 1] + (1 - mask[i : i + 1]) * target[i : i + 1]
        mixed = twin_jitter(mixed.mul(STD).add(MEAN).div(255.0), draw["jitter"]).mul(255.0).sub(MEAN).div(STD)
        mixed = twin_blur(mixed.mul(STD).add(MEAN).div(255.0), draw["sigma"]).mul(255.0).sub(MEAN).div(STD)
        results.append(mixed)
    return torch.cat(results)


def twin_downscale(label: Tensor, scale: int, min_ratio: float) -> Tensor:
    out = label.clone()
    out[out == 255] = C
    out = torch.nn.functional.one_hot(out.squeeze(1), num_classes=C + 1).permute(0, 3, 1, 2)
    ratio, out = torch.nn.functional.avg_pool2d(out.float(), kernel_size=scale).max(1, keepdim=True)
    out[out == C] = 255
    out[ratio < min_ratio] = 255
    return out


def twin_ema(teacher: list[Tensor], student: list[Tensor], iteration: int, alpha: float) -> None:
    alpha = min(1 - 1 / (iteration + 1), alpha)
    for t, s in zip(teacher, student, strict=True):
        t.data[:] = alpha * t[:].data[:] + (1 - alpha) * s[:].data[:]


def twin_confusion(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    keep = (label >= 0) & (label < C)
    return np.bincount(C * label[keep].astype(int) + prediction[keep], minlength=C**2).reshape(C, C)


def twin_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    full = torch.nn.functional.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    loss = (torch.nn.functional.cross_entropy(full, label, reduction="none", ignore_index=255) * weight).mean()
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def twin_sample(
    feat_bdhw: Tensor, label_bhw: Tensor, prediction_bhw: Tensor, max_anchors: int, max_views: int
) -> tuple[Tensor, Tensor]:
    """Groups of equally many pixels of one class of one image, half of them wrongly predicted: [A,V,D] and [A]."""
    batch, channels = feat_bdhw.shape[:2]
    rows = feat_bdhw.permute(0, 2, 3, 1).contiguous().view(batch, -1, channels)
    label, prediction = label_bhw.reshape(batch, -1), prediction_bhw.reshape(batch, -1)
    groups = []
    for image in range(batch):
        found = [c for c in torch.unique(label[image]) if c != 255]
        groups += [(image, c) for c in found if (label[image] == c).nonzero().shape[0] > max_views]
    views = min(max_anchors // len(groups), max_views)
    anchors = torch.zeros(len(groups), views, channels)
    ids = torch.zeros(len(groups))
    for place, (image, c) in enumerate(groups):
        hard = ((label[image] == c) & (prediction[image] != c)).nonzero()
        easy = ((label[image] == c) & (prediction[image] == c)).nonzero()
        if len(hard) >= views / 2 and len(easy) >= views / 2:
            keep_hard, keep_easy = views // 2, views - views // 2
        elif len(hard) >= views / 2:
            keep_hard, keep_easy = views - len(easy), len(easy)
        else:
            keep_hard, keep_easy = len(hard), views - len(hard)
        hard, easy = hard[torch.randperm(len(hard))[:keep_hard]], easy[torch.randperm(len(easy))[:keep_easy]]
        anchors[place] = rows[image, torch.cat((hard, easy))].squeeze(1)
        ids[place] = c
    return anchors, ids


def twin_pixel_contrast(feat_avd: Tensor, label_a: Tensor) -> Tensor:
    """The released form of the pixel contrast, with whole N x N matrices."""
    groups, views = feat_avd.shape[:2]
    label = label_a.view(-1, 1)
    mask = torch.eq(label, label.T).float().repeat(views, views)
    rows = torch.cat(torch.unbind(feat_avd, dim=1))
    scores = torch.matmul(rows, rows.T) / 0.1
    logits = scores - scores.max(dim=1, keepdim=True)[0].detach()
    other = 1 - mask
    mask = mask * torch.ones_like(mask).scatter_(1, torch.arange(groups * views).view(-1, 1), 0)
    exponentials = torch.exp(logits)
    others = (exponentials * other).sum(1, keepdim=True)
    log_probability = logits - torch.log(exponentials + others)
    return -(0.1 / 0.07) * ((mask * log_probability).sum(1) / mask.sum(1)).mean()


def twin_patch_gated(
    feat: list[Tensor], bank: Tensor, bank_label: Tensor, label: list[Tensor], conf: list[Tensor]
) -> list[Tensor]:
    """The released form of the patch contrast, with whole N x chunk matrices."""
    losses = []
    for own, other in ((0, 1), (1, 0)):
        positive = (feat[own] * feat[other].detach()).sum(1, keepdim=True) / 0.1
        total = torch.zeros(len(positive))
        for start in range(0, len(bank), 8000):
            other_class = (label[own][:, None] != bank_label[None, start : start + 8000]).float()
            scores = feat[own] @ bank[start : start + 8000].T / 0.1
            if start == 0:
                top = torch.max(torch.cat([positive, scores], 1), dim=1, keepdim=True)[0]
            total = total + (torch.exp(scores - top) * other_class).sum(1)
        exponential = torch.exp(positive - top).squeeze(1)
        cost = -torch.log(exponential / (exponential + total + 1e-8) + 1e-8)
        sure = ((conf[other] > 0.9) & (conf[own] < conf[other])).float()
        losses.append((cost * sure).sum() / (sure.sum() + 1e-12))
    return losses


def twin_class_counts(label: np.ndarray) -> dict[int, int]:
    return {c: n for c in range(C) if (n := int(np.sum(label == c))) > 0}


def twin_convert(path: Path, target: Path, table: list[tuple[int, int]]) -> dict[int, int]:
    label = np.array(Image.open(path))
    ids = 255 * np.ones(label.shape, dtype=np.uint8)
    counts = {}
    for raw, train in table:
        chosen = label == raw
        ids[chosen] = train
        if (n := int(np.sum(chosen))) > 0:
            counts[train] = counts.get(train, 0) + n
    Image.fromarray(ids, mode="L").save(target)
    return counts


def twin_distribution(embedding: Tensor, label: Tensor, mean: Tensor, var: Tensor, temperature: float) -> Tensor:
    feat = torch.nn.functional.normalize(embedding, p=2, dim=1).permute(0, 2, 3, 1).contiguous().view(-1, mean.shape[1])
    label = label.reshape(-1)
    feat, label = feat[label != 255], label[label != 255]
    logits = feat.mm(mean.t()) / temperature + feat.pow(2).mm(var.t()) / (2 * temperature**2)
    return torch.nn.functional.cross_entropy(logits, label)


def twin_prototype_weights(feat: Tensor, proto: Tensor) -> Tensor:
    n, _, h, w = feat.shape
    distance = -torch.ones(n, len(proto), h, w)
    for k in range(len(proto)):
        distance[:, k] = torch.norm(proto[k].reshape(-1, 1, 1).expand(-1, h, w) - feat, 2, dim=1)
    nearest = distance.min(dim=1, keepdim=True).values
    return torch.softmax(-(distance - nearest), dim=1)
