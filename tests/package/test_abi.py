"""What happens at and around the border to native code: import, wrong torch, absurd arguments, the GIL."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from torch import Tensor, nn
from wheel.wheelfile import WheelFile

import pipa
from pipa import _abi, _core, functional
from small_nets import small_batch, small_step

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(pipa.__file__).resolve().parent


def python(code: str, *first: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter whose path begins with `first`."""
    lines = [f"import sys; sys.path[:0] = {[*first, str(PACKAGE.parent)]!r}", code]
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)


def test_another_torch_is_refused_with_one_sentence(tmp_path: Path) -> None:
    stub = tmp_path / "torch-1.2.3.dist-info"
    stub.mkdir()
    (stub / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    result = python("import pipa", str(tmp_path))
    assert result.returncode == 1  # an exception, not a crash of the interpreter
    last = result.stderr.strip().splitlines()[-1]
    built = _abi.torch_build()
    assert last.startswith("ImportError: pipa ")
    assert f"was built for torch {built}, but torch 1.2.3 is installed: pip install torch=={built}" in last


def test_no_torch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ImportError, match=r"needs torch [\d.]+, and no torch is installed: pip install torch=="):
        _abi.check()


def test_local_suffixes_of_torch_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    built = _abi.torch_build()
    monkeypatch.setattr(metadata, "version", lambda name: f"{built}+cpu")
    _abi.check()
    monkeypatch.setattr(metadata, "version", lambda name: f"{built}1")
    with pytest.raises(ImportError, match="was built for"):
        _abi.check()


def test_a_missing_native_part_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_abi.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the native part pipa\._core is missing"):
        _abi.check()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["import pipa, torch", "import torch, pipa", "import pipa._core, torch"])
def test_any_order_of_imports(order: str) -> None:
    use = "x = torch.ones(1, 2, 4, 4); print(functional.class_mix(x[:, :1].long(), x, x).sum())"
    code = f"{order}\nfrom pipa import functional\n{use}"
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "tensor(32.)"


