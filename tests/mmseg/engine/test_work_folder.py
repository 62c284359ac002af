"""Nothing saved is lost, and a resume goes on with what was asked for: through `pipa train` and its neighbours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny

pytest.importorskip("mmseg")

from mmengine.config import Config
from mmengine.runner import Runner

from pipa.commands.cli import main
from pipa.files.torch_file import CheckpointError
from pipa.mmseg.engine.repeatable import read_lines, read_progress
from pipa.mmseg.engine.work_folder import DIARIES, FolderLock, to_resume
from pipa.mmseg.run.train import train

LIGHT: dict[str, Any] = dict(mask_weight=0.0, feature_distance_weight=0.0, patch_weight=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


def config(data: Path, folder: Path, iterations: int = 2, **terms: Any) -> Config:
    return Config(tiny.config(data, folder, iterations=iterations, **{**LIGHT, **terms}))


@pytest.fixture(scope="module")
def saved(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training of two iterations."""
    folder = tmp_path_factory.mktemp("saved")
    train(config(data, folder))
    return folder


@pytest.fixture
def used(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


Warned = Callable[[], str]


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> Warned:
    """What the runner's logger was told."""
    from mmengine.logging import MMLogger

    told: list[str] = []
    monkeypatch.setattr(MMLogger, "warning", lambda _self, text, *_a, **_k: told.append(str(text)))
    return lambda: "\n".join(told)


def test_last_checkpoint_decides(data: Path, used: Path, warned: Warned) -> None:
    shutil.copy(used / "iter_2.pth", used / "iter_9000.pth")  # another training's
    runner = train(config(data, used, 3), resume=True)
    assert runner.iter == 3
    assert "2 of" not in warned()
    assert (used / "last_checkpoint").read_text().endswith("iter_3.pth")


def test_the_order_of_what_is_tried(tmp_path: Path) -> None:
    for number in (1, 2, 3, 7):
        (tmp_path / f"iter_{number}.pth").touch()

    def tried(pointer: str | None) -> list[str]:
        (tmp_path / "last_checkpoint").unlink(missing_ok=True)
        if pointer is not None:
            (tmp_path / "last_checkpoint").write_text(pointer)
        return [path.name for path in to_resume(tmp_path, "iter_{}.pth")[0]]

    assert tried("/moved/since/iter_3.pth") == ["iter_3.pth", "iter_2.pth", "iter_1.pth"]
    assert tried("iter_5.pth") == ["iter_3.pth", "iter_2.pth", "iter_1.pth"]
    assert tried(None)[0] == "iter_7.pth"


def test_a_used_folder_is_refused_or_cleared(data: Path, used: Path, tmp_path: Path, capsys: Any) -> None:
    path = str(tmp_path / "c.py")
    config(data, used, 1).dump(path)
    assert main(["train", path, "--work-dir", str(used)]) == 1
    error = capsys.readouterr().err
    assert "holds the checkpoints of an earlier training (iter_2.pth" in error
    assert "--resume" in error
    assert (used / "iter_2.pth").exists()
    for diary in DIARIES:
        (used / diary).write_text('{"iteration": 7, "iterations": 9, "seconds": 5.0}\n')
    assert main(["train", path, "--work-dir", str(used), "--overwrite"]) == 0
    assert not [diary for diary in DIARIES if (used / diary).exists()]  # else they passed for the new training's
    assert sorted(p.name for p in used.glob("*.pth")) == ["iter_1.pth"]
    capsys.readouterr()
    for again, asks in ((["--resume"], "--resume"), (["--cfg-options", "resume=True"], "the config's resume=True")):
        assert main(["train", path, "--work-dir", str(used), "--overwrite", *again]) == 1
        said = f"{asks} goes on with the folder's training and --overwrite removes it: choose one"
        assert said in capsys.readouterr().err
    assert (used / "iter_1.pth").exists()


def test_diaries_of_a_training_without_checkpoints_do_not_count(data: Path, tmp_path: Path, warned: Warned) -> None:
    """It was killed before its first one, so that its folder is not refused."""
    path, work = str(tmp_path / "c.py"), tmp_path / "run"
    cfg = config(data, work, 2)
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type="RepeatableHook", interval=2)]
    cfg.dump(path)
    said = f"{work / 'log.jsonl'}: is of an earlier training that this one does not go on from; removed"
    for options, counts in (([], True), (["--overwrite"], False)):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for diary in DIARIES:
            (work / diary).write_text('{"iteration": 1, "iterations": 9, "seconds": 5000.0, "mIoU": 99.0}\n')
        assert main(["train", path, *options]) == 0
        assert [line["iteration"] for line in read_lines(work / "log.jsonl")] == [2]
        assert not (work / "evaluations.jsonl").exists()
        # A start that was killed counts for the time that the training takes, unless it was to be forgotten.
        assert (read_progress(work)["seconds"] > 5000) == counts
        assert warned().count(said) == 1


