"""Kills, full disks, read-only folders, signals and damaged files: nothing is lost but the running iteration."""

from __future__ import annotations

import os
import pickle
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

import tiny
from pipa.files import atomic
from pipa.files.images import DataError
from pipa.files.torch_file import CheckpointError
from pipa.mmseg.checkpoints.safe_load import allowed
from pipa.mmseg.engine.stop_signals import StopSignals

pytestmark = pytest.mark.slow

# How often the training is killed; the full test of a release takes 30.
KILLS = int(os.environ.get("PIPA_KILLS", "4"))
N = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


def start(cfg: dict[str, Any], tmp_path: Path, **kwargs: Any) -> Any:
    # A daemon ends with the tests, but may have no workers.
    daemon = cfg["train_dataloader"]["num_workers"] == 0
    process = tiny.processes().Process(
        target=tiny.child, args=(cfg, str(tmp_path / "log")), kwargs=kwargs, daemon=daemon
    )
    process.start()
    return process


def finish(process: Any, tmp_path: Path, seconds: float = 120) -> str:
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        pytest.fail("the training hangs")
    return (tmp_path / "log").read_text()


def uninterrupted(root: Path, tmp_path: Path, iterations: int) -> Any:
    cfg = tiny.config(root, tmp_path / "straight", iterations=iterations)
    log = finish(start(cfg, tmp_path, result=str(tmp_path / "straight.pt")), tmp_path)
    assert (tmp_path / "straight.pt").exists(), log
    return torch.load(tmp_path / "straight.pt", weights_only=True)


def wait_for(what: Any, process: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what() and process.is_alive():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.0005)


def saved(folder: Path) -> list[Path]:
    return sorted(folder.glob("iter_*.pth"), key=lambda p: int(p.stem.split("_")[1]))


def test_killed_at_random_moments_ends_with_the_uninterrupted_result(root: Path, tmp_path: Path) -> None:
    iterations = 2 + 2 * KILLS
    expected = uninterrupted(root, tmp_path, iterations)
    work = tmp_path / "work"
    cfg = tiny.config(root, work, iterations=iterations)
    cfg["default_hooks"]["checkpoint"]["max_keep_ckpts"] = 2
    rng = random.Random(KILLS)
    kills = in_save = 0
    while kills < KILLS:
        process = start(cfg, tmp_path, resume=True, result=str(tmp_path / "result.pt"))
        before = len(saved(work)) and int(saved(work)[-1].stem.split("_")[1])
        if kills % 2:  # in the middle of a save: its temporary file is there
            wait_for(lambda: any(work.glob(".iter_*.part")), process)
        else:  # anywhere between the start and a few iterations on
            wait_for(lambda b=before: (work / f"iter_{b + 1}.pth").exists(), process)
            time.sleep(rng.uniform(0, 0.4))
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        in_save += any(work.glob(".iter_*.part"))
        assert sum(whole(p) for p in saved(work)) >= min(before, 1), "no whole checkpoint is left"
    log = finish(start(cfg, tmp_path, resume=True, result=str(tmp_path / "result.pt")), tmp_path)
    assert kills == KILLS, f"the training ended after {kills} kills"
    print(f"{kills} kills, {in_save} of them while a checkpoint was being written")
    assert (tmp_path / "result.pt").exists(), log
    assert not tiny.differences(expected, torch.load(tmp_path / "result.pt", weights_only=True))
    assert not list(work.glob(".*.part"))
    assert len(saved(work)) == 2


