"""Pages show the numbers of the studies' files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmseg")

from pipa.commands import cli
from pipa.study.page import MARKER, fill, shows
from pipa.study.results import read_results

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "docs" / "studies"
PAGES = [ROOT / "docs" / "results.md", ROOT / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_numbers_are_those_of_the_files(page: Path) -> None:
    text = page.read_text()
    assert MARKER.search(text), "no number of this page comes from a study"
    assert fill(text, STUDIES) == text, f"pipa study --tables {page.relative_to(ROOT)}"


def test_every_file_is_shown_and_whole() -> None:
    shown = "".join(page.read_text() for page in PAGES)
    for path in STUDIES.glob("*.json"):
        assert f"<!-- study {path.stem} " in shown
        results = read_results(path)
        for run in results["runs"]:
            assert len(run["curve"]["mIoU"]) >= results["evaluations"]
            last = run["curve"]["mIoU"][-results["evaluations"] :]
            assert run["mIoU"] == pytest.approx(sum(last) / len(last), abs=1e-3)
            assert run["settings"]
            assert run["versions"]


def test_every_plot_is_shown() -> None:
    """What no page shows is not kept."""
    text = "".join(page.read_text() for page in PAGES)
    assert [path.name for path in STUDIES.glob("*.svg") if not shows(text, path.name)] == []


def test_a_changed_number_changes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, folder = tmp_path / "results.md", tmp_path / "studies"
    shutil.copytree(STUDIES, folder)
    shutil.copy(PAGES[0], page)
    name = MARKER.search(page.read_text())[1]
    content = json.loads((folder / f"{name}.json").read_text())
    content["runs"][0]["mIoU"] = 12.3456
    (folder / f"{name}.json").write_text(json.dumps(content))
    assert cli.main(["study", "--tables", str(page), "--studies", str(folder)]) == 0
    changed = page.read_text()
    assert "12.3" in changed
    assert changed != PAGES[0].read_text()
    for plot in ("forest", "curves"):
        assert (folder / f"{name}_{plot}.svg").read_text().startswith("<?xml")
    (folder / name).mkdir()
    (folder / f"{name}.json").rename(folder / name / "results.json")  # where `pipa study` leaves it
    assert cli.main(["study", "--tables", str(page), "--studies", str(folder)]) == 0
    assert page.read_text() == changed
    again = re.sub(r"12\.3", "99.9", changed)
    assert fill(again, folder) == changed


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("<!-- study none scores --><!-- /study -->", "there is no"),
        ("<!-- study toy_terms sores --><!-- /study -->", "got 'sores'"),
        (
            "<!-- study toy_terms gain: PiPa --><!-- /study -->",
            "expected gain: METHOD | BASELINE | student or teacher [| test]",
        ),
        (
            "<!-- study toy_terms gain: PiPa | nobody | teacher --><!-- /study -->",
            "expected a method with a finished run",
        ),
        ("<!-- study toy_terms gain: PiPa | self-training | Teachers --><!-- /study -->", "student or teacher"),
        ("<!-- study toy_terms grid --><!-- /study -->", "toy_terms: expected a grid of two settings"),
        ("<!-- study toy_terms differences: nobody --><!-- /study -->", "expected a method with a finished run"),
        ("<!-- study toy_terms scores: PiPa --><!-- /study -->", "expected scores alone, got 'PiPa' behind it"),
        ("<!-- study toy_terms --><!-- /study -->", "expected <!-- study NAME KIND -->"),
        ("<!--study toy_terms rule--><!-- /study -->", "expected <!-- study NAME KIND -->"),
        (
            "<!-- study toy_terms rule -->\n\nwords\n\n<!-- study toy_terms scores --><!-- /study -->",
            "expected <!-- /study --> before the next marker",
        ),
        ("<!-- study toy_terms rule -->\n\nwords", "expected <!-- /study --> after it"),
        ("words <!-- /study -->", "before it, got none"),
        ("<!-- study toy_terms gain: PiPa | self-training | teacher | test --><!-- /study -->", "share no seed yet"),
        ("<!-- study toy_terms gain: PiPa | self-training | teacher | val --><!-- /study -->", "expected gain: METHOD"),
    ],
)
def test_a_wrong_marker_is_refused(marker: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        fill(marker, STUDIES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda content: content["runs"][0].pop("seed"),
            "x.json: runs.0: seed: expected a whole number, got 'nothing'",
        ),
        (lambda content: content["runs"][1].update(mIoU="ten"), "x.json: runs.1: mIoU: expected a number, got 'ten'"),
        (lambda content: content.update(runs={}), "x.json: runs: expected a list, got dict"),
        (lambda content: content.update(runs=[3]), "x.json: runs.0: expected a mapping, got 3"),
    ],
)
def test_a_broken_results_file_is_refused(change: Callable[[Any], Any], said: str, tmp_path: Path) -> None:
    content = json.loads((STUDIES / "camvid_terms.json").read_text())
    change(content)
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(said)):
        read_results(tmp_path / "x.json")
