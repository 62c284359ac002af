"""Quality of a checkpoint's pseudo-labels per class, measured on the labelled validation images of a config.

    python benchmarks/pseudo_labels.py CONFIG CHECKPOINT [--data-root FOLDER] [--teacher] [--training-mode]

Per class: its share of the labelled pixels and of the predictions, IoU, precision and recall, the part of its
predictions that are confident, the precision of those, and what its wrong predictions really are. Only for looking at
a training: the iteration itself never sees target labels.
"""

from __future__ import annotations

import argparse

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

from pipa import functional
from pipa.mmseg.models.segmentors.step_adapter import teacher_logits
from pipa.mmseg.run.train import load_config, load_weights
from pipa.networks import quiet_train


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--data-root")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--teacher", action="store_true", help="the teacher of a PiPa checkpoint")
    parser.add_argument("--training-mode", action="store_true", help="batch statistics, as the iteration's teacher")
    args = parser.parse_args()
    config = load_config(args.config, [f"data_root={args.data_root}"] if args.data_root else [])
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
    all_pixels, confident = (torch.zeros(len(names), len(names), dtype=torch.int64) for _ in range(2))
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        label = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]]).long()
        logits = teacher_logits(model, data["inputs"])
        logits = torch.nn.functional.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
        top, prediction = logits.softmax(1).max(1)
        all_pixels += functional.confusion_matrix(prediction, label, len(names))
        unsure = torch.where(top >= args.threshold, label, torch.full_like(label, 255))
        confident += functional.confusion_matrix(prediction, unsure, len(names))
    report(names, all_pixels.double(), confident.double())


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
