"""A resume under other terms or other groups of parameters is refused with the setting that says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny

pytest.importorskip("mmseg")

from mmengine.config import Config

from pipa.files.torch_file import CheckpointError
from pipa.mmseg.run.train import train

pytestmark = pytest.mark.slow

LIGHT: dict[str, Any] = dict(mask_weight=0.0, feature_distance_weight=0.0, patch_weight=0.0)
ALONE, OFF = dict(pixel_weight=0.0, distribution_weight=0.1), dict(pixel_weight=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


def config(data: Path, folder: Path, iterations: int, **terms: Any) -> Config:
    return Config(tiny.config(data, folder, iterations=iterations, **{**LIGHT, **terms}))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training of each kind, of one iteration."""
    root = tmp_path_factory.mktemp("trained")
    for name, terms in (("alone", ALONE), ("off", OFF), ("pixel", {})):
        train(config(data, root / name, 1, **terms))
    return root


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "off": ("alone", OFF, "PipaHook.distribution_weight: the checkpoint has 0.1, the config 'nothing'"),
    "on": ("off", ALONE, "PipaHook.distribution_weight: the checkpoint has 'nothing', the config 0.1"),
    "no hook": ("pixel", {}, "PipaHook.type: the checkpoint has 'PipaHook', the config 'nothing'"),
    "no groups": ("pixel", {}, "optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult: the checkpoint has 10.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_the_state_does_not_fit_is_refused(case: str, trained: Path, data: Path, tmp_path: Path) -> None:
    start, terms, said = CASES[case]
    shutil.copytree(trained / start, tmp_path / "run")
    cfg = config(data, tmp_path / "run", 2, **terms)
    if case == "no hook":
        cfg.custom_hooks = []
    if case == "no groups":
        cfg.optim_wrapper.paramwise_cfg = None
    with pytest.raises(CheckpointError) as error:
        train(cfg, resume=True)
    assert "iter_1.pth: " in str(error.value)
    assert said in str(error.value)
    assert (tmp_path / "run" / "iter_1.pth").is_file()


def test_what_the_state_fits_goes_on(trained: Path, data: Path, tmp_path: Path) -> None:
    """The contrast with distributions uses the pixel contrast's head; other factors leave the groups as they are."""
    shutil.copytree(trained / "pixel", tmp_path / "run")
    cfg = config(data, tmp_path / "run", 2, distribution_weight=0.1)
    cfg.optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult = 5.0
    runner = train(cfg, resume=True)
    assert runner.iter == 2
    rates = {round(g["initial_lr"], 6) for g in runner.optim_wrapper.optimizer.param_groups}
    assert rates == {1e-3, 5e-3}
    assert "loss_distribution" in " ".join(runner.message_hub.log_scalars)
