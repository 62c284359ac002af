"""Small data sets in the official folder layouts, written by the tests that need them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 60)


def image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def label(path: Path, seed: int = 0, size: tuple[int, int] = SIZE, ids: tuple[int, ...] = (0, 1, 2, 255)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).choice(ids, (-(-size[0] // 5), -(-size[1] // 5))).astype(np.uint8)
    Image.fromarray(np.kron(blocks, np.ones((5, 5), np.uint8))[: size[0], : size[1]]).save(path)
    return path


def folder(root: Path, count: int = 4, labelled: bool = True, size: tuple[int, int] = SIZE) -> Path:
    """images/NNN.png, labels/NNN.png, lists/all.txt and classes.json (3 classes)."""
    stems = [f"{i:03d}" for i in range(count)]
    for i, stem in enumerate(stems):
        image(root / "images" / f"{stem}.png", i, size)
        if labelled:
            label(root / "labels" / f"{stem}.png", i, size)
    (root / "lists").mkdir(parents=True)
    (root / "lists" / "all.txt").write_text("\n".join(stems) + "\n")
    classes = [dict(id=i, name=name, color=[i, 2 * i, 3 * i]) for i, name in enumerate(["road", "car", "sign"])]
    (root / "classes.json").write_text(json.dumps(dict(classes=classes, ignore_index=255)))
    return root


def domains(root: Path, size: tuple[int, int]) -> Path:
    """GTA5, SYNTHIA, Cityscapes, ACDC and Dark Zurich, two images of each split."""

    def pair(picture: str, labels: str | None, seed: int) -> None:
        image(root / picture, seed, size)
        if labels is not None:
            street(root / labels, seed, size)

    for i in (1, 2):
        pair(f"gta/images/{i:05d}.png", f"gta/labels/{i:05d}_labelTrainIds.png", i)
        pair(f"synthia/RGB/{i:07d}.png", f"synthia/GT/LABELS/{i:07d}_labelTrainIds.png", i)
        for split, city in (("train", "aachen"), ("val", "ulm")):
            stem = f"{split}/{city}/{city}_{i:06d}_000019"
            labels = f"cityscapes/gtFine/{stem}_gtFine_labelTrainIds.png"
            pair(f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png", labels, i)
        for condition, split in itertools.product(("fog", "night", "rain", "snow"), ("train", "val")):
            stem = f"{condition}/{split}/GP01/GP01_frame_{i:06d}"
            gt = None if split == "train" else f"acdc/gt/{stem}_gt_labelTrainIds.png"
            pair(f"acdc/rgb_anon/{stem}_rgb_anon.png", gt, i)
        for split, sequence in (("train", "GOPR0351"), ("val", "GOPR0356")):
            stem = f"{split}/night/{sequence}/{sequence}_frame_{i:06d}"
            gt = None if split == "train" else f"dark_zurich/gt/{stem}_gt_labelTrainIds.png"
            pair(f"dark_zurich/rgb_anon/{stem}_rgb_anon.png", gt, i)
    return root


def street(path: Path, seed: int, size: tuple[int, int]) -> Path:
    """Blocks of road, pavement, light and nothing above one car that fills cells of the coarsest maps."""
    label(path, seed, size, (0, 1, 6, 255))
    pixels = np.array(Image.open(path))
    pixels[size[0] * 3 // 8 :] = 13
    Image.fromarray(pixels).save(path)
    return path