def backend() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_backend", ROOT / "tools" / "build_backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_wheel_pins_the_torch_it_was_built_against(tmp_path: Path) -> None:
    """On a wheel made here: metadata, label and checksums after the edit are what an installer will read."""
    with WheelFile(tmp_path / "pipa_rs-1.2.3-py3-none-any.whl", "w") as made:
        made.writestr("pipa/__init__.py", "")
        made.writestr("pipa_rs-1.2.3.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        text = "Metadata-Version: 2.4\nName: pipa-rs\nVersion: 1.2.3\nRequires-Dist: torch<2.16,>=2.11\n"
        text += "Requires-Dist: torchvision>=0.26,<1 ; extra == 'timm'\n"
        made.writestr("pipa_rs-1.2.3.dist-info/METADATA", text)
    edited = backend().edit(tmp_path / "pipa_rs-1.2.3-py3-none-any.whl", "2.15.0", "+torch2.15")
    assert edited.name == "pipa_rs-1.2.3+torch2.15-py3-none-any.whl"
    with WheelFile(edited) as wheel:  # reading checks the recorded checksums
        lines = wheel.read("pipa_rs-1.2.3+torch2.15.dist-info/METADATA").decode().splitlines()
    assert "Version: 1.2.3+torch2.15" in lines
    assert [line for line in lines if line.startswith("Requires-Dist: torch=")] == ["Requires-Dist: torch==2.15.0"]
    assert "Requires-Dist: torchvision>=0.26,<1 ; extra == 'timm'" in lines
    with pytest.raises(RuntimeError, match="expected one requirement of torch, found 0"):
        backend().pin("Name: x\n", "2.15.0")


def test_the_default_torch_is_one_that_the_source_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (bounds,) = (Requirement(d) for d in project["project"]["dependencies"] if Requirement(d).name == "torch")
    assert project["tool"]["pipa"]["torch"] in bounds.specifier
    low, high = re.search(r"RangeInclusive<u32> = (\d+)\.\.=(\d+)", (ROOT / "build.rs").read_text()).groups()
    assert str(bounds.specifier) == f"<2.{int(high) + 1},>=2.{low}"


ONES = torch.ones(1, 2, 4, 4)
LABEL = torch.zeros(1, 4, 4, dtype=torch.long)
ABSURD: dict[str, Callable[[], Any]] = {
    "None": lambda: _core.cross_entropy(None, None, None, 255, "all"),
    "text": lambda: _core.pseudo_label("image", 0.9, 0, 0, None),
    "empty": lambda: _core.cross_entropy(torch.empty(0), torch.empty(0).long(), None, 255, "all"),
    "no average": lambda: _core.cross_entropy(ONES, LABEL, None, 255, "some"),
    "huge id": lambda: _core.cross_entropy(ONES, LABEL + 2**62, None, 255, "all"),
    "other device": lambda: _core.cross_entropy(ONES.to("meta"), LABEL, None, 255, "all"),
    "no rank": lambda: functional.contrast(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1)),
    "bytes": lambda: functional.contrast(torch.ones(3, 2).byte(), torch.ones(3, 2).byte(), torch.arange(3)),
    "key nowhere": lambda: functional.contrast(torch.ones(3, 2), torch.ones(3, 2), torch.full((3,), 2**62)),
    "sparse": lambda: functional.contrast(torch.ones(3, 2).to_sparse(), torch.ones(3, 2), torch.arange(3)),
    "NaN temperature": lambda: functional.contrast(
        torch.ones(3, 2), torch.ones(3, 2), torch.arange(3), temperature=float("nan")
    ),
    "empty tile": lambda: functional.contrast(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3), tile=(0, -1)),
    "box outside": lambda: _core.crop_patches(ONES, (0, 0, 2**40, 2**40), (-5, 3, 2, 1), True, False),
    "negative grid": lambda: _core.mask_grid(-3, 2**62, 0),
    "negative mask": lambda: _core.block_mask(torch.rand(1, 1, 2, 2), 0.5, -4, -4),
    "even kernel": lambda: _core.gaussian_blur(ONES, -1.0, (0, -2)),
    "classes of nothing": lambda: _core.draw_classes(LABEL, -1, 255, "batch", 0),
    "unequal networks": lambda: _core.ema_update([torch.ones(2)], [torch.ones(3)], -1, 0.9),
    "memory of nothing": lambda: _core.memory_bank(-1, 2**62, ONES),
    "step settings": lambda: _core.Step([1]),
    "step types": lambda: _core.Step({"num_classes": "many"}),
    "step seed": lambda: _core.Step({}, -1),
    "step networks": lambda: _core.Step({}).run(None, ONES, LABEL, ONES, None, None, False, False),
    "picture size": lambda: pipa.toy.draw("source", 0, height=-1, width=2**40),
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_arguments_are_ordinary_exceptions(what: str) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError, OverflowError, RuntimeError)) as error:
        ABSURD[what]()
    assert "internal error" not in str(error.value)  # how a caught panic is told
    assert str(error.value)


def test_other_threads_run_while_the_kernel_does() -> None:
    """Holding the GIL, the kernel would let this thread count only before it begins and after it ends."""
    torch.set_num_threads(1)
    feature, label = torch.randn(8000, 64), torch.randint(0, 4, (8000,))
    span: list[float] = []

    def work() -> None:
        span.append(time.perf_counter())
        functional.contrast(feature, feature, (label, label), exclude_self=True)
        span.append(time.perf_counter())

    thread = threading.Thread(target=work)
    ticks = []
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    thread.join()
    begin, end = span
    middle = [tick for tick in ticks if begin + 0.25 * (end - begin) < tick < begin + 0.75 * (end - begin)]
    assert middle, f"no progress in the middle of {end - begin:.3f} s"


def test_python_hooks_run_inside_the_backward_of_the_step() -> None:
    student, step = small_step()
    seen: list[str] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        seen.append(threading.current_thread().name)

    layer = student.backbone[1]
    layer.register_full_backward_hook(hook)
    step(*small_batch())
    assert seen
    assert layer.weight.grad is not None
