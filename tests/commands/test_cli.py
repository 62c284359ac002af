"""The commands as a user types them, in this process: results, exit codes, and the one sentence of each error."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

pytest.importorskip("mmseg")

import pipa.toy
from pipa.commands import cli
from pipa.mmseg.engine import progress

pytestmark = pytest.mark.slow

CLASSES = 9
TINY = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "train_dataloader.batch_size=2",
    "train_dataloader.dataset.min_pixels=10",
    "custom_hooks.0.target_dataloader.batch_size=2",
    "custom_hooks.0.patch_warmup=0",
    "default_hooks.checkpoint.interval=1",
    "default_hooks.logger.interval=1",
]
SOURCE, TARGET = "source/leftImg8bit/train/toy", "target/leftImg8bit/train/toy"
LABELS = "source/gtFine/train/toy"
IMAGE = f"{TARGET}/toy_000000_000000_leftImg8bit.png"


@pytest.fixture(autouse=True)
def _loggers_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmengine's loggers outlive a training and keep the captured stderr of the test that ran it."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("toy")
    pipa.toy.write(root, train=6, val=2, height=96, width=128)
    return root


@pytest.fixture
def data(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPA_DATA", str(toy))
    return toy


@pytest.fixture
def copy(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data of its own, to be damaged."""
    root = tmp_path / "toy"
    shutil.copytree(toy, root)
    monkeypatch.setenv("PIPA_DATA", str(root))
    return root


def train(work: Path, *options: str, config: str = "toy_pipa", flags: tuple[str, ...] = ()) -> list[str]:
    return ["train", config, "--work-dir", str(work), *flags, "--cfg-options", *TINY, *options]


@pytest.fixture(scope="module")
def trained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of two iterations."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPA_DATA", str(toy))
        assert cli.main(train(work)) == 0
    return work


def sentence(capsys: pytest.CaptureFixture[str], argv: list[str], command: str | None = None) -> str:
    """Run into an error: exit code 1, and on stderr one line of message and the hint, no traceback."""
    capsys.readouterr()
    assert cli.main(argv) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "\n".join(lines)
    assert lines[-1] == "(--debug shows the traceback)"
    prefix = f"pipa {command or argv[0]}: "
    assert lines[-2].startswith(prefix), lines
    return lines[-2].removeprefix(prefix)


def test_configs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"gta2cs_hrda_pipa +\S", line) for line in lines)
    assert len(lines) > 50


def test_training_logs_every_loss_time_left_and_scalars(trained: Path) -> None:
    logs = [path.read_text() for path in trained.glob("*/*.log")]
    line = next(line for line in logs[0].splitlines() if "Iter(train) [2/2]" in line)
    assert "eta: " in line
    for name in ("loss", "loss_source", "loss_mix", "loss_pixel", "loss_patch", "pseudo_weight"):
        assert re.search(rf" {name}: [\d.]+", line), name
    assert (trained / "last_checkpoint").read_text().endswith("iter_2.pth")


