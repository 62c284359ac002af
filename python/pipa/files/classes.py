"""Class tables: names, colours and raw ids of the classes, from a YAML or JSON file. Ambiguous tables are refused."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipa.files.images import DataError
from pipa.files.plain import read_plain


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


_KEYS = ("classes", "names", "colors", "id_map", "ignore_index")
_ENTRY_KEYS = ("name", "id", "color", "ids")


def load_classes(source: str | Path | Mapping | Sequence) -> Classes:
    """Classes from a YAML or JSON file, a mapping with the same keys, or a list of names.

    Keys: `classes` (a list of names, or of mappings with `name` and optionally `id`, `color`, `ids` (raw ids)), or
    `names`; `colors` ([R, G, B] per class); `id_map` (raw id -> train id); `ignore_index`. A file may hold other keys
    (notes, statistics); they are not read.

    Raises:
        DataError: the table is broken, says one thing twice, or leaves open what is meant; names the entries.
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
    if isinstance(source, Sequence) and not isinstance(source, str):
        source = dict(classes=source)
    if not isinstance(source, Mapping):
        raise DataError(f"{where}: expected a mapping with the keys {sorted(_KEYS)} or a list of names")
    _spelling(where, source, _KEYS)
    if "classes" in source and "names" in source:
        raise DataError(f"{where}: gives the classes twice, under 'classes' and under 'names'; keep one")
    entries = source.get("classes", source.get("names"))
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise DataError(f"{where}: expected a non-empty list under 'classes' or 'names', found {entries!r}")
    entries = _in_order(where, [e if isinstance(e, Mapping) else dict(name=e) for e in entries])
    names = _names(where, entries)
    colors = _colors(where, source, entries, names)
    ignore = source.get("ignore_index")
    if ignore is not None and not _is_id(ignore, -1):
        raise DataError(f"{where}: ignore_index must be an integer -1..65535, found {ignore!r}")
    return Classes(names, colors, _id_map(where, source, entries, names, ignore), ignore)


def _spelling(where: str, mapping: Mapping, known: Sequence[str]) -> None:
    twins = {"classes": "names", "names": "classes"}
    known = [name for name in known if twins.get(name) not in mapping]
    for key in mapping:
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.82)
        if near and key not in known and near[0] not in mapping:
            raise DataError(f"{where}: unknown key {key!r}; did you mean {near[0]!r}?")


