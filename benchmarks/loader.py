"""The loader beside mmsegmentation's own pipeline, on files of GTA5's and Cityscapes' sizes, one core each.

    python benchmarks/loader.py [--images 4] [--rounds 3]

Both sides read the same files with the same draws; the samples must be equal in every bit. The files are drawn scenes,
softened and with noise, so that a PNG has about 2.3 MB, the mean of these data sets: inflating it is most of the work,
and that time hangs on the number of bytes. Times are CPU time of the one thread, so that other work on the machine
counts less. With retries, mmseg's side does what the released code of DAFormer does: the whole pipeline again, up to
ten times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules
from PIL import Image

from pipa import _core, toy
from pipa.mmseg.datasets.draw import Draw, seeded
from pipa.mmseg.datasets.rare_class_sampling import RareClassSampling, split_pipeline

SIZES = {"GTA5": (1052, 1914), "Cityscapes": (1024, 2048)}
# Deviation of the blur that gives files of the right size.
SOFT = {"GTA5": 0.5, "Cityscapes": 0.75}
# name, size, format, (width, height) of Resize, crop, rare class retries (None: no labels)
CASES = [
    ("GTA5, crop 640", "GTA5", "png", (1280, 720), 640, False),
    ("GTA5, crop 1024", "GTA5", "png", (2560, 1440), 1024, False),
    ("Cityscapes, crop 640", "Cityscapes", "png", (1280, 640), 640, False),
    ("Cityscapes, crop 1024", "Cityscapes", "png", None, 1024, False),
    ("Cityscapes without labels, crop 640", "Cityscapes", "png", (1280, 640), 640, None),
    ("GTA5 as JPEG, crop 640", "GTA5", "jpg", (1280, 720), 640, False),
    ("GTA5, crop 640, retries", "GTA5", "png", (1280, 720), 640, True),
    ("GTA5, crop 1024, retries", "GTA5", "png", (2560, 1440), 1024, True),
]
# Pixels of the class in the label, share of them in the crop: the 640 configs; four times as many at twice the scale.
MIN_PIXELS, RATIO = 3000, {640: 0.5, 1024: 2.0}
TRIES = 10


def write(root: Path, count: int) -> None:
    for name, (height, width) in SIZES.items():
        for kind in ("png", "jpg"):
            (root / name / kind).mkdir(parents=True)
        (root / name / "labels").mkdir()
        for index in range(count):
            image, label = toy.draw("source" if name == "GTA5" else "target", index, 0, height, width)
            noise = np.random.default_rng(index).normal(0, 1, image.shape).astype(np.float32)
            noise = cv2.GaussianBlur(noise, (0, 0), 1.0)
            noise *= 1.0 / noise.std()
            image = np.clip(cv2.GaussianBlur(image, (0, 0), SOFT[name]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / name / "png" / f"{index}.png")
            Image.fromarray(image).save(root / name / "jpg" / f"{index}.jpg", quality=90)
            _core.label_store(str(root / name / "labels" / f"{index}.png"), label)


def pipelines(scale: tuple[int, int] | None, crop: int, labelled: bool) -> tuple[list[dict], list[dict]]:
    resize = [] if scale is None else [dict(type="Resize", scale=scale, keep_ratio=True)]
    end = [dict(type="RandomFlip", prob=0.5), dict(type="PackSegInputs")]
    size: dict[str, Any] = dict(crop_size=(crop, crop))
    if not labelled:
        image = [*resize, dict(type="SyncCrop", **size), *end], [*resize, dict(type="RandomCrop", **size), *end]
        return [dict(type="LoadImage"), *image[0]], [dict(type="LoadImageFromFile"), *image[1]]
    size["cat_max_ratio"] = 0.75
    theirs = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), *resize, dict(type="RandomCrop", **size)]
    ours = [dict(type="LoadImage"), dict(type="LoadLabel"), *resize, dict(type="SyncCrop", **size)]
    return ours + end, theirs + end


def datasets(root: Path, kind: str, ours: list[dict], theirs: list[dict]) -> tuple[Any, Any, Any]:
    """Ours, ours as single transforms, mmseg's."""
    folder = dict(data_root=str(root), img_suffix=f".{kind}")
    own = dict(type="FolderDataset", images=kind, labels="labels", classes=list(toy.CLASSES), pipeline=ours, **folder)
    prefix = dict(img_path=kind, seg_map_path="labels")
    other = dict(type="BaseSegDataset", data_prefix=prefix, metainfo=dict(classes=toy.CLASSES), **folder)
    built = [own, {**own, "fuse": False}, dict(other, pipeline=theirs)]
    return tuple(DATASETS.build(config) for config in built)


def clock(work: Callable[[], Any]) -> float:
    """Milliseconds of this thread's CPU time."""
    start = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - start)


