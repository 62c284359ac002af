"""The embedded domain pair: little street scenes in a synthetic-looking and in a photograph-looking style.

>>> import pipa
>>> image, label = pipa.toy.draw("target", index=0)
>>> image.shape, label.shape, image.dtype
((128, 256, 3), (128, 256), dtype('uint8'))
>>> pipa.toy.write("data/toy", train=2, val=1).name          # both domains, in the Cityscapes layout
'toy'

The pictures are drawn by the native part from a seed; each one depends on its own domain, index, seed and size alone.
:func:`write` lays them out as::

    ROOT/classes.json                                        names and colours in the order of the label ids
    ROOT/source/leftImg8bit/{train,val}/toy/toy_000000_000000_leftImg8bit.png
    ROOT/source/gtFine/{train,val}/toy/toy_000000_000000_gtFine_labelTrainIds.png
    ROOT/target/leftImg8bit/{train,val}/toy/...
    ROOT/target/gtFine/val/toy/...                           for evaluation
    ROOT/target/gtFine_oracle/train/toy/...                  for the oracle run only: no other training may read it
    ROOT/{source,target}/toy.json                            the settings that were drawn, written last
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipa import _core
from pipa.files.atomic import write_text

__all__ = ["CLASSES", "DOMAINS", "PALETTE", "VAL_FIRST", "draw", "write"]

#: Names in the order of the label ids.
CLASSES: tuple[str, ...] = tuple(_core.TOY_CLASSES)
#: One RGB colour per class.
PALETTE: tuple[tuple[int, int, int], ...] = tuple(_core.TOY_PALETTE)
Domain = Literal["source", "target"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
#: Index of the first validation image, so that more training images never meet the validation set.
VAL_FIRST = 1_000_000

_MANIFEST = "toy.json"
# Images drawn at a time: enough for every core, few enough to keep the memory small.
_CHUNK = 16

UInt8Array = npt.NDArray[np.uint8]


def draw(
    domain: Domain, index: int, seed: int = 0, height: int = 128, width: int = 256
) -> tuple[UInt8Array, UInt8Array]:
    """Draw one scene.

    Args:
        domain: ``"source"`` or ``"target"``.
        index: Number of the image, 0 or more.
        seed: Another seed gives other images with the same statistics.
        height, width: Size in pixels, 32 to 4096 each.

    Returns:
        The RGB image, uint8 ``(height, width, 3)``, and the class ids, uint8 ``(height, width)``.

    Raises:
        ValueError: A bad domain, index, seed or size; the message names it.

    >>> import pipa
    >>> image, label = pipa.toy.draw("target", 0, height=64, width=96)
    >>> image.shape, label.shape, int(label.max()) < len(pipa.toy.CLASSES)
    ((64, 96, 3), (64, 96), True)
    """
    for name, value in (("index", index), ("seed", seed), ("height", height), ("width", width)):
        _natural(name, value)
    return _core.toy_draw(domain, [index], seed, height, width)[0]


def write(
    root: str | os.PathLike[str],
    train: int = 400,
    val: int = 80,
    seed: int = 0,
    height: int = 128,
    width: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write both domains below `root` as PNG files in the Cityscapes layout (see the module's docstring).

    A domain that is already there with the same settings is left as it is; with other settings it is replaced. A domain
    appears complete or not at all.

    Args:
        root: Folder to write to; it is made.
        train, val: Images per domain in the two splits.
        seed, height, width: As for :func:`draw`.
        progress: Called with (images done, images of the domain) while a domain is drawn.

    Returns:
        `root`.

    Raises:
        ValueError: A bad number; the message names it.
        FileExistsError: ``root/source`` or ``root/target`` exists and was not written by this function.
        OSError: `root` cannot be written.

    >>> import pipa
    >>> root = pipa.toy.write("toy", train=2, val=1, height=32, width=64)
    >>> len(list(root.glob("*/leftImg8bit/train/*/*.png")))  # of both domains
    4
    """
    settings = {"train": train, "val": val, "seed": seed, "height": height, "width": width}
    for name, value in settings.items():
        _natural(name, value)
    if train + val == 0 or train > VAL_FIRST:
        raise ValueError(f"train and val: expected 1 image or more, and train at most {VAL_FIRST}, got {train}, {val}")
    settings["edition"] = _core.TOY_EDITION
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    classes = {"classes": list(CLASSES), "colors": [list(colour) for colour in PALETTE], "ignore_index": 255}
    text = json.dumps(classes, indent=1) + "\n"
    if _read(root / "classes.json") != text:
        write_text(root / "classes.json", text)
    for domain in DOMAINS:
        _write_domain(root, domain, settings, progress)
    return root


def _natural(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{name}: expected a whole number of 0 or more, got {value!r}")


def _write_domain(
    root: Path, domain: Domain, settings: dict[str, int], progress: Callable[[int, int], None] | None
) -> None:
    place = root / domain
    manifest = json.dumps({"domain": domain, **settings}, indent=1) + "\n"
    if _read(place / _MANIFEST) == manifest:
        return
    if place.exists() and not (place / _MANIFEST).exists():
        raise FileExistsError(f"{place} exists and was not written by pipa.toy: choose another folder or remove it")
    # Drawn beside its place and renamed into it, so that nobody ever reads half a domain.
    with tempfile.TemporaryDirectory(dir=root, prefix=".toy-") as folder:
        fresh = Path(folder) / domain
        jobs = [(split, i) for split, count in (("train", settings["train"]), ("val", settings["val"]))
                for i in range(count)]  # fmt: skip
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for start in range(0, len(jobs), _CHUNK):
                chunk = jobs[start : start + _CHUNK]
                indices = [i + (VAL_FIRST if split == "val" else 0) for split, i in chunk]
                drawn = _core.toy_draw(domain, indices, settings["seed"], settings["height"], settings["width"])
                list(pool.map(lambda job: _save(fresh, domain, *job[0], *job[1]), zip(chunk, drawn, strict=True)))
                if progress is not None:
                    progress(start + len(chunk), len(jobs))
        (fresh / _MANIFEST).write_text(manifest)
        if place.exists():
            place.rename(Path(folder) / "old")
        fresh.rename(place)


def _save(fresh: Path, domain: str, split: str, number: int, image: UInt8Array, label: UInt8Array) -> None:
    labels = "gtFine_oracle" if (domain, split) == ("target", "train") else "gtFine"
    name = f"toy_{number:06d}_000000"
    for folder, suffix, array in (
        ("leftImg8bit", "leftImg8bit", image),
        (labels, "gtFine_labelTrainIds", label),
    ):
        path = fresh / folder / split / "toy" / f"{name}_{suffix}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Level 1: noise does not compress, and a higher level takes four times as long.
        Image.fromarray(array).save(path, compress_level=1)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
