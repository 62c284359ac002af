"""`pipa demo`: what it prints and writes, from made-up trainings and from short ones."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmseg")

from rich.console import Console

from pipa import toy
from pipa.commands import demo
from pipa.commands.cli import main
from pipa.commands.demo_training import METHODS, Outcome, scalars, show, train_one


def outcomes(*seeds: int) -> list[Outcome]:
    final = {f"IoU.{name}": 50.0 + i for i, name in enumerate(toy.CLASSES)} | {"mIoU": 54.0}
    adapted = final | {f"teacher/{name}": value + 1 for name, value in final.items()}
    teachers = {"self-training", "PiPa"}
    return [
        Outcome(m, seed, Path(), 1.0, {k: v + seed for k, v in (adapted if m in teachers else final).items()}, {})
        for seed in seeds
        for m in METHODS
    ]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_table_can_be_read_in_80_columns(seeds: tuple[int, ...]) -> None:
    text = io.StringIO()
    demo.print_table(outcomes(*seeds), list(METHODS), Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text.getvalue()
    words = [word for line in lines[:6] for word in line.replace("┃", " ").split()]
    assert words.count("PiPa") == 2
    assert words.count("training") == 2
    assert {"(teacher)", "oracle", "only"} <= set(words)
    assert ("± 1.0" in text.getvalue()) == (len(seeds) > 1)


def test_a_half_written_log_moves_the_bar_to_its_last_whole_line(tmp_path: Path) -> None:
    assert scalars(tmp_path) == []
    log = tmp_path / "now/vis_data/scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1.0, "step": 5}\n{"mIoU": 20.0, "step": 5}\n{"loss": 0.9, "st')
    assert [line["step"] for line in scalars(tmp_path)] == [5, 5]
    moved = {}

    class Bars:
        def update(self, task: object, **values: object) -> None:
            moved.update(values)

    show(Bars(), 0, tmp_path)  # type: ignore[arg-type]
    assert moved == {}  # the length of the training is not known yet
    (tmp_path / "plan.json").write_text('{"iterations": 9}')
    show(Bars(), 0, tmp_path)  # type: ignore[arg-type]
    assert moved == {"total": 9, "completed": 5, "note": "mIoU 20.0"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--iterations", "0"], "--iterations: expected 1 or more, got 0"),
        (["--iterations", "-3"], "--iterations: expected 1 or more, got -3"),
        (["--seeds", "0", "0"], "--seeds: expected numbers of 0 or more, each once, got [0, 0]"),
        (["--seeds", "-1"], "--seeds: expected numbers of 0 or more, each once, got [-1]"),
    ],
)
def test_arguments_that_train_nothing_or_twice(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("results.json", '{"study": "mine", "runs": []}', "is there and no result of a demo"),
        ("results.json", "no JSON", "is there and no result of a demo"),
        ("report.html", "<html>my own</html>", "is there and no page of pipa"),
    ],
)
def test_files_of_others_are_kept(
    name: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["demo", "--out", str(tmp_path), "--iterations", "1"]) == 1
    assert f"{tmp_path / name}: {said}" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == text


def test_a_finished_training_of_other_settings_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipa.mmseg.run.train.train", lambda *_, **__: pytest.fail("trained"))
    for name in ("PIPA_DATA", "OMP_NUM_THREADS"):  # a training's process sets them for itself
        monkeypatch.setenv(name, "")
    work = tmp_path / "PiPa_seed0"
    work.mkdir()
    kept = {"settings": {"config": "another"}, "seconds": 1.0, "final": {}, "curves": {}}
    (work / "outcome.json").write_text(json.dumps(kept))
    (work / "plan.json").write_text('{"iterations": 1000}')
    with pytest.raises(
        ValueError, match=r"PiPa_seed0: holds a finished training of other settings \(1000 iterations, wh"
    ):
        train_one("PiPa", 0, work, toy.write(tmp_path / "data", 2, 1), 10)
    assert json.loads((work / "outcome.json").read_text()) == kept


@pytest.mark.slow
def test_a_short_demo(tmp_path: Path) -> None:
    """In processes, as people run it: nothing on stderr, numbers and a report that compares what it is for."""
    code = (
        "from pipa.commands import cli, demo; demo.TRAIN_IMAGES, demo.VAL_IMAGES = 4, 2; "
        f"raise SystemExit(cli.main(['demo', '--out', {str(tmp_path)!r}, '--iterations', '2']))"
    )
    command = [sys.executable, "-c", f"if __name__ == '__main__': {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads((tmp_path / "results.json").read_text())
    assert [entry["method"] for entry in results] == ["PiPa", "self-training", "source-only"]
    html = (tmp_path / "report.html").read_text()
    assert "<th>PiPa (teacher) − self-training (teacher)</th>" in html
    assert "<th>self-training (teacher) − source-only</th>" in html
    assert not list(tmp_path.rglob("*.part"))
