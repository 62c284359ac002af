"""Labels of GTA5, SYNTHIA and Cityscapes -> train ids and class statistics (`pipa convert`, `pipa stats`).

Every file is written under a temporary name and renamed. A second run keeps finished files: those that are newer than
their source, have its size and hold train ids only. Originals are opened for reading and never written.

The statistics are those of :mod:`pipa.files.statistics`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

from pipa import _core
from pipa.files.atomic import write_text
from pipa.files.images import DataError
from pipa.files.label_tables import CITYSCAPES_IDS, CITYSCAPES_NAMES, SYNTHIA_IDS
from pipa.files.labels import LabelReading
from pipa.files.listing import find_files
from pipa.files.parallel import run
from pipa.files.statistics import Counts, class_totals, folder_stats, write_statistics

__all__ = ["DATASETS", "Job", "Report", "class_totals", "convert_labels", "draw_polygons", "folder_stats"]

Dataset = Literal["gta", "synthia", "cityscapes"]
Source = Literal["auto", "polygons", "labelIds"]
DATASETS = get_args(Dataset)
TRAIN_IDS = frozenset([*range(19), 255])


@dataclass(frozen=True)
class Job:
    """One label file: where it comes from, where its train ids go, and how they are made."""

    source: Path
    target: Path
    size: Callable[[], tuple[int, int]]
    convert: Callable[[], tuple[int, int, list[tuple[int, int]]]]
    counted: bool = True  # takes part in the statistics (Cityscapes: its train split only)


@dataclass(frozen=True)
class Report:
    """What a run did: labels converted now, labels that were finished before, files written beside them, and
    sentences about what the user should look at."""

    converted: int
    kept: int
    written: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def convert_labels(
    dataset: Dataset,
    root: str | Path,
    out: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
    source: Source = "auto",
) -> Report:
    """Write `*_labelTrainIds.png` beside the labels (or below `out`), and the class statistics.

    Args:
        dataset: gta, synthia or cityscapes.
        root: folder of the data set. Its name is part of the names in the statistics, as given.
        out: another folder for everything that is written, in the same layout.
        workers: threads; None takes one per core.
        source: Cityscapes only: "polygons", "labelIds", or "auto" (for each label its polygons where there are some,
            else its labelIds).

    Raises:
        DataError: the folder does not hold the data set, or labels are not usable (every bad file is found first; the
            others are converted; no statistics are written).
    """
    root = Path(root)
    if dataset not in DATASETS:
        raise ValueError(f"convert: the data set must be one of {', '.join(DATASETS)}; got {dataset!r}")
    if source not in get_args(Source):
        raise ValueError(f"convert: source must be auto, polygons or labelIds; got {source!r}")
    if not root.is_dir():
        raise DataError(f"{root}: expected the folder of {dataset}, found no such folder")
    base = Path(out) if out is not None else root
    if dataset == "gta":
        jobs = _mapped(root, base, "labels", CITYSCAPES_IDS, red=False)
    elif dataset == "synthia":
        jobs = _mapped(root, base, "GT/LABELS", SYNTHIA_IDS, red=True)
    else:
        jobs = _cityscapes(root, base, source)

    def work(job: Job) -> tuple[Counts, bool]:
        done = finished(job)
        if done is not None:
            return done, True
        job.target.parent.mkdir(parents=True, exist_ok=True)
        return dict(job.convert()[2]), False

    results = run(jobs, work, workers, progress, f"{dataset}: train ids")
    kept = sum(was_there for _, was_there in results)
    counts = {job.target.as_posix(): c for job, (c, _) in zip(jobs, results, strict=True) if job.counted}
    written = write_statistics(base, counts, LabelReading(19))
    notes = _without_class([(job, counts) for job, (counts, _) in zip(jobs, results, strict=True)])
    if dataset == "cityscapes":
        splits, kept_splits = _write_splits(base, jobs)
        written, notes = written + splits, notes + _without_polygons(jobs) + kept_splits
    return Report(len(jobs) - kept, kept, tuple(written), tuple(notes))


def finished(job: Job) -> Counts | None:
    """Counts of a target that an earlier run finished, or None where the work is still to be done."""
    try:
        made, given = job.target.stat(), job.source.stat()
        # A file that is replaced by an older one keeps the older one's time of content; its place in the folder is new.
        if made.st_mtime_ns < given.st_mtime_ns or _last_change(made) < _last_change(given):
            return None
        height, width, counts = _core.label_summary(str(job.target))
    except (OSError, ValueError):  # not there, or left damaged by something else: it is written again
        return None
    valid = (height, width) == job.size() and all(c in TRAIN_IDS for c, _ in counts)
    return dict(counts) if valid else None


def _last_change(facts: os.stat_result) -> int:
    """Of content or place, in ns."""
    return max(facts.st_mtime_ns, facts.st_ctime_ns)


def _without_class(done: Sequence[tuple[Job, Counts]]) -> list[str]:
    """A sentence about labels of which no pixel has a class: their ids are not those of the data set."""
    empty = [job.source for job, counts in done if not set(counts) - {255}]
    if not empty:
        return []
    return [
        f"{empty[0]}: no pixel has an id of the 19 classes, all are ignored"
        + (f"; so in {len(empty)} of {len(done)} labels" if len(empty) > 1 else "")
        + "; are the ids those of another data set, or train ids already?"
    ]


def _without_polygons(jobs: Sequence[Job]) -> list[str]:
    """A sentence about labels that were made in another way than the rest of the data set."""
    others = [job.source for job in jobs if job.source.suffix == ".png"]
    if len(others) in (0, len(jobs)):
        return []
    return [f"{others[0]}: taken, there is no polygon file; so for {len(others)} of {len(jobs)} labels"]


# The data sets --------------------------------------------------------------------------------------------------------
def _mapped(root: Path, base: Path, folder: str, table: Mapping[int, int], red: bool) -> list[Job]:
    """Label files with one raw id per pixel (GTA5 and SYNTHIA)."""
    labels = root / folder
    if not labels.is_dir():
        raise DataError(f"{labels}: expected the folder of label files, found no such folder")
    names = find_files(labels, ".png", recursive=False)
    sources = [labels / name for name in names if not name.endswith("_labelTrainIds.png")]
    if not sources:
        raise DataError(f"{labels}: expected *.png label files, found none")
    return [_job(path, base / folder / f"{path.stem}_labelTrainIds.png", table, red) for path in sources]


def _job(path: Path, target: Path, table: Mapping[int, int], red: bool, counted: bool = True) -> Job:
    pairs = list(table.items())
    return Job(
        path,
        target,
        lambda: _core.png_size(str(path)),
        lambda: _core.label_convert(str(path), str(target), pairs, 255, red),
        counted,
    )


def _cityscapes(root: Path, base: Path, source: Source) -> list[Job]:
    fine = root / "gtFine"
    if not fine.is_dir():
        raise DataError(f"{fine}: expected the folder gtFine of Cityscapes, found no such folder")
    endings = {"polygons": "_gtFine_polygons.json", "labelIds": "_gtFine_labelIds.png"}
    chosen = ("labelIds", "polygons") if source == "auto" else (source,)  # of two for one label the last is taken
    sources: dict[str, tuple[Path, str]] = {}
    for kind in chosen:
        for name in find_files(fine, endings[kind]):
            if name.count("/") == 2:
                sources[name.removesuffix(endings[kind])] = (fine / name, kind)
    if not sources:
        wanted = " or ".join(f"*{endings[kind]}" for kind in chosen)
        raise DataError(f"{fine}: expected SPLIT/CITY/{wanted} files, found none")
    jobs = []
    for stem, (path, kind) in sorted(sources.items(), key=lambda item: f"{item[0]}_gtFine"):  # as the files sort
        target = base / "gtFine" / f"{stem}_gtFine_labelTrainIds.png"
        counted = path.parent.parent.name == "train"
        if kind == "labelIds":
            jobs.append(_job(path, target, CITYSCAPES_IDS, red=False, counted=counted))
        else:
            jobs.append(_polygon_job(path, target, counted))
    return jobs


def _polygon_job(path: Path, target: Path, counted: bool) -> Job:
    def size() -> tuple[int, int]:
        shape = _polygons(path)
        return shape["imgHeight"], shape["imgWidth"]

    return Job(path, target, size, lambda: _core.label_store(str(target), draw_polygons(path)), counted)


def _polygons(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        height, width, objects = content["imgHeight"], content["imgWidth"], content["objects"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected Cityscapes polygons (imgHeight, imgWidth, objects), {error!r}") from None
    if not (isinstance(height, int) and isinstance(width, int) and 0 < height * width <= 1 << 28):
        raise DataError(f"{path}: expected a positive imgHeight and imgWidth, found {height} and {width}")
    if not isinstance(objects, list):
        raise DataError(f"{path}: expected a list of objects, found {type(objects).__name__}")
    return content


def draw_polygons(path: str | Path) -> np.ndarray:
    """Train ids, uint8 [H, W], of a Cityscapes polygon file: objects in their order, later ones on top.

    Deleted objects and those without a train id (license plates) are left out; `cargroup` is drawn as `car`.
    Pillow draws, because the official tool does: other rasterisers differ at the borders.
    """
    path = Path(path)
    content = _polygons(path)
    canvas = Image.new("L", (content["imgWidth"], content["imgHeight"]), 255)
    draw = ImageDraw.Draw(canvas)
    for number, entry in enumerate(content["objects"]):
        try:
            if entry.get("deleted"):
                continue
            name = entry["label"]
            if name not in CITYSCAPES_NAMES and name.endswith("group"):
                name = name.removesuffix("group")
            if name not in CITYSCAPES_NAMES:
                raise DataError(f"{path}: object {number} has the label {name!r}, which Cityscapes does not define")
            train_id = CITYSCAPES_NAMES[name]
            if train_id is not None:
                draw.polygon([tuple(point) for point in entry["polygon"]], fill=train_id)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: object {number} is no labelled polygon ({error!r})") from None
    return np.array(canvas)


# Files beside the labels ----------------------------------------------------------------------------------------------
def _write_splits(base: Path, jobs: Iterable[Job]) -> tuple[list[Path], list[str]]:
    """train.txt, val.txt and test.txt: CITY/STEM per line, for the splits that exist; and a sentence about each that
    was there with other lines and is kept: it may be a choice of the user's."""
    splits: dict[str, list[str]] = {}
    for job in jobs:
        stem = job.target.name.removesuffix("_gtFine_labelTrainIds.png")
        splits.setdefault(job.target.parent.parent.name, []).append(f"{job.target.parent.name}/{stem}")
    written, notes = [], []
    for split, stems in splits.items():
        path = base / f"{split}.txt"
        text = "".join(f"{stem}\n" for stem in sorted(stems))
        if path.exists() and (old := path.read_bytes()) != text.encode():
            lines = len(old.splitlines())
            notes.append(
                f"{path}: is there with other lines and was kept ({lines} lines, {len(stems)} labels found); "
                "remove it to have it written again"
            )
        else:
            written.append(write_text(path, text))
    return written, notes
