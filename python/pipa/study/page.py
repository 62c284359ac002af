"""Numbers of a page that come from the studies' JSON files, between markers that Markdown does not show.

<!-- study toy_terms scores -->  ... <!-- /study -->                          a table
<!-- study toy_terms differences: self-training -->  ... <!-- /study -->      against another baseline
<!-- study toy_terms gain: PiPa | self-training | teacher -->...<!-- /study -->    a phrase, inside of a sentence
<!-- study toy_terms gain: PiPa | self-training | teacher | test -->...<!-- /study -->    the same of the test data
"""

from __future__ import annotations

import re
from pathlib import Path

from pipa.study.inside import inside
from pipa.study.results import read_results
from pipa.study.tables import class_table, difference_table, gain, rule, score_table, table_on_test

MARKER = re.compile(r"<!-- study (\S+) (\w+)(?:: (.*?))? -->(.*?)<!-- /study -->", re.DOTALL)


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
        path = file_of(study, folder)
        if not path.is_file():
            raise ValueError(f"marker {found[0].splitlines()[0]!r}: there is no {folder / study}.json, nor {path}")
        results = read_results(path)
        head = found[0][: found.start(4) - found.start()]
        if kind == "gain":
            parts = [part.strip() for part in (argument or "").split("|")]
            if len(parts) not in (3, 4) or parts[3:] not in ([], ["test"]):
                raise ValueError(f"marker {head!r}: expected gain: METHOD | BASELINE | student or teacher [| test]")
            return f"{head}{gain(results, *parts)}<!-- /study -->"
        makers = {
            "rule": lambda: rule(results),
            "scores": lambda: score_table(results),
            "differences": lambda: difference_table(results, argument),
            "test": lambda: table_on_test(results, argument),
            "classes": lambda: class_table(results, argument),
            "inside": lambda: inside(results),
        }
        if kind not in makers:
            raise ValueError(f"marker {head!r}: expected one of {', '.join(makers)}, gain; got {kind!r}")
        return f"{head}\n\n{makers[kind]()}\n\n<!-- /study -->"

    return MARKER.sub(made, text)


def studies_of(text: str) -> list[str]:
    """Names of the studies that a page shows, in the order of their first place."""
    return list(dict.fromkeys(found[1] for found in MARKER.finditer(text)))


def shows(text: str, plot: str) -> bool:
    """Whether a page shows the picture ``plot``, a file name such as ``toy_terms_forest.svg``, of whatever folder."""
    return re.search(rf"\]\((?:\S*/)?{re.escape(plot)}\)", text) is not None
