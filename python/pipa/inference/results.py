"""Predictions as files beside each other, none of which replaces an input or another result."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipa.files.atomic import write
from pipa.inference.prediction import Prediction
from pipa.inference.sources import MARK, is_result


def names(files: Iterable[Path], root: Path) -> dict[Path, Path]:
    """A name for the results of each file, relative to the output folder: its stem, or, where two files of a folder
    share it, its stem and suffix (``a.jpg`` and ``a.png``: ``a_jpg`` and ``a_png``)."""
    files = list(files)
    places = {file: file.relative_to(root).parent for file in files}
    shared: dict[str, int] = {}
    for file in files:
        key = str(places[file] / file.stem).lower()  # some file systems do not tell A from a
        shared[key] = shared.get(key, 0) + 1
    # Names that need no change come first, so that no other file takes them.
    alone = [file for file in files if shared[str(places[file] / file.stem).lower()] == 1]
    chosen = {file: places[file] / file.stem for file in alone}
    taken = {str(name).lower() for name in chosen.values()}
    for file in files:
        if file in chosen:
            continue
        wanted = f"{file.stem}_{file.suffix[1:]}"
        name, number = places[file] / wanted, 1
        while str(name).lower() in taken:
            number += 1
            name = places[file] / f"{wanted}_{number}"
        taken.add(str(name).lower())
        chosen[file] = name
    return {file: chosen[file] for file in files}


def save(prediction: Prediction, base: Path, confidence: bool = False) -> list[Path]:
    """Write ``BASE_label.png`` (class ids, one channel, 16 bits above 256 classes), ``BASE_overlay.png`` with a legend
    and, where asked for, ``BASE_confidence.png`` (0 to 255 for a probability of 0 to 1).

    Returns:
        The files, the label first.

    Raises:
        FileExistsError: a file that no prediction wrote has one of these names.
    """
    wide = np.uint8 if len(prediction.classes) <= 256 else np.uint16
    pictures: dict[str, npt.NDArray[np.integer]] = {"label": prediction.label_hw.astype(wide)}
    pictures["overlay"] = prediction.overlay(legend=True)
    if confidence:
        pictures["confidence"] = np.rint(prediction.confidence_hw * 255).astype(np.uint8)
    paths = {kind: base.with_name(f"{base.name}_{kind}.png") for kind in pictures}
    for path in paths.values():
        if path.exists() and not is_result(path):
            raise FileExistsError(f"{path}: is there and no result of a prediction; choose another --out")
    note = PngInfo()
    note.add_text(*MARK)
    for kind, picture in pictures.items():
        image = Image.fromarray(picture)
        # Level 1 is four times as fast as 6, and photographs hardly shrink further.
        write(paths[kind], lambda file, image=image: image.save(file, "PNG", pnginfo=note, compress_level=1))  # type: ignore[misc]
    return list(paths.values())
