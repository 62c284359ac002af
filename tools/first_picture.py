"""The README's first picture, from the trainings of `pipa demo`: source, target, prediction before and after.

pipa demo && python tools/first_picture.py demo docs/before-after.png
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

import pipa
from pipa import viz
from pipa.files.atomic import write

Picture = npt.NDArray[np.uint8]
TITLES = ("Source: labelled", "Target: no labels", "Trained on the source alone", "Adapted with PiPa")
GAP, HEAD, SIZE = 6, 24, 14


def last_checkpoint(folder: Path) -> Path:
    found = {int(m[1]): p for p in folder.glob("iter_*.pth") if (m := re.fullmatch(r"iter_(\d+)\.pth", p.name))}
    if not found:
        raise SystemExit(f"{folder}: expected checkpoints of `pipa demo`, found none")
    return found[max(found)]


def rows(demo: Path, numbers: Sequence[int]) -> tuple[list[list[Picture]], list[Picture], pipa.inference.Segmenter]:
    """Pictures of each row, and the labels that occur in the predictions."""
    before = pipa.load(last_checkpoint(demo / "source-only_seed0"), device="cpu")
    after = pipa.load(last_checkpoint(demo / "PiPa_seed0"), weights="teacher", device="cpu")
    source = sorted((demo / "data/source/leftImg8bit/train").rglob("*.png"))
    target = sorted((demo / "data/target/leftImg8bit/val").rglob("*.png"))
    found, labels = [], []
    for number in numbers:
        worse, better = before.predict(target[number]), after.predict(target[number])
        labels += [worse.label_hw, better.label_hw]
        drawn = [viz.colorize(p.label_hw, after.palette) for p in (worse, better)]
        found.append([before.prepare(source[number]).image_hwc, worse.image_hwc, *drawn])
    return found, labels, after


def sheet(pictures: list[list[Picture]]) -> Picture:
    """Rows of pictures under their titles, on white."""
    height, width = pictures[0][0].shape[:2]
    columns = len(TITLES)
    size = (columns * (width + GAP) + GAP, HEAD + len(pictures) * (height + GAP))
    canvas = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(TITLES):
        left = GAP + column * (width + GAP)
        draw.text((left + width / 2, HEAD / 2), title, fill=(20, 20, 20), font_size=SIZE, anchor="mm")
        for row, line in enumerate(pictures):
            canvas.paste(Image.fromarray(line[column]), (left, HEAD + row * (height + GAP)))
    return np.asarray(canvas, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder of `pipa demo`")
    parser.add_argument("out", type=Path, help="the PNG")
    parser.add_argument("--pictures", type=int, nargs="+", default=[0, 1], help="which of the sorted pictures")
    a = parser.parse_args()
    pictures, labels, network = rows(a.demo, a.pictures)
    picture = viz.with_legend(sheet(pictures), np.stack(labels), network.classes, network.palette)
    small = Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE)  # a third of the bytes
    write(a.out, lambda file: small.save(file, "PNG", optimize=True))
    print(f"{a.out}: {picture.shape[1]} x {picture.shape[0]}, {a.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
