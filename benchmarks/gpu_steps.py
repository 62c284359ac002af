"""Sections of benchmarks/gpu.py on networks: whole iterations beside the released operations, and their options."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import step as step_bench
from gpu_timing import Device, Row, beside, judged, kernels_of, shares
from kernels import scene
from pipa.mmseg.engine.network_options import Tuning

Case = tuple[str, Callable[[], Row]]
Batch = tuple[Tensor, Tensor, Tensor]
# Ratios to the released operations that the iteration should reach, and the share outside the networks.
LIMITS, OUTSIDE = {"float32": 1.5, "TF32": 1.5, "bfloat16": 3.0}, 0.05


def prepare(kind: str, side: int) -> Batch:
    """Sizes of the iteration, and images for it."""
    step_bench.SIDE = side
    patch = side * 11 // 16 // 16 * 16
    step_bench.SETTINGS |= {"patch_size": [patch, patch]}
    step_bench.DRAWS |= {"patches": ((0, 0, patch, patch), (16, 16, patch + 16, patch + 16), False, True)}
    return torch.randn(2, 3, side, side), scene(2, side, side, block=16), torch.randn(2, 3, side, side)


def iterations(device: Device) -> Iterator[Case]:
    """A whole iteration with optimiser beside the released operations, in three precisions; where its time goes."""
    arch = device.pick("b5", "b0")
    for kind, side in device.pick((("daformer", 640), ("hrda", 1024)), (("daformer", 64), ("hrda", 128))):
        batch = prepare(kind, side)
        built = cache(partial(step_bench.sides, kind, 0.1, arch))
        title = f"{kind} MiT-{arch.upper()} {side}, 2 + 2"
        yield (
            f"{title}: losses beside the released operations'",
            lambda kind=kind, batch=batch: equal(kind, arch, batch),
        )
        released: dict[str, Row] = {}
        for precision in device.pick(tuple(LIMITS), ("float32", "bfloat16")):
            yield (
                f"{title}, {precision}",
                partial(compared, device, built, batch, precision, released),
            )
        for half in (False, True):
            name = f"{title}, {'bfloat16' if half else 'float32'}: shares"
            yield name, partial(where_time_goes, device, built, batch, half)


def equal(kind: str, arch: str, batch: Batch) -> Row:
    alike, patch = step_bench.differences(kind, arch, batch)
    return {"patch_difference": patch} | judged("largest_difference", alike, 1e-3, least=False)


def compared(device: Device, built: Callable[[], Any], batch: Batch, precision: str, released: dict[str, Row]) -> Row:
    make, twin = built()
    tf32(precision == "TF32")
    try:
        row = beside(device, partial(iteration, device, make(), batch, precision == "bfloat16"))
        # The released code has no bfloat16: its float32 iteration is what to compare with.
        rival = "TF32" if precision == "TF32" else "float32"
        if rival not in released:
            try:
                milliseconds, memory = device.measure(lambda: twin(*batch, step_bench.DRAWS), 5)
                released[rival] = {"twin_ms": milliseconds, "twin_mib": memory}
            except torch.OutOfMemoryError:
                released[rival] = {"twin": "out of memory"}
    finally:
        tf32(False)
    row |= released[rival]
    if "twin_ms" in row:
        row |= judged("ratio", row["twin_ms"] / row["ours_ms"], LIMITS[precision])
    return row


def tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def iteration(device: Device, ours: Any, batch: Batch, half: bool) -> None:
    with device.half(half):
        ours.step(*batch)
    ours.optimizer.step()
    ours.optimizer.zero_grad()


class Marked(step_bench.Profiled):
    """Ends of parts as markers in the profile instead of times that the host would have to wait for."""

    def begin(self) -> None:
        super().begin()
        self.parts: list[str] = []
        torch.cuda._sleep(1)

    def _lap(self, part: str) -> None:
        self.parts.append(part)
        torch.cuda._sleep(1)


def where_time_goes(device: Device, built: Callable[[], Any], batch: Batch, half: bool) -> Row:
    """Shares of networks, of all else (optimiser included), and of the gaps in which the GPU waits for the host."""
    ours = built()[0](adapter=Marked if device.cuda else step_bench.Profiled)
    networks: Any = ours.step._networks
    networks.clock = time.perf_counter

    def once() -> None:
        networks.begin()
        with device.half(half):
            ours.step(*batch)
        networks._lap("rest")
        ours.optimizer.step()
        ours.optimizer.zero_grad()
        networks._lap("optimiser")

    once()
    once()
    device.wait()
    if device.cuda:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            once()
            device.wait()
        found = shares(kernels_of(profile), networks.parts)
    else:
        total = sum(networks.spent.values())
        found = {part: seconds / total for part, seconds in networks.spent.most_common()}
    inside, gaps = sum(found.get(part, 0.0) for part in step_bench.NETWORK), found.get("gaps", 0.0)
    row: Row = {"networks": inside, "gaps": gaps}
    return row | judged("outside", 1 - inside - gaps, OUTSIDE, least=False) | {"parts": found}


def options(device: Device) -> Iterator[Case]:
    """Activation checkpointing, order of memory and torch.compile: DAFormer's iteration, and a ViT of DINOv2's size."""
    kind, side, arch = "daformer", device.pick(640, 64), device.pick("b5", "b0")
    batch = prepare(kind, side)
    built = cache(partial(step_bench.sides, kind, 0.1, arch))
    title = f"{kind} MiT-{arch.upper()} {side}, bfloat16"
    yield f"{title}, plain", lambda: tuned(device, built, batch, None)
    yield f"{title}, backbone checkpointed", lambda: tuned(device, built, batch, Tuning(False, ["backbone"], False))
    yield f"{title}, channels_last", lambda: tuned(device, built, batch, Tuning(False, [], True))
    size = device.pick(518, 32)
    name = device.pick("vit_large_patch14_dinov2", "vit_tiny_patch16_224")
    for way in ("plain", "checkpointed", "compiled"):
        if way != "compiled" or device.cuda:
            yield f"{name} {size}, bfloat16, forward and backward, {way}", partial(vit, device, name, size, way)
    if device.cuda:
        yield f"{title}, compiled", lambda: tuned(device, built, batch, Tuning(True, [], False))


def tuned(device: Device, built: Callable[[], Any], batch: Batch, tuning: Tuning | None) -> Row:
    ours = built()[0]()
    images = batch
    if tuning is not None:
        step = ours.step
        tuning.apply(step._networks._student, step.teacher, step._networks._imagenet, optimizer=ours.optimizer)
        images = tuning.image(batch[0]), batch[1], tuning.image(batch[2])
    return first_call(device, partial(iteration, device, ours, images, True))


def vit(device: Device, name: str, size: int, way: str) -> Row:
    import timm

    network: Any = timm.create_model(name, pretrained=False, img_size=size, num_classes=0)
    image = torch.randn(2, 3, size, size)
    if way == "checkpointed":
        network = copy.deepcopy(network)
        network.set_grad_checkpointing()
    if way == "compiled":
        network = torch.compile(network)

    def run() -> None:
        with device.half(True):
            value = network(image).float().mean()
        value.backward()

    return first_call(device, run)


def first_call(device: Device, run: Callable[[], None]) -> Row:
    """Time of the first call too, in which a compiled network is compiled."""
    begin = time.perf_counter()
    run()
    device.wait()
    first = time.perf_counter() - begin
    return beside(device, run) | {"first_s": first}
