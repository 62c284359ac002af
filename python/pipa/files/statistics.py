"""Class statistics of labels: pixels of each class per file, for rare class sampling (`pipa stats`, `pipa convert`).

Three files in the layout that the released code of DAFormer reads: `sample_class_stats.json` (pixels of each class per
label), `sample_class_stats_dict.json` (the same by file name) and `samples_with_class.json` (labels of each class). A
fourth one, `sample_class_stats_source.json`, says what they were counted from: id map or colours, and size, time and
checksum of every label. So statistics that belong to other labels, or to another class table, are found out.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipa.files.atomic import write_text
from pipa.files.images import DataError, count_stored
from pipa.files.labels import LabelReading, check_ids, lost, train_id
from pipa.files.listing import find_files
from pipa.files.parallel import run

STATS_FILE, SOURCE_FILE = "sample_class_stats.json", "sample_class_stats_source.json"
Counts = dict[int, int]


def folder_stats(
    folder: str | Path,
    suffix: str = ".png",
    out: str | Path | None = None,
    id_map: Mapping[int, int] | None = None,
    ignore_index: int = 255,
    workers: int | None = None,
    progress: bool = True,
    reading: LabelReading | None = None,
    tell: Callable[[str], Any] | None = None,
) -> dict[str, Counts]:
    """Pixels of each class in each label file below `folder`, as a data set reads it (PNG, TIFF, BMP, ...); writes the
    statistics to `out` if it is given.

    Args:
        id_map: raw id -> train id, unlisted ids ignored; None takes the ids as they are stored.
        reading: the whole of what makes train ids of a file, instead of `id_map` and `ignore_index`.
        tell: takes a sentence about the label with the largest share of colours or ids that belong to no class.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of labels, found no such folder")
    paths = [folder / name for name in find_files(folder, suffix)]
    if not paths:
        raise DataError(f"{folder}: expected at least one *{suffix} label, found none")
    if reading is None:
        reading = LabelReading(None, ignore_index, None if id_map is None else tuple(id_map.items()))
    worst: list[tuple[float, str]] = []

    def work(path: Path) -> Counts:
        stored = None if reading.colors is not None else count_stored(path)
        if tell is not None:
            share, text = lost(path, reading, stored)
            if text:
                worst.append((share, text))
        return count_label(path, reading, stored)

    results = run(paths, work, workers, progress, "class statistics")
    stats = {path.as_posix(): counts for path, counts in zip(paths, results, strict=True)}
    if worst and tell is not None:
        what = "ids that the id map does not list" if reading.colors is None else "colours of no class"
        tell(f"{len(worst)} of {len(paths)} labels have {what}; the worst is {max(worst)[1]}")
    if out is not None:
        write_statistics(Path(out), stats, reading)
    return stats


def count_label(path: Path, reading: LabelReading, stored: Mapping[int, int] | None = None) -> Counts:
    """Pixels of each train id in one label file, ignored ones left out.

    Args:
        stored: pixels of each stored id, where they are counted already.
    """
    if reading.colors is not None:
        counts = np.bincount(reading.read(path).reshape(-1))
        return {int(c): int(counts[c]) for c in np.flatnonzero(counts) if c != reading.ignore_index}
    if stored is None:
        stored = count_stored(path)
    found: Counts = {}
    ignore = reading.ignore_index
    for raw, pixels in stored.items():
        new = raw if reading.table is None else train_id(reading.table.get(raw, ignore), ignore)
        if new != ignore:
            found[new] = found.get(new, 0) + pixels
    if reading.num_classes is not None:
        check_ids(np.array(sorted(found), dtype=np.int64), reading.num_classes, ignore, path)
    return dict(sorted(found.items()))


def class_totals(stats: Mapping[str, Counts]) -> dict[int, tuple[int, float, int]]:
    """Per class: pixels, share of the labelled pixels, and images that hold it; for tables."""
    pixels: Counts = {}
    images: Counts = {}
    for counts in stats.values():
        for c, n in counts.items():
            pixels[c] = pixels.get(c, 0) + n
            images[c] = images.get(c, 0) + 1
    total = sum(pixels.values())
    return {c: (pixels[c], pixels[c] / total, images[c]) for c in sorted(pixels)}


def write_statistics(folder: Path, stats: Mapping[str, Counts], reading: LabelReading) -> list[Path]:
    """The JSON files of class statistics; `stats` maps label files to pixels of each class."""
    ignore = reading.ignore_index
    kept = {file: {c: n for c, n in sorted(counts.items()) if c != ignore} for file, counts in stats.items()}
    with_class: dict[int, list[tuple[str, int]]] = {}
    for file, counts in kept.items():
        for c, n in counts.items():
            with_class.setdefault(c, []).append((file, n))
    text = json.dumps([{**counts, "file": file} for file, counts in kept.items()], indent=2)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        marks = dict(zip(kept, pool.map(_mark, kept), strict=True))
    source = {"statistics": zlib.crc32(text.encode()), **reading.as_dict(), "files": marks}
    content = {
        STATS_FILE: text,
        "sample_class_stats_dict.json": json.dumps(kept, indent=2),
        "samples_with_class.json": json.dumps(with_class, indent=2),
        SOURCE_FILE: json.dumps(source),
    }
    return [write_text(folder / name, value) for name, value in content.items()]


