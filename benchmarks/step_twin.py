"""One PiPa iteration in plain PyTorch, in the way research code does it, written from the equations of the method.

What it does as released code does: one backward pass per term of the source image, both patches in passes of their own,
blur by the full window, labels by one-hot, class by class loops with reads of the device, all N x N scores, losses read
by `.item()`, teacher and AdamW parameter by parameter. What it does not repeat are the released code's errors (patch
features without gradient, labels of another crop, ...): it computes what ours computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipa.mmseg.models.segmentors.step_adapter import backbone_features, crop, segmentor_outputs, teacher_logits
from pipa.networks import Outputs, quiet_train
from twins import twin_blur, twin_downscale, twin_ema, twin_jitter, twin_mask

F = torch.nn.functional
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))


class TwinStep:
    """Networks, optimiser and settings of the twin. `settings`: those of the iteration, see docs/settings.md."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        imagenet: nn.Module,
        heads: nn.ModuleDict,
        settings: dict[str, Any],
    ) -> None:
        self.student, self.teacher, self.imagenet, self.heads = student, teacher, imagenet, heads
        self.settings = settings
        self.optimizer = torch.optim.AdamW([*student.parameters(), *heads.parameters()], lr=6e-5, foreach=False)
        self.iteration = 0

    def __call__(self, source: Tensor, label: Tensor, target: Tensor, draws: dict[str, Any]) -> dict[str, float]:
        """label: [B,H,W]; draws: as `PipaStep` takes them. Returns the losses."""
        self.optimizer.zero_grad()
        twin_ema(list(self.teacher.parameters()), list(self.student.parameters()), self.iteration, 0.999)
        log = self._source(source, label)
        log.update(self._target(source, label, target, draws))
        self.optimizer.step()
        self.iteration += 1
        return log

    def _source(self, source: Tensor, label: Tensor) -> dict[str, float]:
        s = self.settings
        out = segmentor_outputs(self.student, source)
        loss = supervised(out, label, None)
        log = {"loss_source": loss.item(), "acc_source": accuracy(out.heads[0].logits, label)}
        loss.backward(retain_graph=True)

        features, region = (out.features, None) if out.detail is None else out.detail
        logits = next((h.logits for h in out.heads if h.region == region), out.heads[0].logits)
        embedding = self.heads["pixel_head"](features)
        pixel = s["pixel_weight"] * pixel_contrast(embedding, crop(label, region), logits.argmax(1), s)
        log["loss_pixel"] = pixel.item()
        pixel.backward(retain_graph=True)

        with torch.no_grad():
            reference = backbone_features(self.imagenet.eval(), source)[-1].detach()
        distance = feature_distance(out.features[-1], reference, label, s)
        log["loss_feature_distance"] = distance.item()
        distance.backward()
        return log

    def _target(self, source: Tensor, label: Tensor, target: Tensor, draws: dict[str, Any]) -> dict[str, float]:
        with torch.no_grad():
            logits = teacher_logits(quiet_train(self.teacher), target).detach()
            confidence, pseudo = torch.softmax(logits, dim=1).max(dim=1)
            confident = confidence.ge(self.settings["threshold"]).long() == 1
            weight = confident.sum().item() / pseudo.numel() * torch.ones(confidence.shape)
        mask = twin_mask(label[:, None], draws["classes"])
        for image in label:
            torch.unique(image).tolist()  # the classes to draw from
        images, labels, weights = [], [], []
        for i, draw in enumerate(draws["augment"]):
            m = mask[i : i + 1]
            image = augment(m * source[i : i + 1] + (1 - m) * target[i : i + 1], draw)
            images.append(image)
            labels.append(m[:, 0] * label[i : i + 1] + (1 - m[:, 0]) * pseudo[i : i + 1])
            weights.append(m[:, 0] * torch.ones_like(weight[i : i + 1]) + (1 - m[:, 0]) * weight[i : i + 1])
        mixed, mixed_label, mixed_weight = torch.cat(images), torch.cat(labels), torch.cat(weights)

        out = segmentor_outputs(self.student, mixed)
        loss = supervised(out, mixed_label, mixed_weight)
        log = {"loss_mix": loss.item(), "acc_mix": accuracy(out.heads[0].logits, mixed_label)}
        loss.backward()

        box1, box2, flip1, flip2 = draws["patches"]
        embeddings = []
        for box, flip in ((box1, flip1), (box2, flip2)):
            patch = crop(mixed, box)
            features = backbone_features(self.student, patch.flip(3) if flip else patch)
            embedding = self.heads["patch_head"](features)
            embeddings.append(embedding.flip(3) if flip else embedding)
        patch_loss = self.settings["patch_weight"] * patch_contrast(*embeddings, box1, box2)
        log["loss_patch"] = patch_loss.item()
        patch_loss.backward()
        return log


