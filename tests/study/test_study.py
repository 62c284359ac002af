"""`pipa study` as a user runs it: killed and started again, it ends with the numbers it would have had."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("mmseg")

import pipa.toy
from pipa.commands import cli
from pipa.mmseg.run.study_run import run_once
from pipa.study.definition import read_study
from pipa.study.progress import time_left
from pipa.study.results import summary
from pipa.study.runner import locked
from pipa.study.statistics import scores_on_test
from pipa.study.worker import STOPPED, main

ITERATIONS = 8
SETTINGS = {
    "train_cfg.max_iters": ITERATIONS,
    "train_cfg.val_interval": 4,
    "param_scheduler.0.end": 4,
    "param_scheduler.1.begin": 4,
    "param_scheduler.1.end": ITERATIONS,
    "train_dataloader.batch_size": 2,
    "train_dataloader.dataset.min_pixels": 10,
    "default_hooks.checkpoint.interval": 1,
    "pipa.patch_warmup": 2,
    "pipa.gradient_interval": 3,
    "target_dataloader.batch_size": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    pipa.toy.write(root, train=6, val=2, height=96, width=128)
    return root


@pytest.fixture
def definition(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPA_DATA", str(data))
    methods = {"source-only": dict(adapt=False), "PiPa": {}}
    content = dict(config="toy_pipa", score=dict(evaluations=2), test=True, methods=methods, settings=SETTINGS)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_numbers(
    definition: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read_study(definition)
    expected = []
    for run in study.runs:  # uninterrupted, in this process
        torch.rand(3)
        result = run_once(asdict(run), tmp_path / "straight" / run.folder, test=True)
        assert result is not None
        expected.append(summary(run, result, 2))
    out = tmp_path / "out"
    command = ["study", str(definition), "--out", str(out), "--data-root", str(data), "--jobs", "2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "pipa", *command], stdout=log, stderr=log)
    folders = [out / "runs" / run.folder for run in study.runs]
    wait_for(lambda: all(list(folder.glob("iter_[1-7].pth")) for folder in folders), process)
    process.kill()
    process.wait()
    workers = [int((folder / ".lock").read_text()) for folder in folders]
    wait_for(lambda: not any(map(alive, workers)))
    assert not (out / "results.json").exists()
    assert all(list(folder.glob("*.pth")) for folder in folders)

    assert cli.main(command) == 0
    content = json.loads((out / "results.json").read_text())
    found = {run["method"]: run for run in content["runs"]}
    assert found["PiPa"]["log"]["grad_norm_source"]["iteration"] == [3, 6]  # though lines come every 50 iterations
    for entry in expected:
        assert without_time(found[entry["method"]]) == without_time(entry)
        # Test and validation data of the toy pair are one: two doors to one number.
        for model, key in (("student", "mIoU"), ("teacher", "teacher_mIoU")):
            assert scores_on_test(content, entry["method"], model)[0] == pytest.approx(
                entry["curve"].get(key, entry["curve"]["mIoU"])[-1], abs=0.006
            )
    assert not list(out.rglob("*.pth")), "checkpoints of finished runs stay"
    assert (out / "forest.svg").is_file()
    assert "| PiPa |" in (out / "tables.md").read_text()

    # Everything is there: nothing is trained again.
    before = (out / "results.json").read_text()
    assert cli.main(command) == 0
    assert (out / "results.json").read_text() == before
    capsys.readouterr()
    # Numbers of other settings never mix, not in other seeds of a method nor in methods that nobody asks for now.
    for more in ([], ["--seeds", "1"], ["--methods", "PiPa", "--seeds", "1"]):
        assert cli.main([*command, *more, "--iterations", "4"]) == 1
        assert "source-only, seed 0 was made with iterations None, but the study says 4" in capsys.readouterr().err
    assert (out / "results.json").read_text() == before


@pytest.mark.slow
def test_a_method_starts_from_the_weights_of_another(
    definition: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where those are gone, and after a kill; nothing but numbers stays."""
    content = yaml.safe_load(definition.read_text())
    content["methods"] = {"source-only": dict(adapt=False), "warm": dict(start="source-only")}
    definition.write_text(yaml.safe_dump(content, sort_keys=False))
    first, second = read_study(definition).runs
    straight = tmp_path / "straight"
    assert run_once(asdict(first), straight / "a") is not None
    weights = str(straight / "a" / f"iter_{ITERATIONS}.pth")
    result = run_once(asdict(second), straight / "b", test=True, weights=weights)
    assert result is not None
    expected = summary(second, result, 2)
    cold = run_once(asdict(second), straight / "c", test=True)
    assert cold is not None
    assert summary(second, cold, 2)["curve"] != expected["curve"]

    out = tmp_path / "out"
    command = ["study", str(definition), "--out", str(out), "--data-root", str(data), "--jobs", "2"]
    assert cli.main([*command, "--methods", "source-only"]) == 0
    assert list((out / "runs" / "source_only_seed0").glob("*.pth"))  # somebody has yet to start from them
    shutil.rmtree(out / "runs")
    before = json.loads((out / "results.json").read_text())["runs"]
    with (tmp_path / "log").open("wb") as log:
        wanted = [*command, "--methods", "warm"]
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "pipa", *wanted], stdout=log, stderr=log)
    folder = out / "runs" / "warm_seed0"
    wait_for(lambda: bool(list(folder.glob("iter_[1-7].pth"))), process)
    assert list((out / "runs" / "source_only_seed0").glob("*.pth"))  # trained again, and kept while it is needed
    process.kill()
    process.wait()
    wait_for(lambda: not alive(int((folder / ".lock").read_text())))
    capsys.readouterr()
    assert cli.main(command) == 0
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert runs[0] == before[0]
    assert without_time(runs[1]) == without_time(expected)
    assert runs[1]["settings"]["start"] == "source-only"
    assert not list(out.rglob("*.pth"))


