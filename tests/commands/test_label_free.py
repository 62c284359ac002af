"""`pipa test --unlabelled`: its numbers against the functions, its ranks against SciPy, its refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

pytest.importorskip("mmseg")
pytest.importorskip("scipy")

import pipa
from pipa import functional as F
from pipa.commands import cli
from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.run.train import load_config
from small_segmentors import checkpoint, scene, shrink

SAMPLE = 1024


def made(folder: Path, name: str, count: int) -> Path:
    """A work folder with `count` checkpoints of different weights."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    config = shrink(load_config(name))
    first = checkpoint(config, folder / "iter_1.pth", describe(config))
    loaded = torch.load(first, weights_only=True)
    for i in range(2, count + 1):
        state = {
            k: v + 0.02 * i * torch.randn_like(v) if "conv_seg" in k else v for k, v in loaded["state_dict"].items()
        }
        torch.save({**loaded, "state_dict": state}, folder / f"iter_{i}.pth")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("work"), "toy_pipa", 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for i, (height, width) in enumerate([(48, 64), (40, 72), (33, 47)]):
        place = root / "images" / ("sub" if i else ".")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(height, width, i)).save(place / f"p{i}_view.png")
        target = root / "labels" / ("sub" if i else ".")
        target.mkdir(parents=True, exist_ok=True)
        label = np.random.default_rng(i).integers(0, 9, (height, width)).astype(np.uint8)
        label[:3] = 255
        Image.fromarray(label).save(target / f"p{i}_ids.png")
    return root


def run(*arguments: Any) -> int:
    return cli.main(["test", *map(str, arguments)])


def pictures(data: Path) -> list[Path]:
    return sorted((data / "images").rglob("*.png"))


