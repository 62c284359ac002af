"""Body of the processes that are compared with one process: `torchrun joined.py BACKEND results.json [name ...]`.

BACKEND is gloo (on the CPU) or nccl (each process on the GPU of its number).

Each process takes its slice of a batch, in float64 and without batch statistics; one of them also runs the joined batch
alone, and notes by how much gradients, and parameters after the optimiser's steps, differ.
"""

from __future__ import annotations

import datetime
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mmengine.config import Config
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor, nn

import tiny
from pipa import Group, PipaStep, _core
from pipa.gradient_exchange import average
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks
from pipa.mmseg.models.sliding import TorchDraws

WORLD = 2
OFF: dict[str, Any] = dict(pixel_weight=0, patch_weight=0, mix_weight=0, mask_weight=0, feature_distance_weight=0)
# Weights that let no term hide behind another one.
TERMS: dict[str, list[dict[str, Any]]] = {
    "pixel": [dict(), dict(pixel_weight=0.5), dict(pixel_weight=0.5, pixel_sampling="all")],
    "distance": [dict(), dict(feature_distance_weight=0.1)],
    "mix": [dict(), dict(mix_weight=1.0)],
    "patch": [dict(), dict(patch_weight=0.5)],
    "mask": [dict(), dict(mask_weight=1.0)],
}
EVERYTHING: dict[str, Any] = {key: value for choices in TERMS.values() for key, value in choices[1].items()}
# Every divisor, count and memory that could be a rank's own.
SHARED: dict[str, Any] = dict(loss_average="valid", mix_classes="batch", pixel_memory_bank=4)
# ProDA's pieces, all at once, and the distribution contrast.
CLASSES_WHOLE: dict[str, Any] = dict(
    label_network="initial",
    label_weight="confident",
    prototype_labels=True,
    prototype_min_pixels=1,
    target_weight=1.0,
    structure_weight=10.0,
    regularizer_weight=0.1,
    distillation_weight=0.5,
    distribution_weight=0.5,
    distribution_target=True,
    pixel_target=True,
)
COMMON: dict[str, Any] = dict(
    num_classes=3,
    threshold=0.6,  # some pixels of an untrained network, and other shares on other images
    patch_warmup=0,
    patch_size=(40, 40),
    mask_block=16,
    pixel_max_anchors=48,
    feature_distance_classes=[1, 2],
    feature_distance_min_ratio=0.5,
    pixel_dim=4,
    patch_dim=4,
    projection_hidden=None,
)


def cases() -> Iterator[dict[str, Any]]:
    """name, kind, settings; images per process, iterations, labels of the second process."""
    for kind in ("daformer", "hrda"):
        for choice in itertools.product(*(range(len(choices)) for choices in TERMS.values())):
            chosen = {key: value for c, i in zip(TERMS.values(), choice, strict=True) for key, value in c[i].items()}
            name = " ".join(n + ("" if i < 2 else " all") for n, i in zip(TERMS, choice, strict=True) if i)
            shared = dict(name=f"{kind}: source {name}, shared", kind=kind, settings={**chosen, **SHARED})
            # Each combination both ways, with one network in the first and with the other in the second.
            plain = dict(name=f"{kind}: source {name}", kind=kind, settings=chosen)
            yield plain if (sum(choice) % 2 == 0) == (kind == "daformer") else shared
        for sampling in ("balanced", "all"):
            for label in ("ignored", "other", "nowhere"):
                settings = {**EVERYTHING, **SHARED, "pixel_sampling": sampling}
                yield dict(name=f"{kind}: {sampling}, labels {label}", kind=kind, settings=settings, label=label)
            settings = {**EVERYTHING, **SHARED, "pixel_sampling": sampling}
            yield dict(
                name=f"{kind}: {sampling}, 4 iterations",
                kind=kind,
                settings={**settings, "patch_warmup": 2},
                iterations=4,
            )
        # The operations that accelerators take, where the host's kernels would be.
        yield dict(name=f"{kind}: libtorch", kind=kind, settings={**EVERYTHING, **SHARED}, fused=False)
        yield dict(name=f"{kind}: two images", kind=kind, settings={**EVERYTHING, **SHARED}, images=2, iterations=2)
        for label in ("", "ignored", "nowhere"):
            settings = {**EVERYTHING, **SHARED, **CLASSES_WHOLE}
            yield dict(name=f"{kind}: whole classes {label}", kind=kind, settings=settings, label=label, iterations=3)
    yield dict(name="without a group", kind="daformer", settings={**EVERYTHING, **SHARED}, group=False)


