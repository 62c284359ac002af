"""Numbers of a page that come from the studies' JSON files, between markers that Markdown does not show.

<!-- study toy_terms scores -->  ... <!-- /study -->                          a table
<!-- study toy_weights grid -->  ... <!-- /study -->                        a grid of two settings, one down, one across
<!-- study toy_terms differences: self-training -->  ... <!-- /study -->      against another baseline
<!-- study toy_terms gain: PiPa | self-training | teacher -->...<!-- /study -->    a phrase, inside of a sentence
<!-- study toy_terms gain: PiPa | self-training | teacher | test -->...<!-- /study -->    the same of the test data
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipa.study.inside import inside
from pipa.study.results import read_results
from pipa.study.statistics import MODELS
from pipa.study.tables import class_table, difference_table, gain, grid_table, methods, rule, score_table, table_on_test

MARKER = re.compile(r"<!-- study (\S+) (\w+)(?:: (.*?))? -->(.*?)<!-- /study -->", re.DOTALL)
MARK = re.compile(r"<!--\s*(/?)\s*study\b.*?-->", re.DOTALL)
BEGIN = re.compile(r"<!-- study \S+ \w+(: .*?)? -->", re.DOTALL)
END = "<!-- /study -->"
# Of each kind of place, whether it may name a baseline.
KINDS = {
    **dict.fromkeys(("rule", "scores", "grid", "inside"), False),
    **dict.fromkeys(("differences", "test", "classes"), True),
}


def file_of(study: str, folder: Path) -> Path:
    """``folder/NAME.json``, or else ``folder/NAME/results.json``, which is where `pipa study` leaves it."""
    path = folder / f"{study}.json"
    return path if path.is_file() else folder / study / "results.json"


def fill(text: str, folder: Path) -> str:
    """The page with every marked place made anew from ``folder/NAME.json``, or from ``folder/NAME/results.json``.

    Raises:
        ValueError: a marker that says something else, or names a file that is no result of a study.
    """

    def made(found: re.Match[str]) -> str:
        study, kind, argument = found[1], found[2], found[3]
        head = found[0][: found.start(4) - found.start()]
        path = file_of(study, folder)
        if not path.is_file():
            raise ValueError(f"marker {head!r}: there is no {folder / study}.json, nor {path}")
        results = read_results(path)
        if kind == "gain":
            return f"{head}{phrase(results, head, argument)}{END}"
        if kind not in KINDS:
            raise ValueError(f"marker {head!r}: expected one of {', '.join(KINDS)}, gain; got {kind!r}")
        if argument is not None and not KINDS[kind]:
            raise ValueError(f"marker {head!r}: expected {kind} alone, got {argument!r} behind it")
        if argument is not None:
            check_method(results, head, argument)
        makers: dict[str, Callable[..., str]] = {
            "rule": rule,
            "scores": score_table,
            "grid": grid_table,
            "differences": difference_table,
            "test": table_on_test,
            "classes": class_table,
            "inside": inside,
        }
        given = (argument,) if KINDS[kind] else ()
        return f"{head}\n\n{makers[kind](results, *given)}\n\n{END}"

    check_marks(text)
    return MARKER.sub(made, text)


def phrase(results: Mapping[str, Any], head: str, argument: str | None) -> str:
    """What stands at a `gain` marker."""
    method, baseline, model, *on = [part.strip() for part in (argument or "").split("|")] + [""] * 3
    on = [part for part in on if part]
    if not baseline or model not in MODELS or on not in ([], ["test"]):
        raise ValueError(f"marker {head!r}: expected gain: METHOD | BASELINE | student or teacher [| test]")
    for name in (method, baseline):
        check_method(results, head, name)
    return gain(results, method, baseline, model, *on)


def check_method(results: Mapping[str, Any], head: str, name: str) -> None:
    there = methods(results)
    if name not in there:
        raise ValueError(f"marker {head!r}: expected a method with a finished run, {' | '.join(there)}, got {name!r}")


def check_marks(text: str) -> None:
    """Refuse a place that is not closed, or begins with something else: text up to the next end would go."""
    begin = None
    for found in MARK.finditer(text):
        mark = found[0]
        if mark == END:
            if begin is None:
                raise ValueError(f"marker {mark!r}: expected a marker <!-- study NAME KIND --> before it, got none")
            begin = None
        elif begin is not None:
            raise ValueError(f"marker {begin!r}: expected {END} before the next marker, got {mark!r}")
        elif BEGIN.fullmatch(mark) is None:
            raise ValueError(f"marker {mark!r}: expected <!-- study NAME KIND --> or <!-- study NAME KIND: WHAT -->")
        else:
            begin = mark
    if begin is not None:
        raise ValueError(f"marker {begin!r}: expected {END} after it, got none")


def studies_of(text: str) -> list[str]:
    """Names of the studies that a page shows, in the order of their first place."""
    return list(dict.fromkeys(found[1] for found in MARKER.finditer(text)))


def shows(text: str, plot: str) -> bool:
    """Whether a page shows the picture ``plot``, a file name such as ``toy_terms_forest.svg``, of whatever folder."""
    return re.search(rf"\]\((?:\S*/)?{re.escape(plot)}\)", text) is not None