def _is_id(value: Any, low: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= 65535


def _in_order(where: str, entries: list[Mapping]) -> list[Mapping]:
    """The entries by their train ids, where they give them."""
    given = [entry for entry in entries if "id" in entry]
    if not given:
        return entries
    if len(given) < len(entries):
        raise DataError(f"{where}: {len(given)} of the {len(entries)} classes have an 'id'; give it for all or none")
    for entry in entries:
        if not _is_id(entry["id"]):
            raise DataError(f"{where}: a class id is an integer, found {entry['id']!r} for {entry.get('name')!r}")
    entries = sorted(entries, key=lambda entry: entry["id"])
    ids = [entry["id"] for entry in entries]
    for first, second in pairwise(entries):
        if first["id"] == second["id"]:
            both = f"{first.get('name')!r} and {second.get('name')!r}"
            raise DataError(f"{where}: {both} have the same id {first['id']}")
    if ids != list(range(len(ids))):
        raise DataError(f"{where}: class ids must be 0..{len(ids) - 1} without gaps, found {ids}")
    return entries


def _names(where: str, entries: Sequence[Mapping]) -> tuple[str, ...]:
    places: dict[str, int] = {}
    for place, entry in enumerate(entries):
        _spelling(f"{where}: class {place}", entry, _ENTRY_KEYS)
        if "name" not in entry:
            raise DataError(f"{where}: class {place} has no 'name'")
        name = entry["name"]
        if not isinstance(name, str) or not name.strip():
            hint = "; YAML reads yes, no, on, off, null and numbers as values: put the name in quotes"
            raise DataError(f"{where}: the name of class {place} is {name!r}, expected text{hint}")
        if name.strip() in places:
            raise DataError(
                f"{where}: class names must differ, found {name!r} for class {places[name.strip()]} and class {place}"
            )
        places[name.strip()] = place
    return tuple(str(entry["name"]) for entry in entries)


def _colors(
    where: str, source: Mapping, entries: Sequence[Mapping], names: Sequence[str]
) -> tuple[tuple[int, int, int], ...]:
    own = [entry["color"] for entry in entries if "color" in entry]
    if own and "colors" in source:
        raise DataError(f"{where}: gives colours twice, under 'colors' and as 'color' of the classes; keep one")
    colors = source.get("colors", own)
    if not isinstance(colors, Sequence) or isinstance(colors, str):
        raise DataError(f"{where}: expected a list of colours under 'colors', found {colors!r}")
    if colors and len(colors) != len(names):
        raise DataError(f"{where}: expected a colour for each of the {len(names)} classes, found {len(colors)}")
    found: dict[tuple[int, int, int], str] = {}
    for name, color in zip(names, colors, strict=False):
        valid = isinstance(color, Sequence) and len(color) == 3 and all(_is_id(c) and c <= 255 for c in color)
        if not valid:
            raise DataError(f"{where}: a colour is three integers 0..255, found {color!r} for {name!r}")
        key = (color[0], color[1], color[2])
        if key in found:
            raise DataError(f"{where}: {found[key]!r} and {name!r} have the same colour {list(color)}")
        found[key] = name
    return tuple(found)


def _id_map(
    where: str, source: Mapping, entries: Sequence[Mapping], names: Sequence[str], ignore: int | None
) -> dict[int, int] | None:
    lacking = [entry["name"] for entry in entries if "ids" not in entry]
    own = len(lacking) < len(entries)
    if own and lacking:  # meant so where a label holds colours; in one of ids no pixel can be of such a class
        others = f", nor have {len(lacking) - 1} more" if len(lacking) > 1 else ""
        warnings.warn(
            f"{where}: the class {lacking[0]!r} has no 'ids'{others}, but others have: no label of ids can hold it",
            UserWarning,
            stacklevel=2,
        )
    if own and source.get("id_map") is not None:
        raise DataError(f"{where}: gives raw ids twice, under 'id_map' and as 'ids' of the classes; keep one")
    found: dict[int, int] = {}
    for old, new in _mapped(where, source.get("id_map"), entries, own):
        if not 0 <= old <= 65535 or not (0 <= new < len(names) or new in (-1, 255, ignore)):
            raise DataError(
                f"{where}: id_map sends {old} to {new}; expected ids 0..65535 to go to 0..{len(names) - 1} or ignore"
            )
        if old in found:
            a, b = (repr(names[i]) if 0 <= i < len(names) else f"ignore ({i})" for i in (found[old], new))
            raise DataError(f"{where}: the raw id {old} stands twice, for {a} and for {b}")
        found[old] = new
    if (own or source.get("id_map") is not None) and not any(0 <= new < len(names) for new in found.values()):
        what = "the 'ids' of the classes" if own else f"id_map {source['id_map']}"
        raise DataError(
            f"{where}: {what}: expected a raw id for one class at least, found none, so every pixel would be ignored; "
            "leave it out where the labels hold train ids"
        )
    return found if own or source.get("id_map") is not None else None


def _mapped(where: str, id_map: Any, entries: Sequence[Mapping], own: bool) -> Iterator[tuple[int, int]]:
    """Pairs of raw id and train id, as the file has them."""
    if own:
        for place, entry in enumerate(entries):
            ids = entry.get("ids", ())
            if isinstance(ids, str) or not isinstance(ids, Sequence) or not all(_is_id(i) for i in ids):
                raise DataError(
                    f"{where}: 'ids' of {entry['name']!r} must be a list of integers 0..65535, found {ids!r}"
                )
            yield from ((raw, place) for raw in ids)
        return
    if id_map is None:
        return
    if not isinstance(id_map, Mapping):
        raise DataError(f"{where}: id_map must map raw ids to train ids, found {id_map!r}")
    for old, new in id_map.items():
        try:
            yield _whole(old), _whole(new)
        except ValueError:
            raise DataError(f"{where}: id_map sends {old!r} to {new!r}; expected integers") from None


def _whole(value: Any) -> int:
    """An integer, also written as text (the keys of JSON); ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError
    return int(value)