def supervised(out: Outputs, label: Tensor, weight: Tensor | None) -> Tensor:
    total = torch.zeros(())
    for head in out.heads:
        part = crop(label, head.region)
        logits = F.interpolate(head.logits, part.shape[1:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, part, reduction="none", ignore_index=255)
        total = total + head.weight * (loss if weight is None else loss * crop(weight, head.region)).mean()
    return total


def accuracy(logits: Tensor, label: Tensor) -> float:
    full = F.interpolate(logits.detach(), label.shape[1:], mode="bilinear", align_corners=False)
    _, predicted = full.topk(1, dim=1)
    return (predicted[:, 0].eq(label) & label.ne(255)).float().sum().mul(100.0 / label.numel()).item()


def feature_distance(feature: Tensor, reference: Tensor, label: Tensor, s: dict[str, Any]) -> Tensor:
    distance = torch.norm(feature - reference, dim=1, p=2)
    small = twin_downscale(label[:, None], label.shape[-1] // feature.shape[-1], s["feature_distance_min_ratio"])[:, 0]
    mask = torch.any(small[..., None] == torch.tensor(s["feature_distance_classes"]), -1)
    kept = distance[mask]
    mean = kept.mean() if kept.numel() > 0 else distance.sum() * 0
    return s["feature_distance_weight"] * mean


def augment(image: Tensor, draw: dict[str, Any]) -> Tensor:
    if draw["jitter"] is not None:
        image = twin_jitter(image.mul(STD).add(MEAN).div(255.0), draw["jitter"]).mul(255.0).sub(MEAN).div(STD)
    if draw["sigma"] is not None:
        image = twin_blur(image.mul(STD).add(MEAN).div(255.0), draw["sigma"]).mul(255.0).sub(MEAN).div(STD)
    return image


def pixel_contrast(embedding: Tensor, label: Tensor, prediction: Tensor, s: dict[str, Any]) -> Tensor:
    """Balanced sample, class by class; then all scores of the sample with itself."""
    size = embedding.shape[2:]
    label, prediction = (
        F.interpolate(x[:, None].float(), size, mode="nearest")[:, 0].long() for x in (label, prediction)
    )
    flat, predicted = label.flatten(), prediction.flatten()
    classes = [c for c in torch.unique(flat).tolist() if c != 255 and int((flat == c).sum().item()) > 1]
    if not classes:
        return embedding.sum() * 0
    share = min(max(s["pixel_max_anchors"] // len(classes), 2), s["pixel_max_per_class"])
    chosen = []
    for c in classes:
        hard, easy = ((flat == c) & test for test in (predicted != c, predicted == c))
        hard, easy = hard.nonzero()[:, 0], easy.nonzero()[:, 0]
        take_hard = min(max(share // 2, share - easy.numel()), hard.numel())
        take_easy = min(share - take_hard, easy.numel())
        chosen += [hard[torch.randperm(hard.numel())[:take_hard]], easy[torch.randperm(easy.numel())[:take_easy]]]
    index = torch.cat(chosen)
    z = F.normalize(embedding.permute(0, 2, 3, 1).flatten(0, 2)[index], dim=1)
    ids = flat[index]
    score = z @ z.T / s["pixel_temperature"]
    other = ~torch.eye(len(ids), dtype=torch.bool)
    positive = (ids[:, None] == ids[None]) & other
    log_denominator = (score.exp() * other).sum(1, keepdim=True).log()
    count = positive.sum(1)
    per_anchor = ((log_denominator - score) * positive).sum(1) / count.clamp(min=1)
    return per_anchor[count > 0].mean()


def patch_contrast(first: Tensor, second: Tensor, box1: tuple[int, ...], box2: tuple[int, ...]) -> Tensor:
    """Maps [B,D,h,w], flips undone; boxes in pixels of the image. All scores of the overlap with both maps."""
    h, w = first.shape[2:]
    stride = (box1[2] - box1[0]) // h
    top, left = max(box1[0], box2[0]), max(box1[1], box2[1])
    bottom, right = min(box1[2], box2[2]), min(box1[3], box2[3])
    cells = torch.arange(h * w).view(h, w)
    inside = [
        cells[(top - b[0]) // stride : (bottom - b[0]) // stride, (left - b[1]) // stride : (right - b[1]) // stride]
        for b in (box1, box2)
    ]
    one, two = inside[0].flatten(), inside[1].flatten() + h * w
    anchor, positive = torch.cat([one, two]), torch.cat([two, one])
    losses = []
    for a, b in zip(first, second, strict=True):
        keys = F.normalize(torch.cat([a.flatten(1).T, b.flatten(1).T]), dim=1)
        score = keys[anchor] @ keys.T / 0.1
        own = F.one_hot(anchor, len(keys)).bool()
        log_denominator = (score.exp() * ~own).sum(1).log()
        losses.append((log_denominator - score[torch.arange(len(anchor)), positive]).mean())
    return torch.stack(losses).mean()