def test_training_writes_tensorboard_scalars(trained: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = list(trained.rglob("events.out.tfevents.*"))
    assert files
    events = EventAccumulator(str(files[0])).Reload()
    tags = events.Tags()["scalars"]
    for name in ("loss_source", "loss_pixel", "loss_mix", "loss_patch", "mIoU", "teacher/mIoU"):
        assert name in tags, name
    assert [event.step for event in events.Scalars("loss_mix")] == [1, 2]


@pytest.mark.parametrize("fails", [False, True])
def test_a_terminal_gets_a_bar_and_gets_its_cursor_back(
    fails: bool, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda file: Console(file=screen, force_terminal=True, width=200))
    monkeypatch.setattr(progress, "REFRESH", 1)
    if fails:
        for path in (copy / TARGET).iterdir():
            path.write_bytes(b"")  # noticed in the first iteration
    assert cli.main(train(tmp_path)) == fails
    shown = screen.getvalue()
    assert "0/2" in shown
    assert "left" in shown
    assert fails or re.search(r"2/2.*source \d\.\d{3}.*mix \d\.\d{3}", shown)
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0  # shown again after it was hidden


WATCHED = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"):
        print("WATCHED", event, arguments[:2])
sys.addaudithook(watch)
from pipa.commands import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_training_reaches_no_network_and_starts_no_foreign_process(data: Path, tmp_path: Path) -> None:
    """What mmengine asks for its log (versions of git, compilers, libraries) is all."""
    argv = train(tmp_path, "train_cfg.max_iters=1")
    result = subprocess.run([sys.executable, "-c", WATCHED, *argv], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    seen = [line for line in result.stdout.splitlines() if line.startswith("WATCHED")]
    assert any("git" in line for line in seen)  # the watch works
    harmless = r"WATCHED subprocess\.Popen .*(\[b?'git'|ldconfig|gcc|nvcc|nvidia-smi|\bcc\b|c\+\+)"
    assert [line for line in seen if not re.match(harmless, line)] == []


def test_resume_goes_on(trained: Path, data: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(trained, work)
    (work / "last_checkpoint").write_text(str(work / "iter_2.pth"))
    old = sorted(work.glob("*/*.log"))
    assert cli.main(train(work, "train_cfg.max_iters=3", flags=("--resume",))) == 0
    new = next(path for path in work.glob("*/*.log") if path not in old).read_text()
    assert "Iter(train) [3/3]" in new
    assert "Iter(train) [2/3]" not in new
    state = torch.load(work / "iter_3.pth", weights_only=False)  # this test's own file
    assert state["meta"]["iter"] == 3


def test_test_and_export(trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = []
    for flags in ([], ["--teacher"]):
        name = tmp_path / f"weights{len(flags)}.pth"
        assert cli.main(["export", str(trained / "iter_2.pth"), "--out", str(name), *flags]) == 0
        exported = torch.load(name, weights_only=True)
        assert not [key for key in exported["state_dict"] if "pipa" in key]
        for file, more in ((trained / "iter_2.pth", flags), (name, [])):
            capsys.readouterr()
            work = ["--work-dir", str(tmp_path / "logs")]
            assert cli.main(["test", "toy_pipa", str(file), *more, *work]) == 0
            out = capsys.readouterr().out
            figures.append(re.search(r"^mIoU +(\d+\.\d\d)$", out, re.MULTILINE)[1])
    assert figures[0] == figures[1]
    assert figures[2] == figures[3]
    assert figures[0] != figures[2]  # student and teacher


def scored(capsys: pytest.CaptureFixture[str], checkpoint: Path, work: Path, *options: str) -> str:
    """The mIoU that `pipa test` prints."""
    capsys.readouterr()
    argv = ["test", "toy_pipa", str(checkpoint), "--work-dir", str(work), "--cfg-options", *options]
    assert cli.main(argv) == 0
    return re.search(r"^mIoU +(\d+\.\d\d)$", capsys.readouterr().out, re.MULTILINE)[1]


def names_of(root: Path) -> list[str]:
    return json.loads((root / "classes.json").read_text())["classes"]


def test_ignored_pixels_count_nowhere_whatever_their_id(
    trained: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = list((copy / "target/gtFine/val").rglob("*labelTrainIds.png"))

    def ignore(new: int) -> None:
        for path in labels:
            array = np.array(Image.open(path)).astype(np.uint8 if new < 256 else np.uint16)
            array[:24] = new
            array[array >= CLASSES] = new
            Image.fromarray(array).save(path)

    ignore(255)
    right = scored(capsys, trained / "iter_2.pth", tmp_path / "logs", "log_level=ERROR")
    for new in (100, 65535):
        ignore(new)
        table = tmp_path / f"ignore{new}.json"
        table.write_text(json.dumps(dict(names=names_of(copy), ignore_index=new)))
        options = f"test_dataloader.dataset.classes={table}"
        assert scored(capsys, trained / "iter_2.pth", tmp_path / "logs", options) == right
    argv = ["test", "toy_pipa", str(trained / "iter_2.pth"), "--work-dir", str(tmp_path / "logs"), "--cfg-options"]
    text = sentence(capsys, [*argv, options, "test_evaluator.type=IoUMetric"])
    assert "test_evaluator: IoUMetric leaves out id 255, but the data set of test_dataloader marks" in text
    assert text.endswith("with id 65535: they would count as errors")


def test_data_of_other_classes_is_refused(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = names_of(data)
    checkpoint = trained / "iter_2.pth"
    bare = tmp_path / "bare.pth"  # weights alone: their number of classes is all there is to compare
    torch.save({"state_dict": torch.load(checkpoint, weights_only=True)["state_dict"]}, bare)

    def table(kind: str, listed: list[str]) -> str:
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(dict(names=listed)))
        return f"_dataloader.dataset.classes={path}"

    reversed_, front, short = table("r", names[::-1]), table("v", ["void", *names]), table("s", names[:-1])
    cases = [
        (checkpoint, reversed_, r"iter_2\.pth: its class 0 is 'road', but that of .* test_dataloader is 'person'$"),
        (checkpoint, front, r"its class 0 is 'road', .* is 'void' \(9 classes there, 10 here\)$"),
        (checkpoint, short, r"its class 8 is 'person', .* is none \(9 classes there, 8 here\)$"),
        (bare, front, r"num_classes is 9, but the data set of test_dataloader has 10 classes"),
    ]
    for file, option, pattern in cases:
        argv = ["test", "toy_pipa", str(file), "--work-dir", str(tmp_path / "logs"), "--cfg-options"]
        assert re.search(pattern, sentence(capsys, [*argv, f"test{option}"])), pattern
    assert scored(capsys, bare, tmp_path / "logs", f"test{reversed_}")  # it names no classes
    own = ("custom_hooks", "min_pixels", "missing")
    plain = [option for option in TINY if not any(word in option for word in own)]
    plain += ["train_dataloader.dataset.min_pixels=1", "train_dataloader.dataset.missing=drop"]
    for config, options in (("toy_pipa", TINY), ("toy_source_only", plain)):
        argv = ["train", config, "--work-dir", str(tmp_path / config), "--cfg-options", *options, f"val{reversed_}"]
        text = sentence(capsys, argv)
        assert "train_dataloader: its class 0 is 'road', but that of the data set of val_dataloader is 'person'" in text


def test_predict_on_odd_sizes_and_a_folder(trained: Path, data: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    sizes = {"a.png": (97, 131), "sub/b.jpg": (33, 250)}
    for name, (height, width) in sizes.items():
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / name)
    (photos / "notes.txt").write_text("no image")
    checkpoint = str(trained / "iter_2.pth")
    assert cli.main(["predict", "toy_pipa", checkpoint, str(photos), "--out", str(out)]) == 0
    for name, size in sizes.items():
        stem = out / Path(name).with_suffix("")
        label = np.asarray(Image.open(f"{stem}_label.png"))
        assert label.shape == size
        assert label.max() < CLASSES
        overlay = np.asarray(Image.open(f"{stem}_overlay.png"))  # the image over a legend
        assert overlay.shape[0] > size[0]
        assert overlay.shape[1:] == (size[1], 3)
    assert len([path for path in out.rglob("*") if path.is_file()]) == 4
    one = tmp_path / "one"
    assert cli.main(["predict", "toy_pipa", checkpoint, str(photos / "a.png"), "--out", str(one), "--teacher"]) == 0
    assert sorted(path.name for path in one.iterdir()) == ["a_label.png", "a_overlay.png"]


def test_stats_counts_pixels(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "stats"
    assert cli.main(["stats", str(data / LABELS), "--out", str(out), "--workers", "1"]) == 0
    entries = json.loads((out / "sample_class_stats.json").read_text())
    assert len(entries) == 6
    table = capsys.readouterr().out
    road = sum(entry.get("0", 0) for entry in entries)
    real = sum(int((np.asarray(Image.open(path)) == 0).sum()) for path in (data / LABELS).iterdir())
    assert road == real
    assert f"{real:,}" in table


def test_doctor(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["doctor", "toy_pipa", "--workers", "1", "--cfg-options", "train_dataloader.dataset.min_pixels=10"]
    assert cli.main(argv) == 0
    assert "0 error(s)" in capsys.readouterr().out
    broken = copy / IMAGE
    broken.write_bytes(broken.read_bytes()[:100])
    assert cli.main(argv) == 1
    out = capsys.readouterr().out
    assert f"{broken}: truncated or corrupt" in out
    assert "1 error(s)" in out


def test_convert_a_small_gta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.array([[7, 26], [0, 11]], np.uint8)  # road, car, unlabelled, building
    (tmp_path / "labels").mkdir()
    Image.fromarray(ids).save(tmp_path / "labels" / "00001.png")
    assert cli.main(["convert", "gta", str(tmp_path), "--workers", "1"]) == 0
    made = np.asarray(Image.open(tmp_path / "labels" / "00001_labelTrainIds.png"))
    assert made.tolist() == [[0, 13], [255, 2]]
    assert (tmp_path / "sample_class_stats.json").is_file()
    assert capsys.readouterr().out.strip()


# Errors of a training -------------------------------------------------------------------------------------------------
def every_label(root: Path, array: np.ndarray) -> None:
    for path in (root / LABELS).iterdir():
        Image.fromarray(array).save(path)


def no_targets(root: Path) -> None:
    for path in (root / TARGET).iterdir():
        path.unlink()


def deep_images(root: Path) -> None:
    for path in (root / SOURCE).iterdir():
        Image.fromarray(np.zeros((96, 128), np.uint16)).save(path)


HARM: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, r"toy/classes\.json: expected .* found no such file"),
    "missing images": (
        lambda root: shutil.rmtree(root / "source/leftImg8bit"),
        r"source/leftImg8bit/train: expected a folder of \*_leftImg8bit\.png images",
    ),
    "missing label": (
        lambda root: next((root / LABELS).glob("*000000_000000*")).unlink(),
        r"toy_000000_000000_gtFine_labelTrainIds\.png: the label of toy_000000_000000_leftImg8bit\.png does not exist",
    ),
    "label of another size": (
        lambda root: every_label(root, np.zeros((90, 128), np.uint8)),
        r"_labelTrainIds\.png: expected a label of the size of its image, 96x128 .* found 90x128",
    ),
    "label id": (
        lambda root: every_label(root, np.full((96, 128), 77, np.uint8)),
        r"_labelTrainIds\.png: label ids must be 0\.\.8 or 255 \(ignored\), found 77",
    ),
    "empty data set": (no_targets, r"target/leftImg8bit/train: FolderDataset expected at least one"),
    "wrong dtype": (deep_images, r"_leftImg8bit\.png: expected an RGB image with 3 channels, found mode I;16"),
}


@pytest.mark.parametrize("what", HARM)
def test_bad_data_is_one_sentence(what: str, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm, pattern = HARM[what]
    harm(copy)
    assert re.search(pattern, sentence(capsys, train(tmp_path / "work")))


def test_an_error_in_a_loader_worker_is_one_sentence_too(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (copy / SOURCE).iterdir():
        path.write_bytes(b"")
    text = sentence(capsys, train(tmp_path / "work", "train_dataloader.num_workers=1"))
    assert re.search(r"_leftImg8bit\.png: expected an image, found an empty file", text)


def test_nan_loss_names_the_term(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = train(tmp_path, "train_cfg.max_iters=4", "param_scheduler=[]", "optim_wrapper.optimizer.lr=1e30")
    text = sentence(capsys, argv)
    assert re.search(r"term 'source' is (NaN|infinite)", text)
    assert re.search(r"iteration \d", text)
    assert "_leftImg8bit.png" in text
    assert list(tmp_path.glob("nonfinite_iter_*.pt"))


MISSPELT = {
    "train_cgf.max_iters=2": r"no 'train_cgf'; did you mean 'train_cfg'\?",
    "train_dataloader.batchsize=2": r"no 'batchsize'; did you mean 'batch_size'\?",
    "custom_hooks.0.pixel_wieght=2": r"unknown setting 'pixel_wieght'; did you mean 'pixel_weight'\?",
    "custom_hooks.5.pixel_weight=2": r"'5' is no index of a list of 1",
    "train_dataloader.dataset.dataset.imges=2": r"BaseSegDataset.* 'imges'",
    "model.decode_head.chanels=2": r"DecodeHead.* 'chanels'",
    "optim_wrapper.optimizer.learning_rate=2": r"AdamW.* 'learning_rate'",
    "model.type=EncoderDecodr": r"^EncoderDecodr is not in the mmseg::model registry",
    "load_from=gone.pth": r"^gone\.pth: no such checkpoint",
    "train_dataloader.batch_size=1": r"one batch_size, got 1 and 2",
    "model.decode_head.num_classes=4": r"num_classes is 4, but the data set of train_dataloader has 9 classes",
    "word": r"expected KEY=VALUE, got 'word'",
}


@pytest.mark.parametrize("option", MISSPELT)
def test_wrong_options_are_one_sentence(
    option: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(MISSPELT[option], sentence(capsys, train(tmp_path, option)))


def test_a_misspelt_key_in_a_config_file(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("_base_: toy_pipa\noptim_wraper: {type: OptimWrapper}\n")
    expected = "mine.yaml: unknown setting 'optim_wraper'; did you mean 'optim_wrapper'?"
    assert expected in sentence(capsys, train(tmp_path, config=str(path)))


def test_other_commands_say_what_is_missing(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, checkpoint = str(tmp_path / "gone"), str(trained / "iter_2.pth")
    (tmp_path / "empty").mkdir()
    cases = [
        (["train", "toy_pip"], "no config named 'toy_pip'; did you mean toy_pipa?"),
        (["train", f"{gone}.py"], "gone.py: no such config file"),
        (["test", "toy_pipa", f"{gone}.pth"], "gone.pth: no such checkpoint"),
        (["predict", "toy_pipa", checkpoint, gone], "gone: expected an image or a folder"),
        (["predict", "toy_pipa", checkpoint, str(tmp_path / "empty")], "empty: no image in this folder"),
        (["export", gone, "--out", "x"], "gone: no such checkpoint"),
        (["convert", "gta", gone], "gone: expected the folder of gta"),
        (["convert", "checkpoint", gone], "gone: no such checkpoint"),
        (["stats", gone], "gone: expected a folder of labels"),
    ]
    for argv, expected in cases:
        assert expected in sentence(capsys, argv), argv
    other = ["predict", "toy_pipa", checkpoint, str(data / IMAGE), "--cfg-options", "model.decode_head.channels=40"]
    assert "iter_2.pth: decode_head.conv_seg.weight has shape (9, 48, 1, 1)" in sentence(capsys, other)


def test_debug_raises() -> None:
    with pytest.raises(ValueError, match="no config named"):
        cli.main(["--debug", "train", "nothing_like_it"])


def test_a_bad_command_line_is_the_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["trian"])
    assert stop.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


# YAML and JSON --------------------------------------------------------------------------------------------------------
def plain(value: Any) -> Any:
    """Tuples as lists, as YAML has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_whole_training_from_plain_data(suffix: str, data: Path, tmp_path: Path) -> None:
    from pipa.mmseg.run.train import load_config

    whole = plain(load_config("toy_pipa", TINY).to_dict())
    assert whole["custom_imports"] == {"imports": ["pipa.mmseg"]}
    whole["train_cfg"]["max_iters"] = 1
    path = tmp_path / f"mine{suffix}"
    path.write_text(json.dumps(whole) if suffix == ".json" else yaml.safe_dump(whole))
    assert cli.main(["train", str(path), "--work-dir", str(tmp_path / "work")]) == 0
    assert (tmp_path / "work" / "iter_1.pth").is_file()
    # and the copy in the work folder is a config again
    assert load_config(tmp_path / "work" / "mine.py").train_cfg.max_iters == 1


def test_plain_data_over_a_shipped_config(tmp_path: Path) -> None:
    from pipa.mmseg.run.train import load_config

    (tmp_path / "common.yml").write_text("_base_: toy_pipa\nrandomness: {seed: 4}\nmax_iters: 7\n")
    path = tmp_path / "mine.json"
    path.write_text('{"_base_": ["common.yml"], "max_iters": 9}')
    config = load_config(path, ["data_root=some/folder"])
    assert (config.randomness.seed, config.max_iters) == (4, 9)
    assert config.train_dataloader.dataset.dataset.data_root == "some/folder/source"
    number = tmp_path / "number.yaml"
    number.write_text("_base_: toy_pipa\noptim_wrapper: {optimizer: {lr: 2e-3, eps: -1.5E+2}}\nname: 1e\n")
    config = load_config(number)
    assert (config.optim_wrapper.optimizer.lr, config.optim_wrapper.optimizer.eps) == (2e-3, -150.0)
    assert config.name == "1e"


NOT_DATA = {
    "tag": ("a: !!python/object/apply:os.mkdir [MARK]\n", "not a readable yaml file of plain values"),
    "type": ("model: {type: os.mkdir, path: MARK}\n", "type 'os.mkdir' is no registered component"),
    "library": ("model: [{type: mmengine.call_command}]\n", "type 'mmengine.call_command' is no registered"),
    "constructor": ("optim_wrapper: {constructor: os.mkdir}\n", "type 'os.mkdir' is no registered component"),
    "import": ("custom_imports: {imports: [antigravity]}\n", "custom_imports names 'antigravity'"),
    "imports": ("custom_imports: pipa.mmseg\n", "custom_imports: expected a mapping"),
    "base": ("_base_: evil.py\n", "_base_ must be a YAML or JSON file or a shipped config"),
    "base elsewhere": ("_base_: gone.yaml\n", "no such file"),
    "circle": ("_base_: mine.yaml\n", "_base_ leads in a circle"),
    "list": ("[1, 2]\n", "expected a mapping of settings, got list"),
    "broken": ("a: [1, 2\n", "not a readable yaml file of plain values"),
}


@pytest.mark.parametrize("what", NOT_DATA)
def test_plain_configs_run_nothing(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, expected = NOT_DATA[what]
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("MARK", str(mark)))
    assert expected in sentence(capsys, ["train", str(path), "--work-dir", str(tmp_path / "work")])
    assert not mark.exists()


def test_registered_components_of_other_libraries_may_be_named(tmp_path: Path) -> None:
    from pipa.mmseg.run.train import load_config

    path = tmp_path / "mine.yaml"
    path.write_text("_base_: toy_pipa\nmodel: {backbone: {type: mmseg.ResNetV1c}}\nhook: {type: mmengine.TestLoop}\n")
    assert load_config(path).model.backbone.type == "mmseg.ResNetV1c"


def test_importing_pipa_mmseg_keeps_mmengine_from_upstream_packages() -> None:
    from mmengine.config.utils import MODULE2PACKAGE

    import pipa.mmseg  # noqa: F401

    assert MODULE2PACKAGE["mmseg"] == "onedl-mmsegmentation"
