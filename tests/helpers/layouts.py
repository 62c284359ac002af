"""Small data sets in the official folder layouts, written by the tests that need them."""

from __future__ import annotations

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
