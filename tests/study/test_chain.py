"""Which trainings of a chain are to do, wait, and may lose their weights: on folders as trainings leave them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipa.study.chain import folder_of, is_needed, keep, next_ready, release, to_do, weights_of
from pipa.study.definition import Run, Study, read_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """c starts from b, and b from a."""
    methods = dict(a={}, b=dict(start="a"), c=dict(start="b"), d={})
    content: dict[str, Any] = dict(config="toy_pipa", score=dict(evaluations=1), methods=methods)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return read_study(tmp_path / "mine.yaml")


def leave(run: Run, out: Path, iteration: int = 8, result: bool = True, **more: Any) -> Path:
    """What a training has in its folder."""
    folder = folder_of(run, out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"run": asdict(run), "asked": False, **more}))
    (folder / f"iter_{iteration}.pth").touch()
    if result:
        (folder / "result.json").write_text("{}")
    return folder


def names(runs: list[Run]) -> str:
    return "".join(run.method for run in runs)


def test_a_chain_is_trained_again_from_its_first_link(study: Study, tmp_path: Path) -> None:
    """Also where the numbers of a and b are there: c needs b's weights, and so a's."""
    a, b, c, _ = study.runs
    finished = {("a", 0), ("b", 0), ("d", 0)}
    pending = to_do(study, finished, tmp_path)
    assert names(pending) == "abc"
    for run, after in zip((a, b, c), ("bc", "c", ""), strict=True):
        assert next_ready(pending, study, tmp_path) is run
        waiting = {(one.method, 0) for one in pending}
        assert is_needed(run, study, finished, waiting) == (run is not c)
        pending.remove(run)
        assert names(pending) == after
        leave(run, tmp_path)
        finished.add((run.method, 0))
        release(study, finished, {(one.method, 0) for one in pending}, tmp_path)
        left = {folder.name for folder in (tmp_path / "runs").iterdir()}
        assert left == {"a": {"a_seed0"}, "b": {"b_seed0"}, "c": set()}[run.method]


def test_a_run_on_its_way_needs_no_start(study: Study, tmp_path: Path) -> None:
    _, b, _, _ = study.runs
    leave(b, tmp_path, iteration=4, result=False)
    pending = to_do(study, {("a", 0), ("d", 0)}, tmp_path)
    assert names(pending) == "bc"
    assert next_ready(pending, study, tmp_path) is b


def test_weights_wait_for_a_method_that_was_not_asked_for(study: Study, tmp_path: Path) -> None:
    folder = leave(study.runs[0], tmp_path)
    release(study.only(["a"]), {("a", 0)}, (), tmp_path)
    assert folder.is_dir()


@pytest.mark.parametrize("more", [{"asked": True}, {"asked": True, "keep_checkpoints": True}])
def test_what_was_asked_for_stays(study: Study, tmp_path: Path, more: dict[str, Any]) -> None:
    """And what a version without this entry has kept, which it did only where it was asked to."""
    a, _, _, d = study.runs
    kept, older = leave(a, tmp_path, **more), leave(d, tmp_path)
    (older / "run.json").write_text(json.dumps({"run": asdict(d), "keep_checkpoints": True}))
    release(study, {("a", 0), ("b", 0), ("c", 0), ("d", 0)}, (), tmp_path)
    assert kept.is_dir()
    assert older.is_dir()


def test_weights_are_asked_for_later(study: Study, tmp_path: Path) -> None:
    a, b, *_ = study.runs
    folder, unfinished = leave(a, tmp_path), leave(b, tmp_path, result=False)
    keep(study, tmp_path)
    assert not json.loads((unfinished / "run.json").read_text())["asked"]  # its start says so
    release(study, {("a", 0), ("b", 0), ("c", 0), ("d", 0)}, (), tmp_path)
    assert weights_of(a, tmp_path) == folder / "iter_8.pth"


@pytest.mark.parametrize("name", ["iter_best.pth", "iter_16 (1).pth", "best_mIoU_iter_16.pth"])
def test_other_files_are_no_checkpoints(study: Study, tmp_path: Path, name: str) -> None:
    folder = leave(study.runs[0], tmp_path)
    (folder / name).touch()
    assert weights_of(study.runs[0], tmp_path) == folder / "iter_8.pth"
    (folder / "iter_8.pth").unlink()
    assert weights_of(study.runs[0], tmp_path) is None


def test_only_last_weights_of_the_same_run_count(study: Study, tmp_path: Path) -> None:
    a, *_ = study.runs
    folder = leave(a, tmp_path, iteration=4, result=False)
    assert weights_of(a, tmp_path) is None
    leave(a, tmp_path, iteration=12)
    assert weights_of(a, tmp_path) == folder / "iter_12.pth"
    other = {**asdict(a), "iterations": 4}
    (folder / "run.json").write_text(json.dumps({"run": other}))
    with pytest.raises(ValueError, match=r"a_seed0: holds a run of other settings; remove it or give another --out"):
        weights_of(a, tmp_path)
