"""Examples in docstrings and in the README run as they are printed."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import module_graph

MODULES = [
    name for name, file in module_graph.python_modules().items() if re.search(r"^\s*>>> ", file.read_text(), re.M)
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples that need a trained checkpoint say `+SKIP`."""
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(recurse=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    examples = [test for test in finder.find(importlib.import_module(name)) if test.examples]
    assert examples
    report: list[str] = []
    for example in examples:
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


def _sources(text: str | None) -> str:
    return "".join(example.source for example in doctest.DocTestParser().get_examples(text or ""))


PACKAGES = ["pipa", "pipa.functional", "pipa.networks", "pipa.inference", "pipa.mmseg", "pipa.toy", "pipa.viz"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_example(package: str) -> None:
    """In its own docstring, in one of its methods', or, for the exceptions of the core, in the package's."""
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    made = {name: thing for name, thing in public.items() if inspect.isclass(thing) or inspect.isroutine(thing)}
    assert made
    without = []
    for name, thing in made.items():
        methods = [method for key, method in vars(thing).items() if key[0] != "_"] if inspect.isclass(thing) else []
        texts = [inspect.getdoc(part) or "" for part in (thing, *methods)]
        examples = [example for text in texts for example in doctest.DocTestParser().get_examples(text)]
        if not examples and not (thing.__module__ == "pipa" and name in _sources(module.__doc__)):
            without.append(name)
    assert not without


class Student(nn.Module):
    """The README's `student`: any network with an encoder called `backbone`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.head = nn.Conv2d(8, 19, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.head(self.backbone(image)), image.shape[2:], mode="bilinear")


def test_the_loop_of_the_readme() -> None:
    """The block "on any network", with a small student and random loaders; the step's loss moves the student."""
    text = (module_graph.ROOT / "README.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "PipaStep(" in block]
    student = Student()
    before = student.backbone.weight.detach().clone()
    names = {
        "student": student,
        "source_loader": [(torch.randn(1, 3, 736, 736), torch.randint(0, 19, (1, 736, 736)))] * 2,
        "target_loader": [torch.randn(1, 3, 736, 736)] * 2,
    }
    exec(compile(code, "README.md", "exec"), names)
    log = names["log"]
    assert {"loss", "loss_source", "loss_pixel", "loss_mix"} <= set(log)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in log.values())
    assert not torch.equal(student.backbone.weight, before)
