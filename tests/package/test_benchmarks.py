"""The scripts of benchmarks/ at tiny size: they work, and their two sides still agree. GPU: test_gpu_benchmark."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import multiprocessing as mp

pytest.importorskip("mmseg")
pytest.importorskip("matplotlib")

from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from pipa import toy
from pipa.mmseg.run.train import load_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import kernels  # noqa: E402
import loader  # noqa: E402
import processes  # noqa: E402
import pseudo_labels  # noqa: E402
import scaling  # noqa: E402


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two images of either domain."""
    root = tmp_path_factory.mktemp("loader")
    loader.register_all_modules(init_default_scope=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "SIZES", {"GTA5": (72, 128), "Cityscapes": (64, 128)})
        patch.setattr(loader, "MIN_PIXELS", 50)
        patch.setattr(loader, "RATIO", {32: 4.0})  # a fifth of a crop: some crops have to be drawn again
        loader.write(root, 2)
        yield root


@pytest.mark.parametrize(
    "case",
    [
        ("plain", "GTA5", "png", (96, 54), 32, False),
        ("whole size", "Cityscapes", "png", None, 32, False),
        ("no labels", "Cityscapes", "png", (96, 48), 32, None),
        ("JPEG", "GTA5", "jpg", (96, 54), 32, False),
        ("retries", "GTA5", "png", (96, 54), 32, True),
    ],
    ids=lambda case: case[0],
)
def test_loader(case: tuple, files: Path) -> None:
    name, *rates = loader.measure(files, case, 2, 2).strip("| ").split(" | ")
    assert name.startswith(case[0])
    assert all(float(rate) > 0 for rate in rates)
    if case[-1]:
        assert float(name.split()[1]) > 1, name  # runs of mmseg's pipeline


def test_decoding(files: Path) -> None:
    assert loader.decoding(files, "GTA5", "png", 2).count(" ms") == 3


@pytest.mark.slow
def test_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dict(H=128, W=128, FEATURES=(2, 16, 32, 32), OVERLAPS=((40, 90),), PARAMETERS=8500, SCENE=(64, 128))
    for name, value in small.items():
        monkeypatch.setattr(kernels, name, value)
    torch.set_num_threads(1)
    groups = (kernels.supervision, kernels.teacher, kernels.contrast, kernels.counting)
    rows = [kernels.measure(case, 1) for group in groups for case in group()]
    assert len(rows) == 18
    assert all(float(row.split(" | ")[-5]) >= 0 for row in rows)


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scaling, "CHANNELS", 8)
    monkeypatch.setattr(sys, "argv", ["scaling.py", str(tmp_path / "plot.svg"), "--most", "1024"])
    scaling.main()
    assert "| 1024 | " in capsys.readouterr().out
    assert (tmp_path / "plot.svg").read_text().endswith("</svg>\n")


@pytest.mark.slow
def test_one_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SIDE", 64)
    monkeypatch.setattr(processes, "SETTINGS", {**processes.SETTINGS, "patch_size": [48, 48]})
    answer = mp.get_context("spawn").SimpleQueue()
    processes.train(0, 1, 1, 1, answer)
    assert answer.get() > 0


def toy_checkpoint(folder: Path) -> Path:
    config = load_config("toy_pipa")
    init_default_scope("mmseg")
    torch.save({"state_dict": MODELS.build(config.model).state_dict()}, folder / "start.pth")
    return folder / "start.pth"


def test_quality_of_pseudo_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = toy.write(tmp_path / "toy", train=1, val=1, height=64, width=96)
    start = toy_checkpoint(tmp_path)
    arguments = ["toy_pipa", str(start), "--data-root", str(root)]
    monkeypatch.setattr(sys, "argv", ["pseudo_labels.py", *arguments])
    pseudo_labels.main()
    title, *classes, summary = capsys.readouterr().out.splitlines()[-2 - len(toy.CLASSES) :]
    assert title.split()[:2] == ["class", "label"]
    assert [line.split()[0] for line in classes] == [name.split()[0] for name in toy.CLASSES]
    assert summary.startswith("mIoU ")


def test_corrected_labels_lie_between_the_network_and_the_nearest_prototype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prototypes without an opinion leave the network's labels; sure ones leave nothing of them."""
    root = toy.write(tmp_path / "toy", train=2, val=1, height=96, width=128)
    start = toy_checkpoint(tmp_path)
    arguments = ["toy_pipa", str(start), "--data-root", str(root), "--first-prototypes", "1"]
    arguments += ["--cfg-options", "target_dataloader.batch_size=1", "pipa.prototype_layer=head"]
    # The large one last: the nearest prototype does not depend on what was asked for before.
    arguments += ["pipa.prototype_temperature=1e-9", "--threshold", "0", "--temperatures", "1e-9", "1e9"]
    monkeypatch.setattr(sys, "argv", ["pseudo_labels.py", *arguments])
    pseudo_labels.main()
    network, nearest, sure, neutral = capsys.readouterr().out.split("class  ")[1:]
    rows = [part.splitlines()[1 : 2 + len(toy.CLASSES)] for part in (network, nearest, neutral, sure)]
    assert rows[0] == rows[2]
    assert rows[1] == rows[3]
    assert rows[0] != rows[1]