@pytest.mark.slow
def test_methods_of_one_seed_start_from_one_network(definition: Path, tmp_path: Path) -> None:
    still = {"optim_wrapper.optimizer.lr": 0.0, "train_cfg.max_iters": 1, "train_cfg.val_interval": 1}
    states = []
    for run in read_study(definition).runs:
        torch.rand(5)
        wanted = {**asdict(run), "settings": {**run.settings, **still}}
        assert run_once(wanted, tmp_path / run.folder) is not None
        states.append(torch.load(tmp_path / run.folder / "iter_1.pth", weights_only=False)["state_dict"])
    names = [name for name in states[0] if name.endswith(("weight", "bias"))]
    assert len(names) > 50
    assert all(torch.equal(states[0][name], states[1][name]) for name in names)


@pytest.mark.slow
def test_a_network_that_does_not_fit_is_no_start(definition: Path, tmp_path: Path) -> None:
    """mmengine would load what fits, and train the rest from its first values."""
    first, second = read_study(definition).runs
    assert run_once(asdict(first), tmp_path / "a") is not None
    weights = tmp_path / "a" / f"iter_{ITERATIONS}.pth"
    state = torch.load(weights, weights_only=False)
    del state["state_dict"]["decode_head.conv_seg.bias"]
    torch.save(state, tmp_path / "other.pth")
    said = (
        r"other\.pth: expected all \d+ weights .* got \d+; the first that is missing .* is decode_head\.conv_seg\.bias"
    )
    with pytest.raises(ValueError, match=said):
        run_once(asdict(second), tmp_path / "b", weights=str(tmp_path / "other.pth"))
    given = replace(second, settings={**second.settings, "load_from": str(tmp_path / "other.pth")})
    with pytest.raises(ValueError, match=said):
        run_once(asdict(given), tmp_path / "c")


@pytest.mark.slow
def test_an_error_of_a_training_is_told(definition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    command = ["study", str(definition), "--out", str(tmp_path / "out"), "--data-root", str(tmp_path / "empty")]
    assert cli.main([*command, "--methods", "source-only", "--jobs", "1"]) == 1
    said = capsys.readouterr().err
    assert "source-only, seed 0: the training ended with code 1" in said
    assert str(tmp_path / "out" / "runs" / "source_only_seed0" / "output.txt") in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "PiPaa"], "mine has no 'PiPaa', only 'source-only', 'PiPa'"),
        (["--jobs", "0"], "--jobs: expected 1 or more, got 0"),
        (["--seeds", "-1"], "--seeds: expected 0 or more, got [-1]"),
        (["--seeds", "3", "3"], "--seeds: expected different seeds, got [3, 3]"),
        (["--data-root", "nowhere"], "--data-root: expected a folder, got 'nowhere'"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], said: str, definition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", str(definition), "--out", str(tmp_path / "out"), *arguments]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tables.md", "forest.svg", "curves.svg"])
