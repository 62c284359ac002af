"""Soft labels of the target that a network wrote before the training (ProDA's p0), read back crop by crop.

A folder holds ``soft_labels.json`` and for each image its stem and ``.npy``: probabilities (K, h, w), float16, at any
resolution. Written by ``pipa soft-labels`` (:mod:`pipa.mmseg.run.soft_labels`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.registry import TRANSFORMS
from torch import Tensor

from pipa.files.images import DataError

INDEX = "soft_labels.json"
# Key of the pictures' digests in it, by stem.
PICTURES = "pictures"
# Fields of a sample: where each pixel was in the stored image, that image's size, the file.
PLACES, SIZE, FILE = "soft_label_places", "soft_label_size", "soft_label_file"


def file_of(folder: Path, image: str | Path) -> Path:
    """The soft label of an image."""
    return folder / f"{Path(image).stem}.npy"


@TRANSFORMS.register_module()
class LoadSoftLabel(BaseTransform):
    """Lets a target image bring its stored soft label. Put it right after the image is loaded.

    Every transform that treats ``seg_fields`` as labels (resizing, cropping, mirroring) then moves the soft label too:
    what travels is the place of each pixel in the stored image, and ``PackUnlabelled`` reads the probabilities there,
    bilinearly between the stored ones.

    Args:
        folder: written by ``pipa soft-labels``.

    >>> import pipa, pipa.mmseg
    >>> image, _ = pipa.toy.draw("target", 0)
    >>> pipa.mmseg.LoadSoftLabel("soft")({"img": image, "img_path": "street.png"})
    Traceback (most recent call last):
    pipa.files.images.DataError: ...no soft label of street.png; write them with `pipa soft-labels`
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def transform(self, results: dict) -> dict:
        height, width = results["img"].shape[:2]
        file = file_of(self.folder, results["img_path"])
        if not file.is_file():
            raise DataError(f"{file}: no soft label of {results['img_path']}; write them with `pipa soft-labels`")
        results[PLACES] = np.arange(height * width, dtype=np.int32).reshape(height, width)
        results[SIZE], results[FILE] = (height, width), str(file)
        results.setdefault("seg_fields", []).append(PLACES)
        return results


def pack(results: dict, sample: Any) -> None:
    """Give a packed sample the soft label of its pixels, (K, H, W) float16."""
    if PLACES in results:
        sample.set_data({"soft_label": PixelData(data=at_places(results[FILE], results[PLACES], results[SIZE]))})


def at_places(file: str, place_hw: npt.NDArray[np.int32], size: Sequence[int]) -> Tensor:
    """Probabilities (K, H, W), float16, at pixels of an image of `size`, bilinear between the stored ones."""
    stored = np.load(file, mmap_mode="r")
    if stored.ndim != 3 or stored.dtype != np.float16:
        raise DataError(f"{file}: expected probabilities (K, h, w) in float16, got {stored.shape} {stored.dtype}")
    row = place_hw // size[1]
    column = place_hw - row * size[1]
    sides = []
    for place, length, cells in ((row, size[0], stored.shape[1]), (column, size[1], stored.shape[2])):
        # As torch resizes, corners not aligned.
        exact = np.clip((place + 0.5) * (cells / length) - 0.5, 0, cells - 1)
        low = np.floor(exact).astype(np.int64)
        sides.append((low, np.minimum(low + 1, cells - 1), (exact - low).astype(np.float32)))
    (top, bottom, down), (left, right, across) = sides
    first, last = int(top.min()), int(bottom.max()) + 1  # only rows that are seen are read
    window = np.asarray(stored[:, first:last], dtype=np.float32)
    top, bottom = top - first, bottom - first
    upper = window[:, top, left] * (1 - across) + window[:, top, right] * across
    lower = window[:, bottom, left] * (1 - across) + window[:, bottom, right] * across
    return torch.from_numpy((upper * (1 - down) + lower * down).astype(np.float16))


def add_soft_labels(loader: dict[str, Any], folder: str) -> None:
    """Put LoadSoftLabel into every pipeline of a target loader's config, after the transform that loads the image.

    Raises:
        ValueError: a pipeline without one.
    """

    def walk(dataset: Any) -> None:
        if dataset.get("pipeline"):
            names = [str(step.get("type")) for step in dataset["pipeline"]]
            place = next((i for i, name in enumerate(names) if name.rpartition(".")[2].startswith("LoadImage")), None)
            if place is None:
                raise ValueError(f"initial_labels: expected a pipeline that loads an image, got {names}")
            step = {"type": "LoadSoftLabel", "folder": folder}
            dataset["pipeline"] = [*dataset["pipeline"][: place + 1], step, *dataset["pipeline"][place + 1 :]]
        for inner in (dataset.get("dataset"), *(dataset.get("datasets") or [])):
            if inner is not None:
                walk(inner)

    walk(loader["dataset"])


def check_soft_labels(dataset: Any, folder: str, count: int) -> None:
    """Refuse a folder that is not complete, of other classes, or of other pictures of the same names.

    Args:
        dataset: the target. count: classes of the network.

    Raises:
        FileNotFoundError, ValueError: names the file, what is expected and what was found.
    """
    index = Path(folder) / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"{index}: not there; write the soft labels with `pipa soft-labels`")
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        stored, pictures = list(content["classes"]), dict(content[PICTURES])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{index}: expected the index of `pipa soft-labels`, got no such JSON ({error})") from None
    if len(stored) != count:
        raise ValueError(f"{index}: expected {count} classes, as the network has, got {len(stored)}")
    names = list(dataset.metainfo.get("classes") or stored)
    if names != stored:
        wrong = next(i for i, name in enumerate(stored) if names[i : i + 1] != [name])
        raise ValueError(
            f"{index}: class {wrong}: expected {names[wrong]!r}, as the data set has, got {stored[wrong]!r}"
        )
    images = [Path(dataset.get_data_info(i)["img_path"]) for i in range(len(dataset))]
    files = [file_of(Path(folder), image) for image in images]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: not there, nor {len(missing) - 1} more; write them with `pipa soft-labels`"
        )
    with ThreadPoolExecutor() as pool:  # a digest reads the file, without Python's lock
        for image, file, digest in zip(images, files, pool.map(digest_of_file, images), strict=True):
            if pictures.get(image.stem) != digest:
                raise ValueError(
                    f"{file}: expected the soft label of {image}, got one of another picture of that name; soft labels "
                    "are stored by name, so give each picture one of its own, and write them with `pipa soft-labels`"
                )


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def log_probabilities(samples: Sequence[Any], device: torch.device) -> Tensor | None:
    """(B, K, H, W) float32 of a batch, as logits; None where no sample has a soft label. Padding is uniform."""
    found = [sample.soft_label.data for sample in samples if "soft_label" in sample]
    if not found:
        return None
    rows = []
    for sample, probability in zip(samples, found, strict=True):
        pads = tuple(sample.metainfo.get("padding_size", (0, 0, 0, 0)))
        value = probability.to(device).float()
        rows.append(torch.nn.functional.pad(value, pads, value=1 / len(value)))
    # float16 knows nothing between 0 and 6e-8.
    return torch.stack(rows).clamp_min(3e-8).log()
