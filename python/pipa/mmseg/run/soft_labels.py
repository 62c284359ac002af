"""Writes a network's soft labels of target images, for trainings that correct them (ProDA): the work of
``pipa soft-labels``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from pipa.files.atomic import write, write_text
from pipa.mmseg.checkpoints.weights import Weights
from pipa.mmseg.datasets.soft_labels import INDEX, file_of
from pipa.mmseg.run.open import open_segmenter


def _save(values: np.ndarray, file: IO[bytes]) -> None:
    np.save(file, values)


@torch.no_grad()
def write_soft_labels(
    checkpoint: str | Path,
    images: Sequence[Path],
    out: Path,
    *,
    config: Any = None,
    weights: Weights = "auto",
    stride: int = 4,
    device: str | torch.device | None = None,
) -> int:
    """Softmax of each image in float16, as ``OUT/STEM.npy`` (K, h, w), and ``OUT/soft_labels.json``.

    The network sees an image as its test pipeline prepares it, whole, in one pass.

    Args:
        images: files with stems of their own.
        stride: of so many rows and columns of the network's input one is kept (the mean of logits over such a cell); 1
            keeps all: a Cityscapes image of 1280 x 640 has 31 MB then, and 2 MB at 4.

    Returns:
        How many were written; those that are there already are left.

    Raises:
        ValueError: two images of one stem, no image, or a folder with labels of other classes or another stride.
    """
    if stride < 1:
        raise ValueError(f"--stride: expected at least 1, got {stride}")
    if not images:
        raise ValueError("soft-labels: expected images, found none")
    stems: dict[str, Path] = {}
    for image in images:
        if stems.setdefault(image.stem, image) != image:
            raise ValueError(f"{image}: has the name of {stems[image.stem]}; soft labels are stored by name")
    network: Any = open_segmenter(checkpoint, config, weights, device).network
    index = {
        "classes": list(network.classes),
        "stride": stride,
        "checkpoint": Path(checkpoint).name,
        "weights": weights,
    }
    out.mkdir(parents=True, exist_ok=True)
    file = out / INDEX
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != index:
        raise ValueError(f"{file}: is of another network, stride or classes; choose another --out")
    write_text(file, json.dumps(index, indent=1) + "\n")
    done = 0
    for image in images:
        target = file_of(out, image)
        if target.is_file():
            continue
        prepared = network.prepare(image)
        logits = network.logits(prepared.inputs, [prepared.meta]).float()
        left, right, top, bottom = prepared.padding
        logits = logits[..., top : logits.shape[2] - bottom, left : logits.shape[3] - right]
        if stride > 1:
            size = [max(1, round(n / stride)) for n in logits.shape[2:]]
            logits = interpolate(logits, size, mode="area")
        probability = logits.softmax(1)[0].cpu().numpy().astype(np.float16)
        write(target, partial(_save, probability))
        done += 1
    return done
