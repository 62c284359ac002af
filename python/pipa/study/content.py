"""What a study's file says, with what it takes over from another study, and how what it says is refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipa.files.plain import SUFFIXES, read_plain

SHIPPED = Path(__file__).resolve().parent / "definitions"
SHARED = ("config", "data", "score", "settings", "iterations", "test")
KEYS = ("title", "like", "seeds", "baseline", "methods", "grid", *SHARED)


def place_of(study: str | Path) -> Path:
    """The file of a study, or of a shipped one by its name."""
    path = Path(study)
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        return path
    names = [p.stem for p in SHIPPED.glob("*.yaml")]
    if path.name not in names:
        near = difflib.get_close_matches(path.name, names, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"no study named {str(study)!r}{hint} (`pipa study --list` shows the shipped ones)")
    return SHIPPED / f"{path.name}.yaml"


def content_of(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """What a file says, with what it takes over from the study that it is ``like``.

    above: the files that lead here.

    Raises:
        ValueError: names the file, the key, what was expected and what came.
    """
    content = read_plain(path)
    check(isinstance(content, Mapping), path, "a mapping of " + ", ".join(KEYS), content)
    known(content, KEYS, path)
    if content.get("like") is None:
        return dict(content)
    check(isinstance(content["like"], str), f"{path}: like", "the name or file of a study", content["like"])
    try:
        other = place_of(content["like"])
    except ValueError as error:
        raise ValueError(f"{path}: like: {error}") from None
    other = (path.parent / other).resolve() if other.parent != SHIPPED else other
    check(path.resolve() not in above, f"{path}: like", "a study that is not like this one", content["like"])
    taken = content_of(other, [*above, path.resolve()])
    if Path(str(taken.get("config", ""))).suffix:
        taken["config"] = str((other.parent / taken["config"]).resolve())
    for key in ("settings", "score"):
        theirs, own = taken.get(key) or {}, content.get(key) or {}
        for file, value in ((other, theirs), (path, own)):
            check(isinstance(value, Mapping), f"{file}: {key}", "a mapping", value)
        taken[key] = {**theirs, **own}
    joined = {key: taken[key] for key in ("settings", "score")}
    return {**{key: taken[key] for key in SHARED if key in taken}, **content, **joined}


def natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check(holds: bool, place: object, expected: str, came: Any) -> None:
    if not holds:
        raise ValueError(f"{place}: expected {expected}, got {'nothing' if came is None else repr(came)}")


def known(given: Mapping[str, Any], keys: Sequence[str], place: object) -> None:
    for key in given:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(keys)}"
            raise ValueError(f"{place}: unknown key {key!r}; {hint}")
