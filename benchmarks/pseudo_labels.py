"""Quality of a checkpoint's pseudo-labels per class, measured on the labelled validation images of a config.

    python benchmarks/pseudo_labels.py CONFIG CHECKPOINT [--data-root FOLDER] [--cfg-options KEY=VALUE ...] [--teacher]
                                       [--training-mode] [--prototypes | --first-prototypes BATCHES]
                                       [--temperatures TAU ...]

Per class: its share of the labelled pixels and of the predictions, IoU, precision and recall, the part of its
predictions that are confident, the precision of those, and what its wrong predictions really are. With --prototypes
(those of the checkpoint) or --first-prototypes (those a training would start with, from that many batches of the
target) the same of the nearest prototype, how often it is the network's class, and the same of the labels that the
prototypes correct. Only for looking at a training: the iteration itself never sees target labels.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import HOOKS, MODELS
from torch import Tensor

from pipa import functional
from pipa.first_prototypes import class_means, map_and_logits
from pipa.mmseg.engine.start_checks import pipa_hooks
from pipa.mmseg.engine.target_loader import build_target_loader
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks, teacher_logits
from pipa.mmseg.run.train import load_config, load_weights
from pipa.networks import quiet_train
from pipa.settings import default_settings


class Prototypes:
    """What prototypes say, how often the network says the same, and the labels they correct."""

    def __init__(self, config: Any, model: Any, args: argparse.Namespace) -> None:
        hook = HOOKS.build(next(iter(pipa_hooks(config).values())))
        hook.use(config)
        self.settings = {**default_settings(), **hook.settings(model)}
        self.model, self.networks = model, SegmentorNetworks(model, model, None, None, None)
        if args.first_prototypes:
            loader = {**config.target_dataloader, "num_workers": 0, "persistent_workers": False}
            batches = build_target_loader(loader, 0, None)
            images = (model.data_preprocessor(batch, False)["inputs"] for batch in batches)
            first = itertools.islice(images, args.first_prototypes)
            self.proto, updates = class_means(self.networks, model, first, self.settings)
        else:
            saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)["pipa"]["step"].get("prototypes")
            if saved is None:
                raise SystemExit(f"{args.checkpoint}: expected prototypes, there are none")
            self.proto, updates = saved
        self.seen, classes = updates > 0, len(self.proto)
        self.threshold = args.threshold
        temperatures = args.temperatures or [self.settings["prototype_temperature"]]
        self.nearest = torch.zeros(classes, classes, dtype=torch.int64)
        self.same, self.pixels = 0, 0
        self.largest = dict.fromkeys(temperatures, 0.0)
        self.corrected = {tau: [torch.zeros_like(self.nearest) for _ in range(2)] for tau in temperatures}

    def read(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The map that prototypes live on, and the logits."""
        return map_and_logits(self.networks, self.model, image, self.settings["prototype_layer"])

    def look(self, feat: Tensor, label: Tensor, probability: Tensor) -> None:
        classes, labelled = len(self.proto), label < len(self.proto)
        for tau, counts in self.corrected.items():
            opinion = self.opinion(feat, tau, label.shape[1:])
            self.largest[tau] += float(opinion.amax(1)[labelled].sum())
            add(counts, *functional.rectified_label(probability, opinion), label, self.threshold)
        # At the setting's temperature: weights of a very large one are equal but for rounding.
        nearest = self.opinion(feat, self.settings["prototype_temperature"], label.shape[1:]).argmax(1)
        self.nearest += functional.confusion_matrix(nearest, label, classes)
        self.same += int((nearest == probability.argmax(1))[labelled].sum())
        self.pixels += int(labelled.sum())

    def opinion(self, feat: Tensor, temperature: float, size: tuple[int, ...]) -> Tensor:
        """Weights (B, K, height, width), between grid points as in the iteration: logarithms, interpolated."""
        weight = functional.prototype_weights(feat, self.proto, temperature=temperature, seen_k=self.seen)
        logs = weight.clamp_min(1e-37).log()
        return torch.nn.functional.interpolate(logs, size, mode="bilinear", align_corners=False).softmax(1)

    def report(self, names: tuple[str, ...]) -> None:
        print("\nnearest prototype (no pixel counts as unsure)")
        report(names, self.nearest.double(), self.nearest.double())
        print(f"the network's class: {100 * self.same / self.pixels:.1f} %")
        for tau, counts in self.corrected.items():
            largest = self.largest[tau] / self.pixels
            print(f"\ncorrected labels, temperature {tau:g} (mean of a pixel's largest weight: {largest:.2f})")
            report(names, *(c.double() for c in counts))