def device() -> torch.device:
    """Where this process computes."""
    return torch.device("cpu" if sys.argv[1] == "gloo" else f"cuda:{dist.get_rank()}")


def network(kind: str, seed: int) -> nn.Module:
    """A segmentor whose images do not meet inside the network: no batch statistics, no noise."""
    torch.manual_seed(seed)
    cfg = tiny.model(kind)
    cfg["backbone"]["drop_path_rate"] = 0.0
    cfg["decode_head"].update(norm_cfg=dict(type="GN", num_groups=2), dropout_ratio=0.0)
    model = MODELS.build(Config(dict(m=cfg)).m).double().train().to(device())
    if kind == "hrda":
        model.hr_slide_overlapping = False  # fewer windows of the teacher
        model.rng = TorchDraws(torch.Generator().manual_seed(3))
    return model


def batch(images: int, iteration: int, label: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images in blocks, so that pseudo-labels differ; some ignored pixels, more of them in the first image."""
    gen = torch.Generator().manual_seed(5 + iteration)
    source, target = (torch.randn(images, 3, 64, 64, generator=gen, dtype=torch.float64) for _ in range(2))
    target[0] *= 3
    ids = torch.randint(0, 3, (images, 4, 4), generator=gen)
    ids[0, 0, :3] = 255
    ids[-1] = ids[-1] % 2  # not every class is everywhere
    if label in ("ignored", "nowhere"):
        ids[images // WORLD :] = 255
    if label == "nowhere":
        ids[:] = 255
    if label == "other":  # no cell of a thing class
        ids[images // WORLD :] = 0
    source, label, target = (t.to(device()) for t in (source, ids.repeat_interleave(16, 1), target))
    return source, label.repeat_interleave(16, 2), target


class Trainee:
    """A network with its step and optimiser, on all images or on one slice of them."""

    def __init__(self, case: dict[str, Any], group: Group | None) -> None:
        self.model, self.group = network(case["kind"], 3), group
        imagenet = network(case["kind"], 4).requires_grad_(False)
        torch.manual_seed(4)
        self.step = PipaStep(
            self.model,
            adapter=SegmentorNetworks,
            imagenet=imagenet,
            group=group,
            seed=7,
            **{**COMMON, **OFF, **case["settings"]},
        ).double()  # on the device of its student
        for module in self.step.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        self.parameters = [*self.model.parameters(), *self.step.head_parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, weight_decay=0.01)

    def train(self, case: dict[str, Any], rank: int | None) -> tuple[list[Tensor], dict[str, float]]:
        """Gradients of the first iteration, and the last log."""
        own, first, log = case.get("images", 1), [], {}
        images = slice(None) if rank is None else slice(rank * own, (rank + 1) * own)
        for iteration in range(case.get("iterations", 1)):
            self.optimizer.zero_grad()
            log = self.step(*(t[images] for t in batch(WORLD * own, iteration, case.get("label", "usual"))))
            if rank is not None:
                core = nn.ModuleList([self.model, *filter(None, [self.step.heads])])
                average(core, self.step.teacher, False, Group())
            grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]
            first = first or grads
            self.optimizer.step()
        return first, {name: float(value) for name, value in log.items()}


def furthest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference, of values above one relative to them."""
    pairs = zip(ours, theirs, strict=True)
    return max(float(((a - b).abs() / b.abs().clamp_min(1)).max()) for a, b in pairs)


def compare(case: dict[str, Any], rank: int, reference: bool) -> dict[str, Any] | None:
    group = Group() if case.get("group", True) else None
    _core._set_fused(case.get("fused", True))
    ours = Trainee(case, group)
    gradients, log = ours.train(case, rank)
    logs: list[Any] = [None] * WORLD
    dist.all_gather_object(logs, log)
    if not reference:
        return None
    theirs = Trainee(case, None)
    expected, joined = theirs.train(case, None)
    found: dict[str, Any] = dict(
        gradient=furthest(gradients, expected),
        size=sum(float(g.abs().sum()) for g in expected),
        parameters=furthest([p.detach() for p in ours.parameters], [p.detach() for p in theirs.parameters]),
        teacher=furthest(list(ours.step.teacher.parameters()), list(theirs.step.teacher.parameters())),
        losses={n: sum(each[n] for each in logs) / WORLD - v for n, v in joined.items() if n.startswith("loss")},
        shares=[each.get("pseudo_weight") for each in logs],
        draws=ours.step._native.rng_state == theirs.step._native.rng_state,
    )
    banks = [trainee.step._native.bank for trainee in (ours, theirs)]
    if banks[1] is not None:
        found["bank"] = furthest([t.double() for t in banks[0][:2]], [t.double() for t in banks[1][:2]])
    for name in ("prototypes", "distribution"):
        memories = [getattr(trainee.step._native, name) for trainee in (ours, theirs)]
        if memories[1] is not None:
            found[name] = furthest(*([t.double() for t in memory] for memory in memories))
    return found


def failures(rank: int) -> dict[str, list[str]]:
    """What both processes raise where one of them, or what one of them was given, is not as it should be."""
    case = dict(kind="daformer", settings={**EVERYTHING, **SHARED})
    found = {}
    for name in ("nan", "id", "seed", "size", "settings", "none"):
        settings = {**case["settings"], **({"alpha": 0.9} if name == "settings" and rank else {})}
        trainee = Trainee({**case, "settings": settings}, Group())
        if name == "seed" and rank:
            trainee.step._native.rng_state = [8, 0, 0, 0]
        source, label, target = (t[rank : rank + 1] for t in batch(WORLD, 0, "usual"))
        if name == "nan" and rank:
            target = target * float("nan")  # the source losses are good
        if name == "id" and rank:
            label[0, 0, 0] = 77
        if name == "size" and rank:
            source, label, target = (t.repeat_interleave(2, 0) for t in (source, label, target))
        try:
            trainee.step(source, label, target)
            text = f"fine {trainee.step.iteration}"
        except (ArithmeticError, RuntimeError, ValueError) as error:
            text = f"{type(error).__name__}: {error} {trainee.step.iteration}"
        texts: list[Any] = [None] * WORLD
        dist.all_gather_object(texts, text)
        found[name] = texts
    return found


def main() -> None:
    torch.set_num_threads(1)
    register_all_modules(init_default_scope=True)
    dist.init_process_group(sys.argv[1], timeout=datetime.timedelta(seconds=60))
    rank = dist.get_rank()
    if device().type == "cuda":
        torch.cuda.set_device(device())
    found = {}
    for number, case in enumerate(cases()):
        if len(sys.argv) == 3 or any(name in case["name"] for name in sys.argv[3:]):
            found[case["name"]] = compare(case, rank, reference=number % WORLD == rank)
    failed = failures(rank)
    everyone: list[Any] = [None] * WORLD
    dist.all_gather_object(everyone, found)
    if rank == 0:
        merged = {name: next(f[name] for f in everyone if f[name] is not None) for name in found}
        Path(sys.argv[2]).write_text(json.dumps(dict(cases=merged, failures=failed)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