def whole(path: Path) -> bool:
    try:
        atomic.verify(path, allowed())
    except atomic.DamagedFile:
        return False
    return True


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished training with a checkpoint of every iteration, and its result."""
    work = tmp_path_factory.mktemp("trained") / "work"
    return work, tiny.everything(tiny.train(tiny.config(root, work, iterations=N)))


def copy_of(trained: tuple[Path, Any], work: Path, last: int) -> None:
    work.mkdir(parents=True)
    for k in range(1, last + 1):
        (work / f"iter_{k}.pth").write_bytes((trained[0] / f"iter_{k}.pth").read_bytes())
    (work / "last_checkpoint").write_text(str(work / f"iter_{last}.pth"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate, flip, empty])
def test_resume_passes_over_a_damaged_checkpoint(harm: Any, trained: Any, root: Path, tmp_path: Path) -> None:
    copy_of(trained, tmp_path / "work", last=3)
    harm(tmp_path / "work" / "iter_3.pth")
    resumed = tiny.train(tiny.config(root, tmp_path / "work", iterations=N), resume=True)
    assert not tiny.differences(trained[1], tiny.everything(resumed))


def test_only_damaged_checkpoints_are_an_error_and_none_is_a_fresh_start(
    trained: Any, root: Path, tmp_path: Path
) -> None:
    copy_of(trained, tmp_path / "work", last=1)
    flip(tmp_path / "work" / "iter_1.pth")
    cfg = tiny.config(root, tmp_path / "work", iterations=1)
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole.*iter_1\.pth: .*checksum"):
        tiny.train(cfg, resume=True)
    with pytest.raises(CheckpointError, match=r"iter_1\.pth: .*resume=True without load_from"):
        tiny.train(cfg, resume=True, load_from=tmp_path / "work" / "iter_1.pth")
    fresh = tiny.train(tiny.config(root, tmp_path / "fresh", iterations=1), resume=True)
    assert fresh.iter == 1


def test_a_full_disk_stops_with_the_last_checkpoint_usable(trained: Any, root: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    copy_of(trained, work, last=2)
    cfg = tiny.config(root, work, iterations=N)
    cfg["default_hooks"]["checkpoint"]["max_keep_ckpts"] = 1
    size = (work / "iter_2.pth").stat().st_size
    process = start(cfg, tmp_path, resume=True, file_limit=size // 2)
    log = finish(process, tmp_path)
    assert process.exitcode == 1
    assert "iter_3.pth: could not be saved (File too large); the last good checkpoint is" in log.splitlines()[-1]
    assert "iter_2.pth; free some space and resume" in log.splitlines()[-1]
    assert (work / "last_checkpoint").read_text() == str(work / "iter_2.pth")
    assert not list(work.glob(".*.part"))
    resumed = tiny.train(cfg, resume=True)
    assert not tiny.differences(trained[1], tiny.everything(resumed))


def test_a_folder_that_cannot_be_written_is_found_before_the_training(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere, but not here
        folder = Path("/sys")
    cfg = tiny.config(root, tmp_path / "work", iterations=1)
    cfg["default_hooks"]["checkpoint"]["out_dir"] = str(folder)
    with pytest.raises(CheckpointError, match="work: checkpoints cannot be saved here"):
        tiny.train(cfg)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_leave(number: int, trained: Any, root: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    copy_of(trained, work, last=1)
    cfg = tiny.config(root, work, iterations=1000, workers=1)
    cfg["default_hooks"]["checkpoint"]["interval"] = 1000
    cfg["default_hooks"]["logger"]["interval"] = 1
    cfg["log_level"] = "INFO"
    process = start(cfg, tmp_path, resume=True)
    wait_for(lambda: (tmp_path / "log").exists() and "(train)" in (tmp_path / "log").read_text(), process)
    os.killpg(process.pid, number)  # as Ctrl-C and `timeout` do: the loader workers are meant too
    log = finish(process, tmp_path)
    assert process.exitcode == 0, log
    assert "saving after this iteration" in log
    [_, last] = saved(work)
    done = int(last.stem.split("_")[1])
    assert f"{signal.Signals(number).name}: saved {last}" in log
    cfg["train_cfg"]["max_iters"] = done + 1
    resumed = tiny.train(cfg, resume=True)
    straight = tiny.train(tiny.config(root, tmp_path / "straight", iterations=done + 1))
    assert not tiny.differences(tiny.everything(straight), tiny.everything(resumed))


@HOOKS.register_module()
class CorruptionHook(Hook):
    """Cuts all source images short after iteration `at`, which has been saved by then."""

    priority = "LOWEST"

    def __init__(self, folder: str, at: int) -> None:
        self.folder, self.at = Path(folder), at

    def after_train_iter(self, runner: Any, batch_idx: int, **_: Any) -> None:
        if batch_idx + 1 == self.at:
            for file in self.folder.iterdir():
                file.write_bytes(file.read_bytes()[:100])


def test_checkpoints_stay_whole_when_an_image_is_bad(tmp_path: Path) -> None:
    """The training stops with the file's name; once the files are good again it goes on as if nothing had been."""
    data = tiny.data(tmp_path / "data")
    images = data / "source" / "images"
    good = {file: file.read_bytes() for file in images.iterdir()}
    cfg = tiny.config(data, tmp_path / "work", iterations=4)
    cfg["custom_hooks"].append(dict(type="CorruptionHook", folder=str(images), at=2))
    with pytest.raises(DataError, match=r"source/images/\d+\.png"):
        tiny.train(cfg)
    assert [path.name for path in saved(tmp_path / "work")] == ["iter_1.pth", "iter_2.pth"]
    assert (tmp_path / "work" / "last_checkpoint").read_text().endswith("iter_2.pth")
    for file, content in good.items():
        file.write_bytes(content)
    resumed = tiny.train(tiny.config(data, tmp_path / "work", iterations=4), resume=True)
    straight = tiny.train(tiny.config(data, tmp_path / "straight", iterations=4))
    assert not tiny.differences(tiny.everything(straight), tiny.everything(resumed))