@pytest.mark.parametrize("window", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_scores_are_those_of_the_functions(
    window: bool, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over windows too, where a prediction is made band by band."""
    work = made(tmp_path / "work", "gta2cs_hrda_pipa" if window else "toy_pipa", 2)
    assert run(work, "--unlabelled", data / "images", "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["pictures"] == 3
    assert [c["iteration"] for c in found["checkpoints"]] == [1, 2]
    for entry in found["checkpoints"]:
        labels = {}
        for which in ("student", "teacher"):
            segmenter = pipa.load(work / entry["file"], weights=which, device="cpu")
            scores = [F.label_free_scores(segmenter.logits(p)[None], max_pixels=SAMPLE) for p in pictures(data)]
            sizes = [segmenter.logits(p)[0].numel() for p in pictures(data)]
            entropy = np.average([float(s["entropy"]) for s in scores], weights=sizes)
            assert entry[which]["entropy"] == pytest.approx(entropy, rel=1e-5)
            assert entry[which]["snd"] == pytest.approx(np.mean([float(s["snd"]) for s in scores]), rel=1e-5)
            assert entry[which]["mIoU"] is None
            labels[which] = np.concatenate([segmenter.predict(p).label_hw.ravel() for p in pictures(data)])
        assert entry["agreement"] == pytest.approx((labels["student"] == labels["teacher"]).mean())
        assert 0 < entry["agreement"] < 1
    assert "iter_2.pth" in capsys.readouterr().out


@pytest.mark.slow
def test_labels_show_how_well_the_scores_rank(work: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--labels", data / "labels", "--suffixes", "_view.png", "_ids.png", "--out", out)
    assert run(work, "--unlabelled", data / "images", *options) == 0
    found = json.loads((out / "scores.json").read_text())
    assert found["mIoU from"] == "labels"
    for entry in found["checkpoints"]:
        segmenter = pipa.load(work / entry["file"], weights="teacher", device="cpu")
        total = torch.zeros(9, 9, dtype=torch.long)
        for picture in pictures(data):
            label = str(picture.relative_to(data / "images")).replace("_view", "_ids")
            truth = np.array(Image.open(data / "labels" / label))
            total += F.confusion_matrix(segmenter.predict(picture).label_hw, truth, 9)
        assert entry["teacher"]["mIoU"] == pytest.approx(100 * float(F.iou_from_confusion(total)["mIoU"]))
    chosen = found["chosen"]["student"]
    students = [entry["student"] for entry in found["checkpoints"]]
    miou = [s["mIoU"] for s in students]
    for score, sign in (("entropy", -1), ("snd", 1)):
        values = [sign * s[score] for s in students]
        assert chosen[score]["spearman"] == pytest.approx(spearmanr(values, miou).statistic)
        assert chosen[score]["checkpoint"] == found["checkpoints"][int(np.argmax(values))]["file"]
    page = (out / "index.html").read_text()
    assert "How well they rank" in page
    assert page.count("<svg") == 1
    assert not re.search(r'(src|href)="http', page.replace("xlink:href", ""))  # nothing is fetched
    assert (out / "scores.svg").read_text().startswith("<?xml")


def test_the_log_of_the_training_has_the_truth(work: Path, data: Path, tmp_path: Path) -> None:
    place = tmp_path / "work"
    (place / "1" / "vis_data").mkdir(parents=True)
    lines = [{"step": 1, "loss": 3.0}, {"step": 1, "mIoU": 20.5, "teacher/mIoU": 30.0}, {"step": 2, "mIoU": 40.0}]
    (place / "1" / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "mI')
    for i in (1, 2, 3):
        (place / f"iter_{i}.pth").write_bytes((work / f"iter_{i}.pth").read_bytes())
    assert run(place, "--unlabelled", data / "images", "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["mIoU from"] == "log"
    assert [e["student"]["mIoU"] for e in found["checkpoints"]] == [20.5, 40.0, None]
    assert [e["teacher"]["mIoU"] for e in found["checkpoints"]] == [30.0, None, None]
    assert found["chosen"]["student"]["snd"]["spearman"] is None  # two values rank nothing


def test_every_problem_is_listed(work: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, images = tmp_path / "work", tmp_path / "images"
    place.mkdir()
    images.mkdir()
    (place / "iter_1.pth").write_bytes((work / "iter_1.pth").read_bytes())
    (place / "other.pth").write_bytes(b"junk")
    Image.fromarray(scene(20, 30)).save(images / "a.png")
    (images / "broken.png").write_bytes(b"junk")
    Image.fromarray(scene(1, 1)).save(images / "one.png")
    assert run(place, "--unlabelled", images, "--out", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "2 file(s) could not be used" in told
    assert told.count("broken.png") == told.count("other.pth") == 1
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [c["file"] for c in found["checkpoints"]] == ["iter_1.pth"]
    assert len(found["problems"]) == 2
    (tmp_path / "out" / "index.html").write_text("mine")
    assert run(place, "--unlabelled", images, "--out", tmp_path / "out") == 1
    assert (tmp_path / "out" / "index.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected CONFIG CHECKPOINT, got 1"),
        (["--labels", "x"], "--labels belongs to --unlabelled"),
        (["--unlabelled", "IMAGES", "--teacher"], "leave out --teacher"),
        (["--unlabelled", "IMAGES", "--suffixes", "a", "b"], "those of --labels"),
        (["--unlabelled", "IMAGES", "--labels", "nowhere"], "expected its label"),
        (["--unlabelled", "nowhere"], "found nothing there"),
        (["--unlabelled", "IMAGES", "--cfg-options", "a=1"], "name the config before"),
    ],
)
def test_refusals(
    options: list[str], message: str, work: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(data / "images") if option == "IMAGES" else option for option in options]
    more = ["--out", tmp_path / "out"] if "--unlabelled" in options else []
    assert run(work, *arguments, *more) == 1
    assert message in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "--unlabelled", data / "images", *more) == 1
    assert "expected checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["scores.json", "scores.svg", "index.html"])
def test_other_files_in_the_folder_are_kept(
    name: str, work: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"mine": [1]}')
    assert run(work, "--unlabelled", data / "images", "--out", out) == 1
    assert f"{out / name}: is there and no " in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [(name, '{"mine": [1]}')]
    (out / name).unlink()
    for _ in range(2):  # over its own
        assert run(work, "--unlabelled", data / "images", "--out", out) == 0


def test_labels_that_do_not_fit_are_the_reason(
    work: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pictures are fine: ids that are no class are what is wrong, in each of the labels."""
    for label in sorted((data / "labels").rglob("*.png")):
        place = tmp_path / "labels" / label.relative_to(data / "labels")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full_like(np.array(Image.open(label)), 100)).save(place)
    options = ("--labels", tmp_path / "labels", "--suffixes", "_view.png", "_ids.png", "--out", tmp_path / "out")
    assert run(work, "--unlabelled", data / "images", *options) == 1
    said = capsys.readouterr().err
    assert "could be used; the first: " in said
    assert "100" in said.partition("the first: ")[2]


def test_a_folder_of_trainings_is_one_table(data: Path, tmp_path: Path) -> None:
    """Which training to keep: equal file names stay apart, and each has the validations of its own log."""
    trainings = tmp_path / "runs"
    trainings.mkdir()
    for name, miou in (("a", 20.0), ("b", 30.0)):
        work = made(trainings / name, "toy_pipa", 2)
        log = work / "20260101" / "vis_data" / "scalars.json"
        log.parent.mkdir(parents=True)
        log.write_text("".join(json.dumps({"mIoU": miou + i, "step": i}) + "\n" for i in (1, 2)))
    assert run(trainings, "--unlabelled", data / "images", "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    names = [c["file"] for c in found["checkpoints"]]
    assert names == ["a/iter_1.pth", "a/iter_2.pth", "b/iter_1.pth", "b/iter_2.pth"]
    assert [c["student"]["mIoU"] for c in found["checkpoints"]] == [21.0, 22.0, 31.0, 32.0]
    alone = tmp_path / "alone"
    assert run(trainings / "a", "--unlabelled", data / "images", "--out", alone) == 0
    single = json.loads((alone / "scores.json").read_text())["checkpoints"]
    assert [{**c, "file": f"a/{c['file']}"} for c in single] == found["checkpoints"][:2]
