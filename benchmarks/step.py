"""A whole PiPa iteration with optimiser, all terms on, beside a plain-PyTorch twin: same process, same images, same
weights, losses of the first iteration checked equal. DAFormer and HRDA on MiT-B0, 2 + 2 images of 256 x 256.

    python benchmarks/step.py [--rounds 5] [--threads 1] [--only daformer] [--arch b5]

Prints seconds (of processor time, which a busy machine disturbs least; `--wall` takes the clock), ratio, extra memory
at the peak, and where our iteration spends its time.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import Tensor, nn

import pipa.mmseg  # noqa: F401  (registers)
from kernels import scene
from measure import first_run
from pipa import PipaStep
from pipa.mmseg.models.backbones.mit import ARCHITECTURES, MiT
from pipa.mmseg.models.segmentors.embedding import build_heads
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks
from step_twin import TwinStep

CLASSES, B, SIDE = 19, 2, 256
# Jitter and blur always happen, so that every iteration does the same work.
SETTINGS: dict[str, Any] = {
    "num_classes": CLASSES,
    "threshold": 0.05,  # an untrained network is never sure; its pseudo-labels should count
    "jitter_probability": 1.0,
    "blur_probability": 1.0,
    "patch_warmup": 0,
    "patch_size": [176, 176],  # 0.7 of the crop, as 720 is of 1024
    "feature_distance_classes": [6, 7, 11, 12, 13, 14, 15, 16, 17, 18],
}
DRAWS: dict[str, Any] = {
    "classes": [[0, 3, 5, 7, 9, 11, 13, 15, 17], [1, 2, 4, 6, 8, 10, 12, 14, 16]],
    "augment": [
        {
            "jitter": {"brightness": 1.1, "contrast": 0.9, "saturation": 1.05, "hue": 0.1, "order": [2, 0, 3, 1]},
            "sigma": sigma,
        }
        for sigma in (0.7, 1.1)
    ],
    "patches": ((0, 0, 176, 176), (40, 64, 216, 240), False, True),
}
# What runs between two calls of the networks, by their names.
BETWEEN = {
    (None, "parameters"): "checks and draws",
    ("parameters", "student"): "teacher update",
    ("student", "pixel_embedding"): "cross entropy, accuracy",
    ("student", "backward"): "cross entropy, accuracy",
    ("pixel_embedding", "imagenet"): "pixel contrast",
    ("imagenet", "backward"): "feature distance",
    ("teacher", "student"): "pseudo-labels, mix, jitter, blur",
    ("backward", "student_features"): "patch crops",
    ("patch_embedding", "backward"): "patch contrast",
}
NETWORK = ("network forward", "network backward")


class MiddleCrop:
    """In place of HRDA's random detail crop: the same one for both sides."""

    def randint(self, low: int, high: int) -> int:
        return (low + high) // 2


