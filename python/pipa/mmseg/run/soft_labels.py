"""Writes a network's soft labels of target images, for trainings that correct them (ProDA): the work of
``pipa soft-labels``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from pipa.files.atomic import refuse_other, write, write_text
from pipa.inference.decision import two_classes
from pipa.inference.segmenter import unpadded
from pipa.mmseg.checkpoints.weights import Weights
from pipa.mmseg.datasets.soft_labels import INDEX, PICTURES, digest_of_file, file_of
from pipa.mmseg.run.open import open_segmenter

# The index is written anew after so many labels: what a kill leaves unnoted is made again.
NOTED = 50


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

    The network sees an image as its test pipeline prepares it, whole, in one pass. A single logit for two classes is
    stored as the probabilities of both.

    Args:
        images: files with stems of their own.
        stride: of so many rows and columns of the network's input one is kept (the mean of logits over such a cell); 1
            keeps all: a Cityscapes image of 1280 x 640 has 31 MB then, and 2 MB at 4.

    Returns:
        How many were written; those that are there already, of the same picture and network, are left.

    Raises:
        ValueError: two images of one stem, no image, or a folder with labels of other classes, another stride, another
            network or one that its index does not name, or of another picture of the same name.
        FileNotFoundError: an image that is not there; nothing is written then.
        FileExistsError: a file that a soft label would replace, in a folder without an index.
    """
    if stride < 1:
        raise ValueError(f"--stride: expected at least 1, got {stride}")
    if not images:
        raise ValueError("soft-labels: expected images, found none")
    stems: dict[str, Path] = {}
    for image in images:
        if stems.setdefault(image.stem, image) != image:
            raise ValueError(f"{image}: has the name of {stems[image.stem]}; soft labels are stored by name")
    pictures = {image.stem: digest_of_file(image) for image in images}
    segmenter = open_segmenter(checkpoint, config, weights, device)
    network: Any = segmenter.network
    index = {
        "classes": list(network.classes),
        "stride": stride,
        "checkpoint": Path(checkpoint).name,
        "weights": weights,
        # Every training ends in a file of the same name: only the weights say which network it was.
        "sha256": digest_of_weights(network),
    }
    out.mkdir(parents=True, exist_ok=True)
    file = out / INDEX
    known = check_index(file, index, pictures)
    write_index(file, index, known)  # before the first one: what lies beside an index is of `pipa soft-labels`
    done = 0
    for image in images:
        target = file_of(out, image)
        if target.is_file() and image.stem in known:
            continue
        prepared = network.prepare(image)
        logits = segmenter.one_pass(prepared.inputs, [prepared.meta], whole=True).float()
        logits = unpadded(logits[0], prepared)[None]
        if prepared.extended is not None:
            own = zip(logits.shape[2:], prepared.image_hwc.shape[:2], prepared.extended, strict=True)
            rows, columns = (max(1, round(n * length / whole)) for n, length, whole in own)
            logits = logits[..., :rows, :columns]
        if stride > 1:
            size = [max(1, round(n / stride)) for n in logits.shape[2:]]
            logits = interpolate(logits, size, mode="area")
        probability = two_classes(logits).softmax(1)[0].cpu().numpy().astype(np.float16)
        write(target, partial(_save, probability))
        known[image.stem] = pictures[image.stem]
        done += 1
        if done % NOTED == 0:
            write_index(file, index, known)
    write_index(file, index, known)
    return done


def check_index(file: Path, index: Mapping[str, Any], pictures: Mapping[str, str]) -> dict[str, str]:
    """Digests of the pictures whose soft labels a folder holds, by stem.

    Raises:
        FileExistsError: there is no index, but a file that a soft label would replace.
        ValueError: they are of another network or stride, of a network that the index does not name, or of another
            picture of the same name.
    """
    if not file.is_file():
        for stem in pictures:
            refuse_other(file.parent / f"{stem}.npy", lambda _: False, "soft label that an index names")
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = dict(found.pop(PICTURES, {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file}: expected the index of `pipa soft-labels`, got no such JSON ({error})") from None
    if "sha256" not in found:  # as it was written once: any training's last file has its name
        raise ValueError(
            f"{file}: expected 'sha256', a digest of the network's weights, got an index without, whose soft labels "
            "may be of any network; choose another --out"
        )
    for key in index:
        if found.get(key) != index[key]:
            other = "another network" if key == "sha256" else f"{key} {found.get(key)!r}, not {index[key]!r}"
            raise ValueError(f"{file}: the soft labels there are of {other}; choose another --out")
    for stem, digest in pictures.items():
        if known.get(stem, digest) != digest and (file.parent / f"{stem}.npy").is_file():
            raise ValueError(
                f"{file.parent / stem}.npy: is of another picture of that name; remove it or choose another --out"
            )
    return known


def write_index(file: Path, index: Mapping[str, Any], known: Mapping[str, str]) -> None:
    write_text(file, json.dumps({**index, PICTURES: known}, indent=1) + "\n")


def digest_of_weights(network: Any) -> str:
    """SHA-256 of names and values of a network's weights."""
    found = hashlib.sha256()
    for name, value in sorted(network.model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
