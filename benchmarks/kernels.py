"""Kernels beside plain-PyTorch twins that do the work in the way research code does it: same process, same inputs,
results checked equal. Prints a Markdown table: best times, ratio, and extra memory at its peak (Linux).

    python benchmarks/kernels.py [--rounds 5] [--only NAME]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipa import functional as F

C, B, H, W = 19, 2, 1024, 1024
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def first_run(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds, and the MB that the process grew by meanwhile (result included), sampled twice a millisecond."""
    ctypes.CDLL(None).malloc_trim(0)  # memory kept from earlier runs would hide what this one needs
    start, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.0005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        begin = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - begin
        peak = max(peak, resident())
    finally:
        done.set()
        thread.join()
    return result, seconds, max(0, peak - start) / 2**20


def best(function: Callable[[], Any], first: float, rounds: int) -> float:
    """Best time of `rounds`; a first run of more than two seconds is taken as it is."""
    if first > 2:
        return first
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


# --- twins -----------------------------------------------------------------------------------------------------------


def twin_pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    probability, label = torch.softmax(logits, dim=1).max(dim=1)
    confident = probability.ge(0.968).long() == 1
    share = confident.sum().item() / np.size(label.numpy())
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
    brightness, contrast, saturation, hue, order = draw
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
    for i, (jitter, sigma) in enumerate(draws):
        mixed = mask[i : i + 1] * source[i : i + 1] + (1 - mask[i : i + 1]) * target[i : i + 1]
        mixed = twin_jitter(mixed.mul(STD).add(MEAN).div(255.0), jitter).mul(255.0).sub(MEAN).div(STD)
        mixed = twin_blur(mixed.mul(STD).add(MEAN).div(255.0), sigma).mul(255.0).sub(MEAN).div(STD)
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


def our_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(logits, label, weight)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def our_mix_and_augment(label: Tensor, classes: list[list[int]], source: Tensor, target: Tensor, draws: Any) -> Tensor:
    return F.strong_augment(F.class_mix(F.class_mask(label, classes), source, target), draws)


# --- table -----------------------------------------------------------------------------------------------------------


def scene(*shape: int, block: int = 32) -> Tensor:
    """A label map of blocks, with ignored ones."""
    ids = torch.randint(0, C + 1, (*shape[:-2], shape[-2] // block, shape[-1] // block))
    return ids.where(ids < C, 255).repeat_interleave(block, -2).repeat_interleave(block, -1)


def cases() -> dict[str, tuple[Callable[[], Any], Callable[[], Any], float]]:
    """Name: ours, twin, tolerance (a share of differing values for labels)."""
    logits, label = 4 * torch.randn(B, C, H, W), scene(B, 1, H, W)
    small, weight = (4 * torch.randn(B, C, H // 4, W // 4)).requires_grad_(), torch.rand(B, H, W)
    image, other = torch.rand(B, 3, H, W), torch.rand(B, 3, H, W)
    normalised, normalised2 = (image * 255 - MEAN) / STD, (other * 255 - MEAN) / STD
    draws = F.draw_augment(B, seed=1, jitter_probability=1.0, blur_probability=1.0)
    classes = F.draw_classes(label, C, seed=2)
    student = [torch.randn(1_000_000) for _ in range(85)]
    teachers = [[torch.randn(1_000_000) for _ in range(85)] for _ in range(2)]
    for a, b in zip(*teachers, strict=True):
        b.copy_(a)
    ids = torch.randint(0, C, (1024, 2048), dtype=torch.uint8).numpy()
    truth = scene(1024, 2048).to(torch.uint8).numpy()

    def ema(update: Callable[..., None], teacher: list[Tensor]) -> Tensor:
        update(teacher, student, 5000, 0.999)
        return teacher[3]

    def copy() -> Tensor:
        for t, s in zip(copies, student, strict=True):
            t.copy_(s)
        return torch.zeros(1)

    copies = [torch.zeros(1_000_000) for _ in range(85)]
    return {
        f"pseudo-labels {B}x{C}x{H}x{W}": (
            lambda: F.pseudo_label(logits),
            lambda: twin_pseudo_label(logits),
            1e-5,
        ),
        f"blur 103x103 of {B}x3x{H}x{W}": (
            lambda: F.gaussian_blur(image, 1.0, (103, 103)),
            lambda: twin_blur(image, 1.0),
            2e-6,
        ),
        "class mix + jitter + blur": (
            lambda: our_mix_and_augment(label, classes, normalised, normalised2, draws),
            lambda: twin_mix_and_augment(label, classes, normalised, normalised2, draws),
            2e-4,
        ),
        f"label downscale by 32, {B}x1x{H}x{W}": (
            lambda: F.downscale_label(label, 32, 0.75, C),
            lambda: twin_downscale(label, 32, 0.75),
            0.0,
        ),
        "cross entropy from 1/4 size, forward + backward": (
            lambda: our_cross_entropy(small, label[:, 0], weight),
            lambda: twin_cross_entropy(small, label[:, 0], weight),
            1e-6,
        ),
        "EMA of 85 M parameters": (
            lambda: ema(F.ema_update, teachers[0]),
            lambda: ema(twin_ema, teachers[1]),
            float("inf"),  # in place: checked by the tests
        ),
        "EMA beside a copy of the same bytes": (
            lambda: ema(F.ema_update, teachers[0]),
            copy,
            float("inf"),
        ),
        "confusion matrix 1024x2048 (twin: NumPy)": (
            lambda: F.confusion_matrix(ids, truth, C),
            lambda: torch.from_numpy(twin_confusion(ids, truth)),
            0.0,
        ),
    }


def difference(ours: Any, twin: Any) -> float:
    """Largest difference; for integers the share of values that differ."""
    if isinstance(ours, tuple):
        return max(difference(a, b) for a, b in zip(ours, twin, strict=True))
    if not ours.is_floating_point():
        return float((ours != twin).double().mean())
    return float((ours - twin).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| kernel | ours ms | twin ms | ratio | ours extra MB | twin extra MB | difference |")
    print("|---|---|---|---|---|---|---|")
    for name, (ours, twin, tolerance) in cases().items():
        if options.only not in name:
            continue
        (result, first, memory), (expected, twin_first, twin_memory) = first_run(ours), first_run(twin)
        found = 0.0 if tolerance == float("inf") else difference(result, expected)
        if found > tolerance:
            raise SystemExit(f"{name}: results differ by {found}, more than {tolerance}")
        del result, expected
        times = best(ours, first, options.rounds), best(twin, twin_first, options.rounds)
        row = (
            [f"{t * 1e3:.1f}" for t in times]
            + [f"{times[1] / times[0]:.1f}"]
            + [f"{m:.0f}" for m in (memory, twin_memory)]
        )
        print(f"| {name} | {' | '.join(row)} | {found:.1e} |", flush=True)


if __name__ == "__main__":
    main()