def network(kind: str, plain: bool, drop: float, arch: str = "b0") -> Any:
    """A segmentor; `plain`: with mmsegmentation's own encoder and torch's own convolutions."""
    sizes = {"num_heads": (1, 2, 5, 8), **ARCHITECTURES[arch]}
    channels = tuple(heads * sizes["embed_dims"] for heads in (1, 2, 5, 8))
    params = dict(embed_dims=256, fusion_cfg="sepaspp")
    head = dict(type="DAFormerHead", in_channels=channels, channels=256, dropout_ratio=drop, align_corners=False)
    head |= dict(num_classes=CLASSES, norm_cfg=dict(type="BN", requires_grad=True), decoder_params=params)
    model = dict(type="EncoderDecoder", test_cfg=dict(mode="whole"), decode_head=head)
    model["backbone"] = dict(type="MixVisionTransformer" if plain else "MiT", drop_path_rate=drop, **sizes)
    if kind == "hrda":
        model.update(type="HRDAEncoderDecoder", hr_crop_size=(SIDE // 2, SIDE // 2))
        head.update(type="HRDAHead", single_scale_head="DAFormerHead")
    built = MODELS.build(ConfigDict(model)).train()
    built.rng = MiddleCrop()
    if plain:
        # The published constants, which ours has too; and torch's convolution again.
        reference = dict(MiT(arch).named_modules())
        for name, layer in built.named_modules():
            if isinstance(layer, nn.LayerNorm):
                layer.eps = reference[name.removeprefix("backbone.")].eps
            if type(layer).__name__ == "DepthwiseConv2d":
                layer.__class__ = nn.Conv2d
    return built


class Profiled(SegmentorNetworks):
    """Notes how long networks take, and what runs between their calls. The graph is cut where networks end and losses
    begin, so that their backward passes can be told apart."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.spent: Counter[str] = Counter()
        self.cuts: list[list[tuple[Tensor, Tensor]]] = []
        self.clock = time.process_time
        self.begin()

    def begin(self) -> None:
        self.previous: str | None = None
        self.mark = self.clock()

    def _lap(self, part: str) -> None:
        now = self.clock()
        self.spent[part] += now - self.mark
        self.mark = now

    def _network(self, name: str, run: Callable[[], Any]) -> Any:
        self._lap(BETWEEN.get((self.previous, name), "rest"))
        result = run()
        self.previous = name
        if name not in ("parameters", "backward"):
            self.cuts.append([])
            result = self._cut(result)
            self._lap("network forward")
        return result

    def _cut(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            cut = [self._cut(v) for v in value]
            return type(value)(*cut) if hasattr(value, "_fields") else type(value)(cut)
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value
        leaf = value.detach().requires_grad_()
        self.cuts[-1].append((value, leaf))
        return leaf

    def student(self, image: Tensor) -> Any:
        return self._network("student", lambda: super(Profiled, self).student(image))

    def student_features(self, image: Tensor) -> Any:
        return self._network("student_features", lambda: super(Profiled, self).student_features(image))

    def teacher(self, image: Tensor) -> Any:
        return self._network("teacher", lambda: super(Profiled, self).teacher(image))

    def imagenet(self, image: Tensor) -> Any:
        return self._network("imagenet", lambda: super(Profiled, self).imagenet(image))

    def pixel_embedding(self, *features: Tensor) -> Any:
        return self._network("pixel_embedding", lambda: super(Profiled, self).pixel_embedding(*features))

    def patch_embedding(self, *features: Tensor) -> Any:
        return self._network("patch_embedding", lambda: super(Profiled, self).patch_embedding(*features))

    def parameters(self) -> Any:
        return self._network("parameters", super().parameters)

    def backward(self, loss: Tensor) -> None:
        self._network("backward", loss.backward)
        self._lap("backward of the losses")
        for group in reversed(self.cuts):
            pairs = [(root, leaf.grad) for root, leaf in group if leaf.grad is not None]
            if pairs:
                torch.autograd.backward(*zip(*pairs, strict=True))
        self.cuts.clear()
        self._lap("network backward")


class Ours:
    """Our iteration with optimiser."""

    def __init__(self, student: Any, heads: nn.ModuleDict, imagenet: Any, half: bool = False, **adapter: Any) -> None:
        make = adapter.get("adapter", SegmentorNetworks)
        self.step = PipaStep(student, imagenet=imagenet, adapter=make, heads=heads, **SETTINGS)
        self.optimizer = torch.optim.AdamW([*student.parameters(), *heads.parameters()], lr=6e-5, fused=True)
        self.half = half

    def __call__(self, *batch: Tensor, draws: dict[str, Any] | None = None) -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16) if self.half else nullcontext():
            log = self.step(*batch, draws=draws)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return log


def sides(kind: str, drop: float, arch: str) -> tuple[Callable[..., Ours], TwinStep]:
    """What makes ours, and the twin, with equal weights."""
    torch.manual_seed(0)
    student, plain = network(kind, False, drop, arch), network(kind, True, drop, arch)
    student.init_weights()
    for norm in student.modules():
        if isinstance(norm, nn.LayerNorm):
            torch.nn.init.normal_(norm.weight, 1.0, 0.1)
    plain.load_state_dict(student.state_dict())
    dims = {"pixel_dim": 256, "patch_dim": 128, "projection_hidden": 256}
    heads = build_heads(student, {"pixel": True, "patch": True}, dims)
    # The ImageNet model differs a little from the student, or its distance would be zero.
    imagenet = copy.deepcopy(student).requires_grad_(False)
    for p in imagenet.parameters():
        p.add_(0.02 * torch.randn_like(p))
    frozen = copy.deepcopy(plain).requires_grad_(False)
    frozen.load_state_dict(imagenet.state_dict())

    def ours(**options: Any) -> Ours:
        return Ours(copy.deepcopy(student), copy.deepcopy(heads), imagenet, **options)

    settings = ours().step.settings
    teacher = copy.deepcopy(plain).requires_grad_(False)
    return ours, TwinStep(plain, teacher, frozen, copy.deepcopy(heads), settings)


def differences(kind: str, arch: str, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[float, float]:
    """Largest relative difference of the losses and accuracies that both compute in the same way, and that of the patch
    term, in which norms of the head differ: ours sees both patches in one pass, the twin one after the other. The pixel
    term draws its own samples."""
    make, twin = sides(kind, 0.0, arch)
    ours, theirs = make()(*batch, draws=DRAWS), twin(*batch, DRAWS)

    def of(name: str) -> float:
        return abs(float(ours[name]) - theirs[name]) / max(abs(theirs[name]), 1e-3)

    alike = ("loss_source", "loss_feature_distance", "loss_mix", "acc_source", "acc_mix")
    return max(map(of, alike)), of("loss_patch")


def check(kind: str, arch: str, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    """The first of :func:`differences`, if it is as small as rounding makes it."""
    alike, patch = differences(kind, arch, batch)
    if patch > 0.05 or alike > 1e-3:
        raise SystemExit(f"{kind}: losses differ by {alike:.1e}, that of the patches by {patch:.1e}")
    return alike


def profile(
    make: Callable[..., Ours], batch: tuple[Tensor, Tensor, Tensor], rounds: int, clock: Callable[[], float]
) -> list[tuple[str, float]]:
    """(part, share of the time) of our iteration, longest first."""
    ours = make(adapter=Profiled)
    networks: Any = ours.step._networks
    networks.clock = clock
    for i in range(rounds + 1):
        if i == 1:
            networks.spent.clear()  # the first one warms up
        networks.begin()
        ours.step(*batch)
        networks._lap("rest")
        ours.optimizer.step()
        ours.optimizer.zero_grad()
        networks._lap("optimiser")
    total = sum(networks.spent.values())
    return [(part, seconds / total) for part, seconds in networks.spent.most_common()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="")
    parser.add_argument("--arch", default="b0", choices=sorted(ARCHITECTURES), help="encoder, MiT-B0 to B5")
    parser.add_argument("--wall", action="store_true", help="seconds of the clock instead of the processor's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.INFO)  # mmengine's, of every weight that it initialises
    clock = time.perf_counter if options.wall else time.process_time
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, load {load:.1f} at the start\n")
    source, target = torch.randn(2, B, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    batch = source, scene(B, SIDE, SIDE), target
    for kind in ("daformer", "hrda"):
        if options.only not in kind:
            continue
        found = check(kind, options.arch, batch)
        make, twin = sides(kind, 0.1, options.arch)
        ours, half = make(), make(half=True)
        runs: dict[str, Callable[[], Any]] = {
            "twin": lambda twin=twin: twin(*batch, DRAWS),
            "ours": lambda ours=ours: ours(*batch),
            "ours, bfloat16": lambda half=half: half(*batch),
        }
        best, memory = {}, {}
        for name, run in runs.items():
            run()  # the optimiser makes its state
            memory[name] = first_run(run)[2]
            best[name] = float("inf")
        for _ in range(options.rounds):
            for name, run in runs.items():
                start = clock()
                run()
                best[name] = min(best[name], clock() - start)
        print(f"**{kind}**, MiT-{options.arch.upper()}, losses equal to {found:.0e}\n")
        print("| | seconds | twin / this | extra MB | this / twin |\n|---|---:|---:|---:|---:|")
        for name in runs:
            ratio, share = best["twin"] / best[name], memory[name] / memory["twin"]
            print(f"| {name} | {best[name]:.2f} | {ratio:.2f} | {memory[name]:.0f} | {share:.2f} |")
        parts = profile(make, batch, 2 * options.rounds, clock)
        rest = sum(share for part, share in parts if part not in NETWORK)
        print(f"\nOutside the networks: {rest:.1%} of our iteration.\n\n| part | share |\n|---|---:|")
        for part, share in parts:
            print(f"| {part} | {share:.1%} |")
        print(flush=True)


if __name__ == "__main__":
    main()