@pytest.mark.parametrize("option", ["--overwrite", "--resume"])
def test_checkpoints_may_lie_elsewhere(option: str, data: Path, tmp_path: Path, warned: Warned) -> None:
    """The diaries and last_checkpoint stay in the work folder."""
    path, work, away = str(tmp_path / "c.py"), tmp_path / "run", tmp_path / "away" / "run"
    cfg = config(data, work, 2)
    cfg.default_hooks.checkpoint.out_dir = str(tmp_path / "away")
    cfg.dump(path)
    assert main(["train", path]) == 0
    (work / "log.jsonl").write_text('{"iteration": 7}\n')
    shutil.copy(away / "iter_2.pth", away / "iter_9000.pth")  # another training's
    assert main(["train", path, option, "--cfg-options", "train_cfg.max_iters=3"]) == 0
    assert "last_checkpoint" not in warned()
    assert (work / "last_checkpoint").read_text() == str(away / "iter_3.pth")
    left = ["iter_1.pth", "iter_2.pth", "iter_3.pth"]
    assert sorted(p.name for p in away.glob("*.pth")) == (left if option == "--overwrite" else [*left, "iter_9000.pth"])
    assert (work / "log.jsonl").exists() == (option == "--resume")


@pytest.mark.parametrize("where", ["empty", "used"])
def test_resume_with_load_from_takes_that_file(data: Path, used: Path, tmp_path: Path, where: str) -> None:
    file = tmp_path / "given.pth"
    shutil.copy(used / "iter_1.pth", file)
    cfg = config(data, used if where == "used" else tmp_path / "new", 3)
    cfg.load_from = str(file)
    seen: list[int] = []
    load = Runner.resume

    def spy(self: Runner, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        seen.append(self.iter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "resume", spy)
        train(cfg, resume=True)
    assert seen == [1]


def test_weights_alone_are_no_training_to_resume(data: Path, used: Path, tmp_path: Path) -> None:
    assert main(["export", str(used / "iter_2.pth"), "--out", str(tmp_path / "w.pth")]) == 0
    cfg = config(data, tmp_path / "new")
    cfg.load_from = str(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: holds weights but no training state \(optimizer"):
        train(cfg, resume=True)


def rates(runner: Runner) -> list[float]:
    return [group["lr"] for group in runner.optim_wrapper.optimizer.param_groups]


def test_longer_schedules_and_other_rates_are_honoured(data: Path, used: Path, tmp_path: Path, warned: Warned) -> None:
    def changed(folder: Path) -> Config:
        cfg = config(data, folder, 4)
        cfg.optim_wrapper.optimizer.lr = 5e-4
        cfg.optim_wrapper.optimizer.weight_decay = 0.5
        cfg.param_scheduler[1].end = 200
        return cfg

    resumed, whole = train(changed(used), resume=True), train(changed(tmp_path / "whole"))
    assert rates(resumed) == rates(whole)
    decay = [g["weight_decay"] for g in resumed.optim_wrapper.optimizer.param_groups]
    assert decay == [g["weight_decay"] for g in whole.optim_wrapper.optimizer.param_groups]
    text = warned()
    assert "optim_wrapper.optimizer.lr: the checkpoint has 0.001, the config 0.0005; the config's is taken" in text
    assert "train_cfg.max_iters: the checkpoint has 2, the config 4" in text
    assert "param_scheduler.1.end: the checkpoint has 100, the config 200" in text


def test_other_data_and_seeds_are_named(data: Path, used: Path, warned: Warned) -> None:
    cfg = config(data, used, 3)
    cfg.train_dataloader.batch_size = cfg.custom_hooks[0].target_dataloader.batch_size = 3
    cfg.randomness = dict(seed=8)
    cfg.custom_hooks[0].alpha = 0.9
    assert train(cfg, resume=True).seed == 7
    text = warned()
    assert "train_dataloader.batch_size: the checkpoint has 2, the config 3" in text
    assert "randomness.seed: the checkpoint has 7, the config 8; the checkpoint's is kept" in text
    assert "PipaHook.alpha: the checkpoint has 'nothing', the config 0.9" in text


@pytest.mark.parametrize("what", ["term", "width", "network"])
def test_what_cannot_change_on_the_way_is_refused(data: Path, used: Path, what: str) -> None:
    cfg = config(data, used, 3, **({"pixel_weight": 0.0} if what == "term" else {}))
    if what == "width":
        cfg.custom_hooks[0].pixel_dim = 16
    if what == "network":
        cfg.model.decode_head.channels = 16
    with pytest.raises(CheckpointError, match=r"iter_2\.pth: .*(pixel_weight|pixel_dim|channels): the checkpoint has"):
        train(cfg, resume=True)


def test_load_from_of_other_weights_is_refused(data: Path, tmp_path: Path, warned: Warned) -> None:
    cfg = config(data, tmp_path / "run", 1)
    cfg.load_from = str(tmp_path / "other.pth")
    torch.save({"state_dict": {"encoder.a": torch.zeros(2), "encoder.b": torch.zeros(3)}}, cfg.load_from)
    with pytest.raises(CheckpointError, match=r"other\.pth: \d+ of the model's \d+ weights are not in it"):
        train(cfg)
    first = next(k for k in train(config(data, tmp_path / "a", 1)).model.state_dict() if k.startswith("backbone"))
    part = {first: torch.load(tmp_path / "a/iter_1.pth")["state_dict"][first]}
    torch.save({"state_dict": part}, cfg.load_from)
    train(cfg)
    assert "weights stay as they were made" in warned()


def test_nothing_is_written_over_its_input(used: Path, tmp_path: Path) -> None:
    file, link, hard = used / "iter_2.pth", tmp_path / "link.pth", tmp_path / "hard.pth"
    link.symlink_to(file)
    os.link(file, hard)
    before = file.read_bytes()
    for out in (file, link, hard, used / ".." / used.name / file.name):
        assert main(["export", str(file), "--out", str(out)]) == 1
        assert main(["convert", "checkpoint", str(file), "--out", str(out)]) == 1
    assert file.read_bytes() == before


def test_plain_torch_reads_a_checkpoint(used: Path) -> None:
    content = torch.load(used / "iter_2.pth")
    assert type(content["message_hub"]["log_scalars"]["train/loss"][0]) is list

    def tensors(value: Any) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return [t for part in parts for t in tensors(part)]

    assert {t.device.type for t in tensors(content["pipa"])} == {"cpu"}


BROKEN: dict[str, Callable[[Path, bytes], Any]] = {
    "cut": lambda p, whole: p.write_bytes(whole[:5000]),
    "cut at the end": lambda p, whole: p.write_bytes(whole[:-30]),
    "damaged": lambda p, whole: p.write_bytes(whole[:9000] + b"XXXX" + whole[9004:]),
    "empty": lambda p, _: p.write_bytes(b""),
    "text": lambda p, _: p.write_text("<html>404</html>"),
    "folder": lambda p, _: p.mkdir(),
    "missing": lambda p, _: None,
    "list": lambda p, _: torch.save([1, 2], p),
    "list of weights": lambda p, _: torch.save({"state_dict": [1]}, p),
    "zip": lambda p, _: zipfile.ZipFile(p, "w").writestr("a.txt", "hello"),
    "code": lambda p, _: torch.save({"state_dict": {"a": Path("x")}}, p),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_named_by_every_reader(
    data: Path, used: Path, tmp_path: Path, kind: str, capsys: Any
) -> None:
    bad, out = tmp_path / "bad.pth", str(tmp_path / "out.pth")
    BROKEN[kind](bad, (used / "iter_2.pth").read_bytes())
    cfg = config(data, tmp_path / "new", 1)
    path = str(tmp_path / "c.py")
    cfg.dump(path)
    for command in (
        ["export", str(bad), "--out", out],
        ["convert", "checkpoint", str(bad), "--out", out],
        ["train", path, "--cfg-options", f"load_from={bad}"],
        ["train", path, "--resume", "--cfg-options", f"load_from={bad}"],
    ):
        assert main(command) == 1
        error = capsys.readouterr().err.splitlines()[0]
        assert str(bad) in error, (command, error)
    assert not Path(out).exists()


@pytest.mark.slow
def test_two_trainings_in_one_folder_are_noticed(data: Path, tmp_path: Path) -> None:
    code = "import pathlib, sys; from pipa.mmseg.engine.work_folder import FolderLock"
    code += "; lock = FolderLock(pathlib.Path(sys.argv[1])); lock.take(); print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=rf"another training runs in this folder \(process {holder.pid} on "):
        train(config(data, tmp_path, 1))
    holder.kill()  # it cannot tidy up: the lock goes with it
    holder.wait()
    train(config(data, tmp_path, 1))
    FolderLock(tmp_path).take()