def test_a_training_that_failed_leaves_its_signals_to_the_next() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    failed, following = StopSignals(), StopSignals()
    failed.listen()  # an exception ends a training before anybody calls ignore()
    following.listen()
    following.ignore()
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_during_validation_saves_at_once(root: Path, tmp_path: Path) -> None:
    cfg = tiny.config(root, tmp_path / "work", iterations=5)
    cfg["default_hooks"]["checkpoint"]["interval"] = 1000
    cfg["train_cfg"]["val_interval"] = 2
    loader = tiny.loader(root, 0, 0, 1)
    dataset = loader["dataset"]["dataset"]
    dataset["pipeline"] = [dict(type=name) for name in ("LoadImage", "LoadLabel", "PackSegInputs")]
    loader.update(dataset=dataset, sampler=dict(type="DefaultSampler", shuffle=False))
    cfg.update(val_dataloader=loader, val_cfg=dict(type="ValLoop"), val_evaluator=dict(type="IoUMetric"))
    cfg["custom_hooks"].append(dict(type="SignalHook", folder=str(tmp_path / "work")))
    stopped = tiny.train(cfg)
    assert stopped.iter == 2
    seen = next(hook.seen for hook in stopped.hooks if type(hook).__name__ == "SignalHook")
    assert seen == [[], ["iter_2.pth"], ["iter_2.pth"], ["iter_2.pth"], ["iter_2.pth"]]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    cfg["train_cfg"]["max_iters"] = 4
    cfg["custom_hooks"].pop()
    resumed = tiny.train(cfg, resume=True)
    straight = tiny.train(tiny.config(root, tmp_path / "straight", iterations=4))
    assert not tiny.differences(tiny.everything(straight), tiny.everything(resumed))


class Payload:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_checkpoints_that_ask_for_code_are_refused(
    how: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.pth"
    content = {"state_dict": {}, "meta": Payload()}
    if how == "torch":
        torch.save(content, bad)
    else:
        bad.write_bytes(pickle.dumps(content))
    for resume in (False, True):
        with pytest.raises(CheckpointError, match=r"bad\.pth"):
            tiny.train(tiny.config(root, tmp_path / "work", iterations=1), resume=resume, load_from=bad)
    assert not (tmp_path / "pwned").exists()


def test_what_would_not_load_again_is_not_saved(root: Path, tmp_path: Path) -> None:
    cfg = tiny.config(root, tmp_path / "work", iterations=1)
    cfg["custom_hooks"].append(dict(type="SpoilHook"))
    with pytest.raises(CheckpointError, match=r"iter_1\.pth: could not be saved \(it would not load.*posix\.system"):
        tiny.train(cfg)
    assert not saved(tmp_path / "work")


def _hooks() -> None:
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    @HOOKS.register_module()
    class SpoilHook(Hook):
        def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
            checkpoint["extra"] = Payload()

    @HOOKS.register_module()
    class SignalHook(Hook):
        """Sends SIGTERM at the first image of a validation and notes the checkpoints before each image ends."""

        priority = "LOWEST"

        def __init__(self, folder: str) -> None:
            self.folder, self.seen = Path(folder), []

        def after_val_iter(self, runner: Any, batch_idx: int, *args: Any, **kwargs: Any) -> None:
            if batch_idx == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            self.seen.append([path.name for path in saved(self.folder)])


_hooks()
