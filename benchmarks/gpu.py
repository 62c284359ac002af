"""Everything a GPU can show in one call of under nine minutes: one table, and a JSON file.

    python benchmarks/gpu.py --json gpu.json             # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --toy          # that the script works, at toy size

Sections: tests (the suite's CUDA part, synchronisation errors included), kernels, contrast (exact, large N, share of
the card's matrix rate), step (whole iterations of DAFormer and HRDA beside the released operations), options (ViT-L
compiled and checkpointed), loader. A section that fails is reported and does not end the others; one that no longer
fits into the time is left out and named.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import step as step_bench
import step_twin
import twins
from gpu_timing import Device, beside, with_gradient
from kernels import guess, scene
from pipa import PixelContrastLoss
from pipa import functional as F

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


def tests(device: Device) -> Iterator[Row]:
    """The part of the suite that needs a card; on a CPU only its collection."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", str(ROOT / "tests")]
    command += [] if device.cuda else ["--collect-only"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield {"name": "pytest -m cuda", "exit": done.returncode, "said": lines[-1] if lines else "", "failed": failed}


def kernels(device: Device) -> Iterator[Row]:
    """Each kernel beside its twin at the published sizes."""
    size, small = device.pick(1024, 128), device.pick(128, 16)
    classes, batch = 19, 2
    logits = 4 * torch.randn(batch, classes, size, size)
    yield beside(device, "pseudo-labels", lambda: F.pseudo_label(logits), lambda: twins.twin_pseudo_label(logits))
    image, other, label = (
        torch.rand(batch, 3, size, size),
        torch.rand(batch, 3, size, size),
        scene(batch, 1, size, size),
    )
    yield beside(
        device,
        "Gaussian blur",
        lambda: F.gaussian_blur(image, 1.0, (103, 103) if not device.toy else (13, 13)),
        lambda: twins.twin_blur(image, 1.0),
    )
    source, target = ((x * 255 - twins.MEAN) / twins.STD for x in (image, other))
    augment = F.draw_augment(batch, seed=1, jitter_probability=1.0, blur_probability=1.0)
    chosen = F.draw_classes(label, classes, seed=2)
    yield beside(
        device,
        "class mix, jitter, blur",
        lambda: F.strong_augment(F.class_mix(F.class_mask(label, chosen), source, target), augment),
        lambda: twins.twin_mix_and_augment(label, chosen, source, target, augment),
    )
    quarter = (4 * torch.randn(batch, classes, size // 4, size // 4)).requires_grad_()
    weight = torch.rand(batch, size, size)
    yield beside(
        device,
        "cross entropy from quarter size, with gradient",
        lambda: with_gradient(lambda: F.cross_entropy(quarter, label[:, 0], weight), quarter),
        lambda: twins.twin_cross_entropy(quarter, label[:, 0], weight),
    )
    teacher, student = ([torch.randn(device.pick(1_000_000, 1000)) for _ in range(85)] for _ in range(2))
    yield beside(
        device,
        "teacher update, 85 M parameters",
        lambda: F.ema_update(teacher, student, 5000),
        lambda: twins.twin_ema(teacher, student, 5000, 0.999),
    )
    feat = torch.randn(2, 256, small, small).requires_grad_()
    small_label = scene(2, small, small, block=4)
    prediction, loss = guess(small_label, 0.3), PixelContrastLoss(max_per_class=device.pick(100, 4), seed=0)

    def sampled_twin() -> Tensor:
        return twins.twin_pixel_contrast(*twins.twin_sample(feat, small_label, prediction, 1024, device.pick(100, 4)))

    yield beside(
        device,
        "pixel contrast with sampling, with gradient",
        lambda: with_gradient(lambda: loss(feat, small_label, prediction), feat),
        lambda: with_gradient(sampled_twin, feat),
    )


def contrast(device: Device) -> Iterator[Row]:
    """Exact class contrast with gradient: time, memory, and the share of the rate of a plain matrix product."""
    for dtype in (torch.float32, torch.bfloat16):
        side = device.pick(8192, 256)
        a, b = (torch.randn(side, side, dtype=dtype) for _ in range(2))
        rate = 2 * side**3 / device.milliseconds(lambda a=a, b=b: a @ b)  # flop per ms
        for n in device.pick((16_384, 65_536, 262_144), (512,)):
            embedding = torch.randn(n, 256, dtype=dtype).requires_grad_()
            label = torch.randint(0, 19, (n,))

            def run(e: Tensor = embedding, y: Tensor = label) -> Any:
                return with_gradient(lambda: F.contrast(e, e, (y, y), exclude_self=True), e)

            row = beside(device, f"exact contrast, N = {n}, {dtype}", run, None)
            # Scores once forward and once backward, and two products for the gradients.
            row["share_of_matrix_rate"] = 4 * 2 * n * n * 256 / row["ours_ms"] / rate
            yield row


def iterations(device: Device) -> Iterator[Row]:
    """A whole iteration with optimiser beside the released operations, in three precisions; share of the networks."""
    arch = device.pick("b5", "b0")
    for kind, side in device.pick((("daformer", 640), ("hrda", 1024)), (("daformer", 64),)):
        step_bench.SIDE = side
        patch = side * 11 // 16 // 16 * 16
        step_bench.SETTINGS |= {"patch_size": [patch, patch]}
        step_bench.DRAWS |= {"patches": ((0, 0, patch, patch), (16, 16, patch + 16, patch + 16), False, True)}
        batch = torch.randn(2, 3, side, side), scene(2, side, side, block=16), torch.randn(2, 3, side, side)
        make, twin = step_bench.sides(kind, 0.1, arch)
        released = partial(twin, *batch, step_bench.DRAWS)
        for precision in ("float32", "TF32", "bfloat16"):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "TF32"
            run = partial(iteration, device, make(), batch, precision == "bfloat16")
            name = f"{kind} MiT-{arch.upper()} {side}, 2 + 2, {precision}"
            # The released code has no bfloat16: its float32 iteration is what to compare with.
            row = beside(device, name, run, released)
            row["busy"] = device.busy(run)
            yield row
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        parts = step_bench.profile(make, batch, 2, _clock(device))
        share = sum(share for part, share in parts if part not in step_bench.NETWORK)
        yield {"name": f"{kind}: outside the networks", "share": share, "parts": dict(parts)}


def iteration(device: Device, ours: Any, batch: tuple[Tensor, ...], half: bool) -> None:
    with torch.autocast(device.name.split(":")[0], torch.bfloat16) if half else nullcontext():
        ours.step(*batch)
    ours.optimizer.step()
    ours.optimizer.zero_grad()


def options(device: Device) -> Iterator[Row]:
    """A ViT (DINOv2's size) plain, with activation checkpointing, and compiled."""
    import timm

    side = device.pick(518, 28)
    name = device.pick("vit_large_patch14_dinov2", "vit_tiny_patch16_224")
    body = timm.create_model(name, pretrained=False, img_size=device.pick(518, 32), num_classes=0)
    side = device.pick(518, 32)
    image = torch.randn(2, 3, side, side)
    for label, prepare in (("plain", None), ("activation checkpointing", "checkpoint"), ("torch.compile", "compile")):
        network: Any = copy.deepcopy(body)
        if prepare == "checkpoint":
            network.set_grad_checkpointing()
        if prepare == "compile":
            if not device.cuda:
                continue
            network = torch.compile(network)

        def run(network: Any = network) -> None:
            with torch.autocast(device.name.split(":")[0], torch.bfloat16):
                network.forward(image).float().mean().backward()

        yield beside(device, f"{name} {side}, forward and backward, {label}", run, None)


def loader(device: Device) -> Iterator[Row]:
    """Images per second of the pipeline on one core; a step needs two of each domain."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "loader.py"), "--images", "2", "--rounds", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if device.toy:
        command += ["--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=environment)
    yield {"name": "loader.py", "exit": done.returncode, "said": done.stdout[-1500:] or done.stderr[-500:]}


def _clock(device: Device) -> Callable[[], float]:
    def now() -> float:
        device.wait()
        return time.perf_counter()

    return now


SECTIONS: dict[str, Callable[[Device], Iterator[Row]]] = {
    "tests": tests, "kernels": kernels, "contrast": contrast, "step": iterations, "options": options, "loader": loader,
}  # fmt: skip


def shown(row: Row) -> str:
    cells = [
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "name" and v is not None
    ]
    return f"  {row['name']:<58} {', '.join(cells)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="toy sizes, for a machine without a GPU")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--budget", type=float, default=520, help="seconds; sections that start later are left out")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    device = Device(arguments.device, arguments.toy)
    if device.cuda and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; --device cpu --toy shows that the script works")
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    for module in (twins, step_twin):
        module.MEAN, module.STD = (x.to(device.name) for x in (module.MEAN, module.STD))
    result: dict[str, Any] = {"device": device.title(), "torch": torch.__version__, "toy": device.toy, "sections": {}}
    print(f"{result['device']}, torch {torch.__version__}{', toy sizes' if device.toy else ''}")
    begin, failures = time.monotonic(), 0
    for name in arguments.only:
        rows: list[Row] = []
        result["sections"][name] = rows
        if time.monotonic() - begin > arguments.budget:
            print(f"{name}: left out, the time is over")
            rows.append({"name": name, "left_out": True})
            continue
        print(f"{name}:", flush=True)
        try:
            with torch.device(device.name):
                for row in SECTIONS[name](device):
                    rows.append(row)
                    failures += int(row.get("exit", 0) != 0)
                    print(shown(row), flush=True)
        except Exception as error:  # the other sections still tell something
            failures += 1
            rows.append({"name": name, "error": traceback.format_exc()})
            print(f"  failed: {type(error).__name__}: {error}", flush=True)
        if device.cuda:
            torch.cuda.empty_cache()
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{time.monotonic() - begin:.0f} s, {failures} failure(s)")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