def read_statistics(folder: Path, reading: LabelReading, labels: Sequence[str], renew: str) -> list[dict[str, Any]]:
    """The entries of `sample_class_stats.json` that belong to `labels`, each with the `index` of its label.

    A label that stands in `labels` more than once has an entry for each of its places.

    Args:
        reading: how the data set reads its labels.
        renew: what renews the statistics, for messages.

    Raises:
        DataError: the file is broken, or counted from other labels, another id map or other colours.
    """
    path = folder / STATS_FILE
    try:
        text = path.read_text(encoding="utf-8")
        entries = json.loads(text)
        files = [entry["file"] for entry in entries]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected the class statistics of `pipa stats` there") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read the class statistics ({error.strerror}); {renew}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: expected a list of mappings with a 'file' each ({error!r}); {renew}") from None
    twice = next((file for file, count in Counter(files).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: counts {twice} more than once; {renew}")
    places: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        places.setdefault(label, []).append(i)
    once = list(places)
    indices = match_files(files, once)
    if len(found := {i for i in indices if i is not None}) != len(once):
        raise DataError(
            f"{path}: holds statistics of {len(found)} of the {len(once)} labels of this data set, e.g. not of "
            f"{next(label for i, label in enumerate(once) if i not in found)}; {renew}"
        )
    source = _source(folder / SOURCE_FILE, text)
    _same_reading(path, source, reading, renew)
    ours = [(entry, once[i]) for entry, i in zip(entries, indices, strict=True) if i is not None]
    _same_files(path, source, [(entry["file"], label) for entry, label in ours], renew)
    for entry, _ in ours:
        wrong = [key for key in entry if key not in ("file", "index") and not _valid(key, reading)]
        if wrong:
            raise DataError(
                f"{path}: counts class {wrong[0]} in {entry['file']}, but the data set has the classes "
                f"0..{(reading.num_classes or 0) - 1}; were raw ids counted? {renew}"
            )
    return [{**entry, "index": i} for entry, label in ours for i in places[label]]


def _valid(key: str, reading: LabelReading) -> bool:
    return key.isdecimal() and (reading.num_classes is None or int(key) < reading.num_classes)


def _mark(path: str | Path) -> tuple[int, int, int]:
    """Size, time and checksum of a file."""
    facts = os.stat(path)
    return facts.st_size, facts.st_mtime_ns, zlib.crc32(Path(path).read_bytes())


def _source(path: Path, statistics: str) -> dict[str, Any] | None:
    """What the statistics were counted from, or None where nothing says so (other tools wrote them)."""
    try:
        source = json.loads(path.read_text(encoding="utf-8"))
        return source if source["statistics"] == zlib.crc32(statistics.encode()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _same_reading(path: Path, source: Mapping[str, Any] | None, reading: LabelReading, renew: str) -> None:
    ours = reading.as_dict()
    if source is None:
        if reading.id_map is not None or reading.colors is not None:
            what = "an id map" if reading.id_map is not None else "colours"
            raise DataError(f"{path}: nothing says that it was counted with {what}, as the data set is read; {renew}")
        return
    for name, value in ours.items():
        if source.get(name) != value:
            raise DataError(
                f"{path}: was counted with {name}={_short(source.get(name))}, but the data set is read with "
                f"{name}={_short(value)}; {renew}"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _same_files(path: Path, source: Mapping[str, Any] | None, pairs: Sequence[tuple[str, str]], renew: str) -> None:
    """The labels are those that were counted: by size and time, or else by checksum (a copy has another time)."""
    counted = path.stat().st_mtime_ns
    marks: Mapping[str, Any] = {} if source is None else source.get("files", {})

    def changed(pair: tuple[str, str]) -> bool:
        file, label = pair
        try:
            facts = os.stat(label)
            mark = marks.get(file)
            if mark is None:
                return facts.st_mtime_ns > counted
            size, time, checksum = mark
            return facts.st_size != size or (facts.st_mtime_ns != time and _mark(label)[2] != checksum)
        except OSError as error:
            raise DataError(f"{label}: cannot read this label ({error.strerror})") from None

    with ThreadPoolExecutor(8) as pool:
        stale = [label for (_, label), is_stale in zip(pairs, pool.map(changed, pairs), strict=True) if is_stale]
    if stale:
        more = f" (and {len(stale) - 1} more)" if len(stale) > 1 else ""
        raise DataError(f"{path}: {stale[0]}{more} has changed since it was counted; {renew}")


def match_files(files: Sequence[str], labels: Sequence[str]) -> list[int | None]:
    """Index into `labels` of each file by the shortest tail of the path that tells the labels apart and gives each of
    them one file, so that statistics stay valid when a data set moves, and when they count more than its labels. None
    for files that are not in `labels`."""
    parts = [Path(label).parts for label in labels]
    others = [Path(file).parts for file in files]
    deepest = max(map(len, parts), default=1)
    for depth in range(1, deepest + 1):
        tails = {part[-depth:]: index for index, part in enumerate(parts)}
        indices = [tails.get(other[-depth:]) for other in others]
        found = [index for index in indices if index is not None]
        if len(tails) == len(parts) and len(set(found)) == len(found):
            break
    return indices
