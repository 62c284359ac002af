"""Code in README and docs/ runs as it is printed: Python is executed, commands are parsed, configs name what exists."""

from __future__ import annotations

import itertools
import re
import shlex
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

pytest.importorskip("mmseg")

from mmengine import registry
from mmseg.utils import register_all_modules

import module_graph
import pipa.mmseg
from pipa.commands import cli
from pipa.configs import list_configs
from pipa.mmseg.run.study_config import configure
from pipa.study.definition import read_study

ROOT = module_graph.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Parameters by position, or that the shell would fill in.
PLACEHOLDERS = {"CONFIG": "toy_pipa", "$D": "data_root=data", "$START": "load_from=start.pth"}


def blocks(page: Path, *languages: str) -> list[str]:
    """Fenced blocks of these languages; a block inside a list loses its indent."""
    found = []
    for indent, language, text in re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", page.read_text(), re.M | re.S):
        if language in languages:
            found.append(re.sub(rf"^{indent}", "", text, flags=re.M))
    return found


def with_code(*languages: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *languages)]


def prepared(page: Path, folder: Path) -> dict[str, Any]:
    """What a page takes for granted."""
    if page.name == "predict.md":
        from mmengine.config import Config
        from PIL import Image

        from pipa.configs import path_of
        from pipa.mmseg.checkpoints.description import describe
        from small_segmentors import checkpoint, scene, shrink

        config = shrink(Config.fromfile(path_of("gta2cs_daformer_pipa")))
        (folder / "work/pipa").mkdir(parents=True)
        checkpoint(config, folder / "work/pipa/iter_60000.pth", describe(config))
        Image.fromarray(scene(48, 64)).save(folder / "photo.jpg")
    if page.name == "reliability.md":
        layers = {"backbone": nn.Conv2d(3, 8, 3, 4, 1), "head": nn.Conv2d(8, 19, 1)}
        student = nn.Sequential(OrderedDict(layers))
        image, label = torch.randn(2, 3, 736, 736), torch.randint(0, 19, (2, 736, 736))
        names = {"student": student, "image": image, "label": label, "target": image}
        return {"torch": torch, "pipa": pipa, "PipaStep": pipa.PipaStep, **names}
    return {}


def parts(value: Any) -> Iterator[dict]:
    """Every dict inside a value."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from parts(inner)


def registered(name: str) -> bool:
    """Whether any registry of mmengine, or of mmseg below it, knows the component."""
    roots = (value for value in vars(registry).values() if isinstance(value, registry.Registry))
    return any(r.get(name) or any(child.get(name) for child in r._children.values()) for r in roots)


@pytest.fixture(autouse=True)
def _one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    register_all_modules(init_default_scope=True)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("page", with_code("python"), ids=lambda page: page.name)
def test_python(page: Path, tmp_path: Path) -> None:
    """Blocks of one page share their names, as in a notebook; the README's loop has a test of its own."""
    names = prepared(page, tmp_path)
    if page.name == "reliability.md":
        torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    for code in blocks(page, "python"):
        if page.name == "README.md" and "PipaStep(" in code:
            continue
        exec(compile(code, str(page), "exec"), names)
        value = eval(code, {}) if code.startswith("dict(") else names
        for part in parts({k: v for k, v in value.items() if k != "__builtins__"}):
            if isinstance(part.get("type"), str):
                assert registered(part["type"]), f"{page.name}: no component is called {part['type']}"


@pytest.mark.parametrize("page", with_code("yaml"), ids=lambda page: page.name)
def test_yaml(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        value = yaml.safe_load(text)
        assert value
        if "_base_" in value:
            assert value["_base_"] in dict(list_configs())
        if "methods" in value:  # a study: every run's settings are there
            path = tmp_path / "mine.yaml"
            path.write_text(text)
            for run in read_study(path).runs[: len(read_study(path).methods)]:
                configure(asdict(run), tmp_path)


@pytest.mark.parametrize("page", with_code("sh", ""), ids=lambda page: page.name)
def test_commands(page: Path) -> None:
    """Commands of `pipa` have these options and configs, and targets of make exist."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    lines = [line for text in blocks(page, "sh", "") for line in text.replace("\\\n", " ").splitlines()]
    for line in lines:
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line, comments=True)]
        if words[:1] == ["make"]:
            asked = itertools.takewhile(lambda word: word != "&&", words[1:])
            assert {w for w in asked if "=" not in w} <= targets, line
        if "pipa" not in words or words[0] not in ("pipa", "torchrun"):
            continue
        arguments = cli.parse(words[words.index("pipa") + 1 :])
        config = getattr(arguments, "config", None)
        if config is not None and not config.endswith((".py", ".yaml")):
            assert config in dict(list_configs()), line
