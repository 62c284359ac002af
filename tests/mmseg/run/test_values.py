"""A value that no training can have is refused with its key, in a file or as an option, by train, doctor and test."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmseg")

from pipa.commands import cli

pytestmark = pytest.mark.usefixtures("toy_as_data")

WHOLE = "expected a whole number of {} or more, got "
# A line of a YAML file over toy_pipa, the place, and what is said of it.
VALUES: dict[str, tuple[str, str]] = {
    "train_cfg: {val_interval: 0}": ("train_cfg.val_interval", WHOLE.format(1) + "0"),
    "train_cfg: {max_iters: '1'}": ("train_cfg.max_iters", WHOLE.format(1) + "'1'"),
    "train_cfg: {max_iters: true}": ("train_cfg.max_iters", WHOLE.format(1) + "True"),
    "train_dataloader: {batch_size: '2'}": ("train_dataloader.batch_size", WHOLE.format(1) + "'2'"),
    "train_dataloader: {batch_size: 2.0}": ("train_dataloader.batch_size", WHOLE.format(1) + "2.0"),
    "train_dataloader: {num_workers: abc}": ("train_dataloader.num_workers", WHOLE.format(0) + "'abc'"),
    "randomness: {seed: abc}": ("randomness.seed", WHOLE.format(0) + "'abc'"),
    "randomness: {seed: 1.0}": ("randomness.seed", WHOLE.format(0) + "1.0"),
    "default_hooks: {checkpoint: {interval: abc}}": ("default_hooks.checkpoint.interval", WHOLE.format(-1) + "'abc'"),
    "default_hooks: {checkpoint: {max_keep_ckpts: 1.5}}": (
        "default_hooks.checkpoint.max_keep_ckpts",
        WHOLE.format(-1) + "1.5",
    ),
    "optim_wrapper: {optimizer: {lr: abc}}": (
        "optim_wrapper.optimizer.lr",
        "expected a number of 0 or more, got 'abc'",
    ),
    "optim_wrapper: {optimizer: {lr: -1}}": ("optim_wrapper.optimizer.lr", "expected a number of 0 or more, got -1"),
    "model: {data_preprocessor: {size: [1, 2, 3]}}": (
        "model.data_preprocessor.size",
        "expected (height, width) in whole pixels, got [1, 2, 3]",
    ),
    "log_level: LOUD": ("log_level", "expected one of CRITICAL, ERROR, WARNING, INFO, DEBUG, NOTSET, got 'LOUD'"),
    "load_from: 3": ("load_from", "expected a path as text, got 3"),
}
# Variables of the base, from which others are computed.
VARIABLES = {
    "max_iters: '1'": "max_iters: expected a number in the place of 1000, got '1'",
    "max_iters: true": "max_iters: expected a number in the place of 1000, got True",
    "crop_size: [1, 2, 3]": "crop_size: expected 2 values in the place of (96, 128), got [1, 2, 3]",
}


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert cli.main(list(argv)) == 1
    told = capsys.readouterr()
    return told.out if argv[0] == "doctor" else told.err.splitlines()[-2]  # the last one names --debug


@pytest.mark.parametrize("line", VALUES)
def test_a_wrong_value_is_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, text = VALUES[line]
    file = tmp_path / "mine.yaml"
    file.write_text(f"_base_: toy_source_only\n{line}\n")
    work = tmp_path / "work"
    assert f"{file}:2: {place}: {text}" in said(capsys, "train", str(file), "--work-dir", str(work))
    assert not work.exists()
    report = said(capsys, "doctor", str(file), "--max-files", "1", "--workers", "1")
    assert f"error    {place} ({file}:2): {text}" in report
    assert "Error:" not in report  # no raw message beside it
    if place in ("randomness.seed", "log_level"):  # the others are no part of a test
        assert f"{file}:2: {place}: {text}" in said(capsys, "test", str(file), "no.pth", "--work-dir", str(work))
    value = text.rpartition("got ")[2]
    option = said(capsys, "train", "toy_source_only", "--work-dir", str(work), "--cfg-options", f"{place}={value}")
    assert option.startswith(f"pipa train: --cfg-options {place}: {text.rpartition('got ')[0]}got ")


@pytest.mark.parametrize("line", VARIABLES)
def test_a_wrong_variable_is_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("mine.yaml", f"_base_: toy_source_only\n{line}\n"), ("mine.py", python(line))):
        (tmp_path / name).write_text(text)
        file = tmp_path / name
        assert f"{file}: {VARIABLES[line]}" in said(capsys, "train", str(file), "--work-dir", str(tmp_path / "work"))
    value = line.partition(": ")[2].replace("'1'", "one").replace("[", "(").replace("]", ")")
    option = f"{line.partition(':')[0]}={value}"
    error = said(capsys, "train", "toy_source_only", "--cfg-options", option)
    assert f"--cfg-options {VARIABLES[line].rpartition(', got')[0]}" in error


def python(line: str) -> str:
    key, _, value = line.partition(": ")
    return f"_base_ = 'toy_source_only'\n{key} = {value.replace('true', 'True')}\n"


def test_three_sides_of_a_crop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it stands in a pipeline, with the type beside it."""
    option = "train_dataloader.dataset.dataset.pipeline.2.crop_size=(1,2,3)"
    error = said(capsys, "train", "toy_source_only", "--cfg-options", option)
    assert "train_dataloader.dataset.dataset.pipeline[2].crop_size: expected (height, width) or one number" in error


def test_values_that_train_are_taken(toy_pair: Path, tmp_path: Path) -> None:
    """A whole float where nothing is counted with it, no checkpoints at all, no seed, a number as level."""
    options = [
        "train_cfg.max_iters=1.0", "train_cfg.val_interval=1e3", "default_hooks.checkpoint.interval=-1", "log_level=40",
        "train_dataloader.dataset.missing=drop", "train_dataloader.batch_size=1", "randomness.seed=None",
    ]  # fmt: skip
    assert cli.main(["train", "toy_source_only", "--work-dir", str(tmp_path), "--cfg-options", *options]) == 0


def test_a_count_of_an_option_is_one_or_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["doctor", "toy_pipa", "--max-files", "-2"],
        ["doctor", "toy_pipa", "--max-files", "0"],
        ["doctor", "toy_pipa", "--workers", "0"],
        ["train", "toy_pipa", "--threads", "0"],
        ["predict", "no.pth", "no.png", "--batch-size", "0"],
        ["convert", "gta", str(tmp_path), "--workers", "0"],
        ["stats", str(tmp_path), "--workers", "-1"],
    ):
        capsys.readouterr()
        assert cli.main(argv) == 1
        assert f"{argv[-2]}: expected 1 or more, got {argv[-1]}" in capsys.readouterr().err
