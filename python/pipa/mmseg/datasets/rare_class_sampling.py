"""Rare class sampling (DAFormer, CVPR 2022, section 3.3).

A class is drawn with probability P(c) = softmax_c((1 - f_c) / T), f_c its share of the labelled pixels; then an image
that holds more than `min_pixels` of it; then crops of that image until one keeps more than
`min_pixels * min_crop_ratio` pixels of the class. The image is decoded once: only crop and what follows are repeated.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from pipa.files.images import DataError
from pipa.files.labels import LabelReading, train_id
from pipa.files.statistics import STATS_FILE, read_statistics
from pipa.functional.numbers import number, whole
from pipa.mmseg.datasets.draw import RARE_CLASS, Draw, seeded
from pipa.mmseg.datasets.parts import locate, parts
from pipa.mmseg.datasets.transforms import LoadLabel, label_loader, run

Missing = Literal["error", "drop"]


def class_probabilities(stats: Sequence[Mapping[str, Any]], temperature: float) -> tuple[list[int], np.ndarray]:
    """Classes by frequency, rarest first, and the probability of each, float32 [C].

    Args:
        stats: per label file the pixels of each class, `{"0": 12, "7": 3, "file": ...}` (sample_class_stats.json).
    """
    if number(temperature, "rare class sampling: temperature") <= 0:
        raise ValueError(f"rare class sampling: temperature must be positive, got {temperature}")
    pixels: Counter[int] = Counter()
    for entry in stats:
        for key, count in entry.items():
            if key not in ("file", "index"):
                pixels[int(key)] += count
    if not pixels:
        raise DataError("rare class sampling: the class statistics hold no labelled pixel")
    classes = sorted(pixels, key=lambda c: pixels[c])  # stable: equal counts keep the order of their first appearance
    # float32 as in the released code, so that the same random number gives the same class
    frequency = np.array([pixels[c] for c in classes], dtype=np.float32)
    frequency = frequency / frequency.sum(dtype=np.float32)
    scaled = (np.float32(1) - frequency) / np.float32(temperature)
    weights = np.exp(scaled - scaled.max())
    return classes, weights / weights.sum(dtype=np.float32)


def count_classes(dataset: Any, workers: int = 4) -> list[dict[str, Any]]:
    """Statistics of a labelled data set, in its order, as its own pipeline reads the labels."""
    load = label_loader(dataset.pipeline.transforms) or LoadLabel()

    def count(index: int) -> dict[str, Any]:
        info = dataset.get_data_info(index)
        ignore = info.get("ignore_index", getattr(dataset, "ignore_index", 255))
        label = load.transform({**info, "seg_fields": []})["gt_seg_map"]
        counts = np.bincount(label.reshape(-1))
        entry: dict[str, Any] = {str(c): int(counts[c]) for c in np.flatnonzero(counts) if c != ignore}
        return {**entry, "file": info["seg_map_path"]}

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(count, range(len(dataset))))


def _chosen(entry: dict[str, Any], label_map: Mapping[int, int] | None, ignore: int) -> dict[str, Any]:
    """Counts of the classes that `metainfo=dict(classes=...)` leaves, under their new ids."""
    if not label_map:
        return entry
    counts: Counter[str] = Counter()
    for key, count in entry.items():
        if key not in ("file", "index"):
            new = train_id(label_map.get(int(key), int(key)), ignore)
            if new != ignore:
                counts[str(new)] += count
    return {**counts, "file": entry["file"], "index": entry["index"]}


def split_pipeline(transforms: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """What runs once per image (loading, resizing) and what a new crop repeats (the crop and all after it)."""
    for place, transform in enumerate(transforms):
        if "Crop" in type(transform).__name__:
            return list(transforms[:place]), list(transforms[place:])
    return list(transforms), []


def _statistics(dataset: Any, folder: str | Path | None) -> list[dict[str, Any]]:
    """Statistics of the files of one data set, each with its `index` in it."""
    labels = [dataset.get_data_info(i).get("seg_map_path") for i in range(len(dataset))]
    if any(label is None for label in labels):
        raise DataError("RareClassSampling: needs a labelled data set (the source), found an unlabelled one")
    root = Path(folder) if folder is not None else Path(getattr(dataset, "data_root", None) or ".")
    if (root / STATS_FILE).is_file() or folder is not None:
        info = dataset.get_data_info(0)
        loader = label_loader(dataset.pipeline.transforms)
        given = (loader.num_classes, loader.ignore_index) if isinstance(loader, LoadLabel) else (None, None)
        command = getattr(dataset, "stats_command", None)
        renew = f"run `{command()}`" if command is not None else "run `pipa stats` again"
        reading = LabelReading.of(info, *given)
        entries = read_statistics(root, reading, labels, renew)
        return [_chosen(entry, info.get("label_map"), reading.ignore_index) for entry in entries]
    print_log(f"no {STATS_FILE} in {root}: counting the pixels of {len(labels)} labels", logger="current")
    return [{**entry, "index": i} for i, entry in enumerate(count_classes(dataset))]


@DATASETS.register_module()
class RareClassSampling:
    """Wrapper of a labelled mmseg data set that draws images by class. For the source's train_dataloader.

        dict(type="RareClassSampling", dataset=dict(type="GTADataset", ...), temperature=0.01, min_pixels=3000,
             min_crop_ratio=0.5)

    With `DrawSampler`, every decision is a function of the draw. With another sampler the index is not used and the
    global NumPy generator decides, which is reproducible per worker but does not resume exactly.

    Args:
        dataset: the data set or its config, or a ConcatDataset or RepeatDataset of some, whose images are then drawn as
            those of one. A pipeline should hold a crop (SyncCrop or RandomCrop).
        temperature: T above. 0.01 is DAFormer's.
        min_pixels: an image is drawn for a class only if it holds more pixels of it.
        min_crop_ratio: pixels the crop must keep, as a share of min_pixels (DAFormer 0.5; HRDA 2.0, its crops are of
            images twice as large). 0 takes the first crop.
        tries: crops per image; the last is taken even if it keeps too little.
        stats: folder with the two JSON files of `pipa convert` / `pipa stats`; None looks in data_root and counts the
            labels where there are none. With several data sets, one folder for all or a list with one for each.
        missing: what to do about a class that no image holds enough of: "error", or "drop" to leave it out.

    >>> from mmengine.registry import init_default_scope
    >>> init_default_scope("mmseg")  # in a config: default_scope = "mmseg"
    >>> import pipa, pipa.mmseg
    >>> root = pipa.toy.write("toy", train=3, val=0) / "source"
    >>> steps = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="SyncCrop", crop_size=(64, 64))]
    >>> source = pipa.mmseg.CityscapesDomainDataset(data_root=root, pipeline=steps)
    >>> rare = pipa.mmseg.RareClassSampling(source, min_pixels=20, missing="drop")
    >>> draw = next(iter(pipa.mmseg.DrawSampler(rare, seed=0)))
    >>> rare[draw]["gt_seg_map"].shape
    (64, 64)
    """

    def __init__(
        self,
        dataset: Any,
        temperature: float = 0.01,
        min_pixels: int = 3000,
        min_crop_ratio: float = 0.5,
        tries: int = 10,
        stats: str | Path | Sequence[str | Path | None] | None = None,
        missing: Missing = "error",
    ) -> None:
        if missing not in get_args(Missing):
            raise ValueError(f"RareClassSampling: missing must be 'error' or 'drop', got {missing!r}")
        tries = whole(tries, "RareClassSampling: tries")
        number(min_pixels, "RareClassSampling: min_pixels")
        number(min_crop_ratio, "RareClassSampling: min_crop_ratio")
        number(temperature, "RareClassSampling: temperature")
        if tries < 1 or min_pixels < 0 or min_crop_ratio < 0:
            raise ValueError(
                "RareClassSampling: expected tries >= 1, min_pixels >= 0 and min_crop_ratio >= 0, got "
                f"{tries}, {min_pixels}, {min_crop_ratio}"
            )
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.min_pixels, self.min_crop_ratio, self.tries = min_pixels, min_crop_ratio, tries
        self.full_init()
        self.parts = list(dict.fromkeys(parts(self.dataset)))
        self.split = {part: split_pipeline(part.pipeline.transforms) for part in self.parts}
        entries = self._entries(stats)
        self.classes, self.probabilities = class_probabilities(entries, temperature)
        self.images = self._images(entries)
        self._drop_missing(entries, missing)
        self._cumulative = np.cumsum(self.probabilities.astype(np.float64))

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    def full_init(self) -> None:
        self.dataset.full_init()

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(int(index))

    def __len__(self) -> int:
        return len(self.dataset)

    def fused(self) -> Any:
        """The native form of the data set's pipeline, or None."""
        return self._native(self.parts[0]) if len(self.parts) == 1 else None

    def _native(self, part: Any) -> Any:
        native = getattr(part, "fused", None)
        return None if native is None or max(self.classes) > 255 else native()

    def __getitem__(self, index: int) -> dict:
        """A random image; a `Draw` decides which."""
        for attempt in range(10):
            picked, wanted = self.pick(index, attempt)
            part, place = locate(self.dataset, picked)
            fused = self._native(part) if isinstance(place, Draw) else None
            try:
                if fused is not None and isinstance(place, Draw):
                    need = self.min_pixels * self.min_crop_ratio
                    return fused(part.get_data_info(int(place)), place, attempt, (wanted, need, self.tries))
                with seeded(place, attempt):
                    return self.load(part, place, wanted)
            except DataError as error:
                if getattr(part, "on_bad_file", "stop") == "stop":
                    raise
                print_log(f"skipped a bad file: {error}", logger="current", level=logging.WARNING)
        raise DataError("RareClassSampling: 10 files in a row are not usable; run `pipa doctor CONFIG`")

    def pick(self, index: int, attempt: int = 0) -> tuple[int, int]:
        """Image and class of a draw."""
        if isinstance(index, Draw):
            first, second = index.generator(RARE_CLASS, attempt).random(2)
        else:
            first, second = np.random.random(2)  # noqa: NPY002  (the worker's seeded generator)
        place = int(np.searchsorted(self._cumulative, first * self._cumulative[-1], side="right"))
        wanted = self.classes[min(place, len(self.classes) - 1)]
        images = self.images[wanted]
        image = images[int(second * len(images))]
        return (index.at(image) if isinstance(index, Draw) else image), wanted

    def load(self, part: Any, index: int, wanted: int) -> dict:
        """Decode once, crop until enough pixels of the class are in it, then run the rest of the pipeline."""
        once, per_crop = self.split[part]
        loaded = run(once, part.get_data_info(int(index)))
        crop, rest = per_crop[:1], per_crop[1:]
        need = self.min_pixels * self.min_crop_ratio
        for _ in range(self.tries if crop else 1):
            # a crop only cuts views: a shallow copy of the sample with its own list of fields is enough
            results = run(crop, {**loaded, "seg_fields": list(loaded.get("seg_fields", []))})
            if need <= 0 or np.count_nonzero(results["gt_seg_map"] == wanted) > need:
                break
        return run(rest, results)

    def _entries(self, stats: str | Path | Sequence[str | Path | None] | None) -> list[dict[str, Any]]:
        """Statistics of all files, each with its `index`: an image that is repeated counts as often."""
        folders = [stats] * len(self.parts) if stats is None or isinstance(stats, (str, Path)) else list(stats)
        if len(folders) != len(self.parts):
            raise ValueError(
                f"RareClassSampling: stats: expected one folder for each of the {len(self.parts)} data sets, got "
                f"{len(folders)}"
            )
        found = {part: _statistics(part, folder) for part, folder in zip(self.parts, folders, strict=True)}
        if self.parts == [self.dataset]:
            return found[self.dataset]
        places: dict[Any, dict[int, list[int]]] = {part: {} for part in self.parts}
        for i in range(len(self.dataset)):
            part, index = locate(self.dataset, i)
            places[part].setdefault(index, []).append(i)
        return [
            {**entry, "index": i}
            for part in self.parts
            for entry in found[part]
            for i in places[part].get(entry["index"], ())
        ]

    def _images(self, entries: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
        """For each class the images that hold more than min_pixels of it."""
        images: dict[int, list[int]] = {c: [] for c in self.classes}
        for entry in entries:
            for key, count in entry.items():
                if key not in ("file", "index") and count > self.min_pixels:
                    images[int(key)].append(entry["index"])
        return images

    def _drop_missing(self, entries: Sequence[Mapping[str, Any]], missing: Missing) -> None:
        names = self.metainfo.get("classes", ())
        for c in [c for c in self.classes if not self.images[c]]:
            largest = max(entries, key=lambda entry: entry.get(str(c), 0))
            name = f"{c} ({names[c]})" if c < len(names) else str(c)
            text = (
                f"rare class sampling: no image holds more than min_pixels={self.min_pixels} pixels of class {name}; "
                f"the most are {largest.get(str(c), 0)} in {largest['file']}"
            )
            if missing == "error":
                raise DataError(f"{text}; lower min_pixels, or set missing='drop' to leave the class out")
            print_log(f"{text}; the class is left out", logger="current", level=logging.WARNING)
            place = self.classes.index(c)
            self.classes = [k for k in self.classes if k != c]
            self.probabilities = np.delete(self.probabilities, place)
        if not self.classes:
            raise DataError(f"rare class sampling: no class has an image with more than {self.min_pixels} pixels of it")
        self.probabilities = self.probabilities / self.probabilities.sum(dtype=np.float32)