def retried(dataset: Any, index: int, wanted: int, need: float) -> tuple[dict, int]:
    """As the released code: the whole sample again while it shows too little of the class."""
    sample = dataset[index]
    for tries in range(TRIES):
        if int((sample["data_samples"].gt_sem_seg.data == wanted).sum()) > need:
            return sample, tries + 1
        sample = dataset[index]
    return sample, TRIES + 1


def rarest(root: Path, index: int) -> int:
    """The rarest class that rare class sampling would draw this image for."""
    counts = dict(_core.label_summary(str(root / "labels" / f"{index}.png"))[2])
    return min((n, c) for c, n in counts.items() if n > MIN_PIXELS)[1]


def equal(a: dict, b: dict) -> None:
    labels = [x["data_samples"].gt_sem_seg.data for x in (a, b) if "gt_sem_seg" in x["data_samples"]]
    if not torch.equal(a["inputs"], b["inputs"]) or (labels and not torch.equal(*labels)):
        raise SystemExit("the samples differ")


def measure(root: Path, case: tuple, count: int, rounds: int) -> str:
    name, size, kind, scale, crop, retries = case
    root = root / size
    ours, single, theirs = datasets(root, kind, *pipelines(scale, crop, retries is not None))
    files = sorted(Path(ours.get_data_info(i)["img_path"]).name for i in range(count))
    wanted = [rarest(root, int(file.split(".")[0])) if retries else 0 for file in files]
    need = MIN_PIXELS * RATIO[crop]
    tries = []

    def mine(draw: Draw) -> dict:
        return ours.fused()(ours.get_data_info(draw), draw, 0, (wanted[draw], need, TRIES)) if retries else ours[draw]

    def others(draw: Draw) -> dict:
        if not retries:
            return theirs[int(draw)]
        sample, tried = retried(theirs, int(draw), wanted[draw], need)
        tries.append(tried)
        return sample

    def check(draw: Draw) -> None:
        sample = mine(draw)
        with seeded(draw):
            equal(sample, _Sampling(single, need).load(single, draw, wanted[draw]) if retries else others(draw))

    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        draws = [Draw(index, 1, 0, turn * count + index) for index in range(count)]
        for draw in draws:
            check(draw)
        # One side after the other: each finds caches and memory as it left them, as in a training.
        for side, load in enumerate((mine, others)):
            for draw in draws:
                with seeded(draw):
                    spent = clock(lambda load=load, draw=draw: load(draw))
                if turn:  # the first one warms up
                    times[side].append(spent)
    a, b = (statistics.fmean(values) for values in times)
    note = f", {statistics.fmean(tries):.1f} runs of mmseg's pipeline" if retries else ""
    return f"| {name}{note} | {1e3 / a:.1f} | {1e3 / b:.1f} | {b / a:.1f} |"


class _Sampling(RareClassSampling):
    """The crops of rare class sampling by single transforms, for the check."""

    def __init__(self, dataset: Any, need: float) -> None:
        self.min_pixels, self.min_crop_ratio, self.tries = 1, need, TRIES
        self.split = {dataset: split_pipeline(dataset.pipeline.transforms)}


def decoding(root: Path, size: str, kind: str, count: int) -> str:
    """Whole image from file to pixels: the limit of what a loader can reach."""
    height, width = SIZES[size]
    plan = dict(scale=None, ratio=None, keep_ratio=True, margins=None, crop=(height, width), cat_max_ratio=1.0)
    plan.update(ignore=255, fill=None, flip=None)
    files = [str(root / size / kind / f"{index}.{kind}") for index in range(count)]
    ways: dict[str, Callable[[str], Any]] = {
        "ours": lambda path: _core.load_crop(path, path, None, plan, [0]),
        "OpenCV": lambda path: cv2.imread(path),
        "Pillow": lambda path: Image.open(path).load(),
    }
    if kind == "jpg":
        del ways["ours"]
    shown = []
    for name, way in ways.items():
        spent = [clock(lambda way=way, path=path: way(path)) for _ in range(4) for path in files][count:]
        shown.append(f"{name} {statistics.fmean(spent):.1f} ms")
    megabytes = statistics.fmean(Path(path).stat().st_size for path in files) / 1e6
    return f"decoding alone, {size} {kind}, {megabytes:.2f} MB: " + ", ".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4, help="the first one is not counted")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    register_all_modules(init_default_scope=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, args.images)
        for size in SIZES:
            print(decoding(root, size, "png", args.images), flush=True)
        print(decoding(root, "GTA5", "jpg", args.images), flush=True)
        print("\n| files and pipeline | ours, images/s | mmseg, images/s | ratio |\n|---|---:|---:|---:|", flush=True)
        for case in CASES:
            print(measure(root, case, args.images, args.rounds), flush=True)


if __name__ == "__main__":
    main()