def test_tables_and_plots_of_others_are_kept(
    name: str, definition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("my own")
    assert cli.main(["study", str(definition), "--out", str(tmp_path / "out")]) == 1
    assert f"{tmp_path / 'out' / name}: is there and no table or plot of a study" in capsys.readouterr().err
    assert (tmp_path / "out" / name).read_text() == "my own"
    assert [file.name for file in (tmp_path / "out").iterdir()] == [name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(score=dict(evaluations=3)), "PiPa: toy_pipa: the score is the mean of the last 3 evaluations, but the"),
        (
            dict(settings={**SETTINGS, "test_dataloader": None}),
            "toy_pipa: expected a test_dataloader, as the study says",
        ),
        (
            dict(settings={**SETTINGS, "test_evaluator": dict(_delete_=True, type="PseudoLabelMetric")}),
            "PiPa: toy_pipa: test_evaluator: expected a DomainIoUMetric",
        ),
        (
            dict(settings={**SETTINGS, "val_evaluator": dict(type="IoUMetric")}),
            "PiPa: toy_pipa: val_evaluator: expected a DomainIoUMetric without prefix, whose mIoU and IoU.CLASS make "
            "the score, got IoUMetric",
        ),
        (
            dict(settings={**SETTINGS, "custom_hooks": [dict(type="EarlyStoppingHook", monitor="mIoU")]}),
            "custom_hooks: expected trainings of one length, got EarlyStoppingHook",
        ),
        (
            dict(methods=dict(PiPa={}, late=dict(settings={"train_cfg.max_itres": 5}))),
            "late: toy_pipa: train_cfg: unknown setting 'max_itres'; did you mean 'max_iters'?",
        ),
    ],
)
def test_what_cannot_end_with_a_score_does_not_begin(
    change: dict[str, Any], said: str, definition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {**yaml.safe_load(definition.read_text()), "methods": dict(PiPa={}), **change}
    definition.write_text(yaml.safe_dump(content, sort_keys=False))
    assert cli.main(["study", str(definition), "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


def test_one_study_at_a_time_writes_a_results_file(
    definition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["study", str(definition), "--results", str(tmp_path / "numbers.json")]
    (tmp_path / "a").mkdir()
    with locked(tmp_path / "a", tmp_path / "numbers.json"):
        assert cli.main([*common, "--out", str(tmp_path / "b")]) == 1
    assert "numbers.json: another `pipa study` is at work here; wait for it or give another --results" in (
        capsys.readouterr().err
    )


def test_a_training_ends_whose_parent_is_gone_before_it_has_begun(definition: Path, tmp_path: Path) -> None:
    """Its start takes seconds, in which the study may be killed."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-m", "pipa.study.worker", str(tmp_path), str(gone.pid)]
    (tmp_path / "run.json").write_text("{}")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it waits here, for ever
        assert subprocess.run(command, timeout=120).returncode == STOPPED


def test_a_result_that_came_meanwhile_is_taken(tmp_path: Path) -> None:
    """The training of a study that was killed ends half a second later, and may have come to its end."""
    (tmp_path / "run.json").write_text(json.dumps(dict(keep_checkpoints=False)))
    (tmp_path / "result.json").write_text("{}")
    assert main(tmp_path, os.getppid()) == 0
    assert (tmp_path / "result.json").read_text() == "{}"


@pytest.mark.slow
def test_a_file_of_ones_own_that_changes_is_another_training(definition: Path, data: Path, tmp_path: Path) -> None:
    own = definition.parent / "mine.py"
    text = '_base_ = ["toy_pipa"]\ndata_root = "nowhere"\n'
    own.write_text(text)
    content = {**yaml.safe_load(definition.read_text()), "config": "mine.py", "methods": {"a": dict(adapt=False)}}
    definition.write_text(yaml.safe_dump(content, sort_keys=False))
    command = ["study", str(definition), "--out", str(tmp_path / "out"), "--data-root", str(data), "--seeds"]
    assert cli.main([*command, "0"]) == 0  # --data-root reaches the config's own variable too
    own.write_text(text + "optim_wrapper = dict(optimizer=dict(lr=1e-5))\n")
    assert cli.main([*command, "1"]) == 1
    log = (tmp_path / "out" / "runs" / "a_seed1" / "output.txt").read_text()
    assert "mine.py: expected the config that finished runs of 'a' were trained with, got another" in log
    own.write_text(text + "# other words\n")
    assert cli.main([*command, "1"]) == 0


def test_time_left(definition: Path) -> None:
    first, second = read_study(definition).runs
    done = [dict(method="source-only", seconds=10.0), dict(method="PiPa", seconds=30.0)]
    half = dict(iteration=5, iterations=10, seconds=20.0)
    assert time_left([second], {first: half}, done, 1) == pytest.approx(35.0)
    assert time_left([second], {first: half}, done, 2) == pytest.approx(30.0)
    assert time_left([second], {first: half}, [], 1) == pytest.approx(20.0 + 40.0)
    assert time_left([first, second], {}, [], 1) is None
    after = replace(second, start=first.method)  # cannot begin before the first one has ended
    assert time_left([after], {first: half}, done, 2) == pytest.approx(5.0 + 30.0)


def without_time(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "seconds"}


def wait_for(condition: Any, process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, "waited for four minutes"
        assert process is None or process.poll() is None, "the study ended before it was killed"
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_signal_saves_and_stops(definition: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["study", str(definition), "--out", str(out), "--data-root", str(data), "--methods", "source-only"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "pipa", *command], stdout=log, stderr=log)
    folder = out / "runs" / "source_only_seed0"
    wait_for(lambda: (folder / "progress.json").is_file(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 130
    assert list(folder.glob("iter_*.pth"))
    assert not (out / "results.json").exists()
