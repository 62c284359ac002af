"""`FolderDataset`: any folder of images, any folder of labels, any number of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmseg.registry import DATASETS

from pipa.files.images import DataError
from pipa.files.plain import read_plain
from pipa.mmseg.datasets.domains import DomainDataset


@dataclass(frozen=True)
class Classes:
    """What a class file says.

    Attributes:
        names: one per train id.
        colors: RGB per train id, or empty.
        id_map: raw id in the label files -> train id; raw ids that are not listed are ignored. None: ids are train ids.
        ignore_index: train id that never counts, or None where the file does not say.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = ()
    id_map: dict[int, int] | None = field(default=None)
    ignore_index: int | None = None


_KEYS = {"classes", "names", "colors", "id_map", "ignore_index"}


def load_classes(source: str | Path | Mapping | Sequence) -> Classes:
    """Classes from a YAML or JSON file, a mapping with the same keys, or a list of names.

    Keys: `classes` (a list of names, or of mappings with `name` and optionally `id`, `color`, `ids` (raw ids)), or
    `names`; `colors` ([R, G, B] per class); `id_map` (raw id -> train id); `ignore_index`. A file may hold other keys
    (notes, statistics); they are not read.
    """
    where = "classes"
    if isinstance(source, (str, Path)):
        where = str(source)
        if not Path(source).is_file():
            raise DataError(f"{source}: expected a YAML or JSON file of classes, found no such file")
        try:
            source = read_plain(source)
        except ValueError as error:
            raise DataError(str(error)) from None
    if isinstance(source, Sequence):
        source = dict(classes=source)
    if not isinstance(source, Mapping):
        raise DataError(f"{where}: expected a mapping with the keys {sorted(_KEYS)} or a list of names")
    entries = source.get("classes", source.get("names"))
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise DataError(f"{where}: expected a non-empty list under 'classes' or 'names', found {entries!r}")
    if all(isinstance(entry, Mapping) and "id" in entry for entry in entries):
        entries = sorted(entries, key=lambda entry: entry["id"])
        ids = [entry["id"] for entry in entries]
        if ids != list(range(len(ids))):
            raise DataError(f"{where}: class ids must be 0..{len(ids) - 1} without gaps, found {ids}")
    names, colors, raw = [], [], {}
    for train_id, entry in enumerate(entries):
        entry = entry if isinstance(entry, Mapping) else dict(name=entry)
        if "name" not in entry:
            raise DataError(f"{where}: class {train_id} has no 'name'")
        names.append(str(entry["name"]))
        colors += [entry["color"]] if "color" in entry else []
        raw.update({int(i): train_id for i in entry.get("ids", ())})
    colors = list(source.get("colors", colors))
    if len(set(names)) != len(names):
        raise DataError(f"{where}: class names must differ, found {names}")
    if colors and len(colors) != len(names):
        raise DataError(f"{where}: expected a colour for each of the {len(names)} classes, found {len(colors)}")
    for color in colors:
        if len(color) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in color):
            raise DataError(f"{where}: a colour is three integers 0..255, found {color!r}")
    id_map = {int(k): int(v) for k, v in source["id_map"].items()} if "id_map" in source else raw or None
    ignore = source.get("ignore_index")
    for old, new in (id_map or {}).items():
        if not 0 <= old <= 65535 or not (0 <= new < len(names) or new in (-1, 255, ignore)):
            raise DataError(
                f"{where}: id_map sends {old} to {new}; expected ids 0..65535 to go to 0..{len(names) - 1} or ignore"
            )
    return Classes(tuple(names), tuple(tuple(c) for c in colors), id_map, None if ignore is None else int(ignore))


@DATASETS.register_module()
class FolderDataset(DomainDataset):
    """Your own data.

        dict(type="FolderDataset", data_root="data/mine", images="images", labels="labels", img_suffix=".jpg",
             label_suffix=".png", list_file="lists/train.txt", classes="classes.yaml")

    Args:
        images, labels: folders below data_root (searched recursively where there is no list_file).
        img_suffix, label_suffix: what is appended to a stem.
        list_file: one stem per line (`town/0001`), relative to data_root; entries cannot leave the folders.
        classes: see `load_classes`; a file path is relative to data_root if it is not found as given.
        label_format: "ids", or "colors" for labels painted with the colours of the classes (others are ignored).
        unlabelled: a target domain; `labels` is not looked at.
    """

    def __init__(
        self,
        *,
        data_root: str | Path,
        classes: str | Path | Mapping | Sequence,
        images: str = "images",
        labels: str = "labels",
        img_suffix: str = ".png",
        label_suffix: str = ".png",
        list_file: str = "",
        label_format: str = "ids",
        ignore_index: int | None = None,
        **kwargs: Any,
    ) -> None:
        if label_format not in ("ids", "colors"):
            raise ValueError(f"FolderDataset: label_format must be 'ids' or 'colors', got {label_format!r}")
        if isinstance(classes, (str, Path)) and not Path(classes).is_file():
            classes = Path(data_root) / classes
        self.classes = load_classes(classes)
        self.label_format = label_format
        if label_format == "colors" and not self.classes.colors:
            raise DataError("FolderDataset: label_format='colors' needs a colour for each class")
        if ignore_index is None:
            ignore_index = 255 if self.classes.ignore_index is None else self.classes.ignore_index
        if 0 <= ignore_index < len(self.classes.names):
            raise ValueError(
                f"FolderDataset: ignore_index {ignore_index} is one of the {len(self.classes.names)} classes; "
                "choose an id outside of them (65535 for more than 255 classes)"
            )
        metainfo: dict[str, Any] = dict(classes=self.classes.names)
        if self.classes.colors:
            metainfo["palette"] = [list(color) for color in self.classes.colors]
        super().__init__(
            data_root=data_root,
            data_prefix=dict(img_path=images, seg_map_path=labels),
            ann_file=list_file,
            img_suffix=img_suffix,
            seg_map_suffix=label_suffix,
            metainfo=metainfo,
            ignore_index=ignore_index,
            **kwargs,
        )

    def label_info(self) -> dict:
        if self.label_format == "colors":
            return dict(label_colors=self.classes.colors)
        return dict(id_map=self.classes.id_map) if self.classes.id_map is not None else {}