def add(counts: list[Tensor], prediction: Tensor, sureness: Tensor, label: Tensor, threshold: float) -> None:
    """Counts all pixels, and those of them that are sure."""
    unsure = torch.where(sureness >= threshold, label, torch.full_like(label, 255))
    for count, seen in zip(counts, (label, unsure), strict=True):
        count += functional.confusion_matrix(prediction, seen, len(count))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--data-root")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--teacher", action="store_true", help="the teacher of a PiPa checkpoint")
    parser.add_argument("--training-mode", action="store_true", help="batch statistics, as the iteration's teacher")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--prototypes", action="store_true", help="what the checkpoint's prototypes say, too")
    which.add_argument("--first-prototypes", type=int, metavar="BATCHES", help="prototypes of the target images' means")
    parser.add_argument("--temperatures", nargs="+", type=float, help="of the correction (default: the setting)")
    args = parser.parse_args()
    data = [f"data_root={args.data_root}"] if args.data_root else []
    config = load_config(args.config, [*data, *args.cfg_options])
    init_default_scope("mmseg")
    model = MODELS.build(config.model)
    load_weights(model, args.checkpoint, args.teacher)
    if args.training_mode:
        quiet_train(model)
    else:
        model.eval()
    loader = config.val_dataloader
    loader.update(num_workers=0, persistent_workers=False)
    loader = Runner.build_dataloader(loader)
    names = loader.dataset.metainfo["classes"]
    prototypes = Prototypes(config, model, args) if args.prototypes or args.first_prototypes else None
    counts = [torch.zeros(len(names), len(names), dtype=torch.int64) for _ in range(2)]
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        label = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]]).long()
        image = data["inputs"]
        feat, logits = (None, teacher_logits(model, image)) if prototypes is None else prototypes.read(image)
        logits = torch.nn.functional.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
        probability = logits.softmax(1)
        sureness, prediction = probability.max(1)
        add(counts, prediction, sureness, label, args.threshold)
        if prototypes is not None and feat is not None:
            prototypes.look(feat, label, probability)
    report(names, *(c.double() for c in counts))
    if prototypes is not None:
        prototypes.report(names)


def report(names: tuple[str, ...], counts: torch.Tensor, confident: torch.Tensor) -> None:
    """Prints the table; rows of the counts are labels, columns predictions."""
    total, right = counts.sum(), counts.diagonal()
    labelled, predicted = counts.sum(1), counts.sum(0)
    print(
        f"{'class':12}{'label %':>9}{'pred %':>9}{'IoU':>8}{'prec':>8}{'recall':>8}{'sure %':>8}{'sure prec':>10} wrong"
    )
    for i, name in enumerate(names):
        wrong = counts[:, i].clone()
        wrong[i] = 0
        order = [j for j in wrong.argsort(descending=True)[:2].tolist() if wrong[j] > 0]
        what = ", ".join(f"{names[j]} {100 * wrong[j] / predicted[i]:.0f} %" for j in order)
        values = (
            100 * labelled[i] / total,
            100 * predicted[i] / total,
            100 * right[i] / (labelled[i] + predicted[i] - right[i]),
            100 * right[i] / predicted[i],
            100 * right[i] / labelled[i],
            100 * confident[:, i].sum() / predicted[i],
        )
        sure = 100 * confident[i, i] / confident[:, i].sum()
        print(
            f"{name:12}{values[0]:9.2f}{values[1]:9.2f}"
            + "".join(f"{v:8.1f}" for v in values[2:])
            + f"{sure:10.1f} {what}"
        )
    iou = right / (labelled + predicted - right)
    print(
        f"mIoU {100 * iou.nanmean():.2f}, confident {100 * confident.sum() / total:.1f} %, "
        f"right {100 * right.sum() / total:.1f} %, right where confident "
        f"{100 * confident.diagonal().sum() / confident.sum():.1f} %"
    )


if __name__ == "__main__":
    main()
