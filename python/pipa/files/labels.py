"""From a label file to train ids: id maps, colours, ranges. All who read labels go through :class:`LabelReading`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipa.files import images
from pipa.files.images import DataError

# The id of pixels without a class where nothing is said, as in mmseg.
IGNORED = 255


@dataclass(frozen=True)
class LabelReading:
    """How the stored values of a label file become train ids.

    Attributes:
        num_classes: train ids are 0..num_classes - 1; None takes any.
        ignore_index: the train id that never counts.
        id_map: raw id -> train id as pairs, unlisted ids are ignored; None: the stored ids are train ids.
        colors: RGB of each class, for labels painted with them, other colours are ignored; None: labels hold ids.
    """

    num_classes: int | None = None
    ignore_index: int = IGNORED
    id_map: tuple[tuple[int, int], ...] | None = None
    colors: tuple[tuple[int, int, int], ...] | None = None

    @classmethod
    def of(cls, sample: Mapping[str, Any], num_classes: int | None = None, ignore: int | None = None) -> LabelReading:
        """What a data set has put into a sample; the arguments, where given, win."""
        ids, colors = sample.get("id_map"), sample.get("label_colors")
        return cls(
            num_classes if num_classes is not None else sample.get("num_classes"),
            ignore if ignore is not None else sample.get("ignore_index", IGNORED),
            None if ids is None or colors else tuple((int(k), int(v)) for k, v in ids.items()),
            tuple((int(r), int(g), int(b)) for r, g, b in colors) if colors else None,
        )

    @cached_property
    def table(self) -> dict[int, int] | None:
        return None if self.id_map is None else dict(self.id_map)

    def read(self, path: str | Path) -> np.ndarray:
        """Train ids, uint8 or uint16 [H, W]. DataError names the file."""
        if self.colors is not None:
            label = from_colors(images.read_color_label(path), self.colors, self.ignore_index)
        else:
            label = images.read_label(path)
            if self.table is not None:
                label = apply_map(label, self.table, self.ignore_index, unlisted=self.ignore_index)
        if self.num_classes is not None:
            check_ids(label, self.num_classes, self.ignore_index, path)
        return label

    def as_dict(self) -> dict[str, Any]:
        """What statistics keep of it, as JSON gives it back. The number of classes alone changes no count."""
        return {
            "ignore_index": self.ignore_index,
            "id_map": None if self.id_map is None else sorted([k, v] for k, v in self.id_map),
            "colors": None if self.colors is None else [list(color) for color in self.colors],
        }


def train_id(target: int, ignore: int) -> int:
    """What a target of a table means: -1 and 255 are `ignore`, as in the official tables; but where `ignore` lies above
    255, that is a class."""
    return ignore if target == -1 or (target == IGNORED and ignore < IGNORED) else target


def apply_map(label: np.ndarray, mapping: Mapping[int, int], ignore: int, unlisted: int | None) -> np.ndarray:
    """Send ids through a table; ids that `mapping` does not list become `unlisted`, or stay where that is None.
    Targets are taken as :func:`train_id` takes them."""
    values = [train_id(new, ignore) for new in mapping.values()]
    largest = max([ignore, int(label.max(initial=0)), *mapping, *values])
    table = np.arange(largest + 1) if unlisted is None else np.full(largest + 1, unlisted)
    table[list(mapping)] = values
    return table.astype(np.uint8 if table.max() <= 255 else np.uint16)[label]


def from_colors(packed: np.ndarray, colors: Sequence[Sequence[int]], ignore: int) -> np.ndarray:
    """Train ids of a label painted with the colours of the classes; other colours are ignored."""
    label = np.full(packed.shape, ignore, dtype=np.uint8 if max(ignore, len(colors)) <= 255 else np.uint16)
    for train_id, (red, green, blue) in enumerate(colors):
        label[packed == (red << 16 | green << 8 | blue)] = train_id
    return label


def unlisted_colors(packed: np.ndarray, colors: Sequence[Sequence[int]]) -> tuple[float, list[tuple[int, int, int]]]:
    """Share of the pixels whose colour is no class's, and those colours, most frequent first."""
    values, counts = np.unique(packed, return_counts=True)
    other = ~np.isin(values, [red << 16 | green << 8 | blue for red, green, blue in colors])
    values, counts = values[other], counts[other]
    order = np.argsort(-counts, kind="stable")
    found = [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in values[order]]
    return float(counts.sum() / packed.size), found


def unlisted_ids(counts: Mapping[int, int], table: Mapping[int, int], ignore: int = IGNORED) -> tuple[float, list[int]]:
    """Share of the pixels whose stored id the table does not list, and those ids, most frequent first.

    Args:
        counts: pixels of each stored id in a label.
        ignore: an id that says itself that its pixels do not count: nothing is lost by leaving it out of the table.
    """
    known = {*table, ignore}
    other = {stored: pixels for stored, pixels in counts.items() if pixels and stored not in known}
    return sum(other.values()) / max(sum(counts.values()), 1), sorted(
        other, key=lambda stored: (-other[stored], stored)
    )


def tell_unlisted_ids(path: str | Path, share: float, ids: Sequence[int]) -> str:
    """A sentence about pixels that are ignored because their id is in no table."""
    shown = ", ".join(map(str, ids[:6])) + ("" if len(ids) <= 6 else f" and {len(ids) - 6} more")
    return (
        f"{path}: {100 * share:.1f} % of the pixels have an id that the id map does not list and are ignored: {shown}"
    )


def tell_unlisted(path: str | Path, share: float, colors: Sequence[tuple[int, int, int]]) -> str:
    """A sentence about pixels that are ignored because of their colour."""
    shown = ", ".join(map(str, colors[:3])) + ("" if len(colors) <= 3 else f" and {len(colors) - 3} more")
    hint = "" if len(colors) <= 64 else "; so many colours come from a smoothed (anti-aliased) or resized label"
    return f"{path}: {100 * share:.1f} % of the pixels have a colour of no class and are ignored: {shown}{hint}"


def lost(path: str | Path, reading: LabelReading, stored: Mapping[int, int] | None = None) -> tuple[float, str]:
    """Share of a label's pixels that are ignored because their colour or id is no class's, and a sentence about them.

    Args:
        stored: pixels of each stored id, where they are counted already.

    Returns:
        0 and no text where there are none, and for labels that hold train ids.
    """
    if reading.colors is not None:
        share, colors = unlisted_colors(images.read_color_label(path), reading.colors)
        return share, tell_unlisted(path, share, colors) if colors else ""
    if reading.table is not None:
        if stored is None:
            stored = images.count_stored(path)
        share, ids = unlisted_ids(stored, reading.table, reading.ignore_index)
        return share, tell_unlisted_ids(path, share, ids) if ids else ""
    return 0.0, ""


def check_ids(label: np.ndarray, classes: int, ignore: int, path: str | Path) -> None:
    """Raise DataError unless every id is a class or `ignore`."""
    present = np.flatnonzero(np.bincount(label.reshape(-1), minlength=256))
    wrong = present[(present >= classes) & (present != ignore)]
    if len(wrong):
        raise DataError(
            f"{path}: label ids must be 0..{classes - 1} or {ignore} (ignored), found {images.list_ids(wrong)}; "
            "convert the labels to train ids (`pipa convert`) or give the classes of FolderDataset an id_map"
        )
