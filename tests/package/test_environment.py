"""`pipa.environment`: what is reported of versions and packages, and what is refused."""

from __future__ import annotations

import importlib
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmseg")

from pipa import environment
from pipa.commands import cli
from pipa.commands.demo import demo
from pipa.inference import video


def test_the_report_for_people_who_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--environment"]) == 0
    out = capsys.readouterr().out
    assert out.strip() == environment.describe_environment()
    names = [line.partition(":")[0] for line in out.splitlines()]
    assert names[:2] == ["pipa", "torch"]
    assert {"python", "devices", "threads", "opencv", "onedl-mmengine", "onedl-mmcv", "numpy"} <= set(names)
    assert str(Path.home()) not in out
    assert cli.main(["doctor"]) == 1
    assert "expected a config, or --environment" in capsys.readouterr().err


def test_versions_that_were_not_tried_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = {"numpy": ">=2.0,<3", "pillow": ">=11,<14"}
    monkeypatch.setattr(environment, "_bounds", bounds.__getitem__)
    assert environment.check_bounds({"numpy": "2.4.6", "pillow": "13.0.0"}) == []
    (found,) = environment.check_bounds({"numpy": "2.0.2", "pillow": "10.0.1"})
    assert (found.level, found.found) == (environment.ERROR, "pillow 10.0.1 is installed; expected >=11,<14")


def test_upstream_beside_the_fork_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    environment.require_packages()
    found = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.2.2" if name == "mmsegmentation" else found(name))
    with pytest.raises(ImportError, match=r"mmsegmentation and the onedl packages .* overwrite each other"):
        environment.require_packages()


def test_an_opencv_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """mmcv asks for the build with windows; a server lacks the libraries that these need."""
    assert environment.check_opencv() == []
    load = importlib.import_module
    missing = "libGL.so.1: cannot open shared object file"

    def without_screen(name: str, *more: Any) -> Any:
        if name == "cv2":
            raise ImportError(missing)
        return load(name, *more)

    monkeypatch.setattr(importlib, "import_module", without_screen)
    found = [f for f in environment.check_environment() if f.level == environment.ERROR]
    assert [f.found for f in found] == [f"OpenCV cannot be loaded: {missing}"]
    assert f"opencv: cannot be loaded: {missing}" in environment.describe_environment().splitlines()
    with pytest.raises(ImportError, match=rf"pipa.mmseg: .*{missing}; .*opencv-python-headless"):
        environment.require_packages()
    with pytest.raises(ImportError, match=rf"videos need OpenCV \({missing}\)"):
        video.opencv()
    with pytest.raises(ImportError, match="OpenCV cannot be loaded"):
        demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()  # refused before anything is drawn


def test_a_machine_without_a_compiler_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from mmengine.config import Config
    from mmengine.runner import Runner
    from mmengine.utils.dl_utils import collect_env

    from pipa.mmseg.mmengine_compat import build_runner

    monkeypatch.setitem(sysconfig.get_config_vars(), "CC", "no-such-compiler -pthread")
    monkeypatch.setattr(Runner, "from_cfg", lambda config: collect_env())
    assert collect_env()["GCC"] == "n/a"
    assert "no-such-compiler" in capfd.readouterr().err  # what mmengine alone lets through
    found: object = build_runner(Config(dict(model={})))
    assert isinstance(found, dict)
    assert found["GCC"] == "n/a"
    assert "no-such-compiler" not in capfd.readouterr().err
    assert sysconfig.get_config_var("CC") == "no-such-compiler -pthread"
