"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import recorded

pytest.register_assert_rewrite("two_iterations")


def pytest_collection_finish() -> None:
    """Everything is imported now and stays. mmengine collects garbage for each data set that is built, and walking
    through the objects of torch and mmseg takes a quarter of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the recorded inputs and outputs of the released code."""
    return recorded.DATA


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def case() -> Callable[[str], dict[str, torch.Tensor]]:
    """Loads the arrays of a recorded case, "folder/name", as tensors. A missing case is an error, never a skip."""
    return recorded.arrays


@pytest.fixture(params=["fused", "libtorch"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test twice: with the fused host kernels, and with the libtorch operations that accelerators take."""
    from pipa import _core

    before = _core._set_fused(request.param == "fused")
    yield request.param
    _core._set_fused(before)


@pytest.fixture(scope="module")
def toy_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pair with two images to train on and one to evaluate, for tests of configs and commands."""
    import pipa

    root = tmp_path_factory.mktemp("toy")
    pipa.toy.write(root, train=2, val=1)
    return root


@pytest.fixture
def toy_as_data(monkeypatch: pytest.MonkeyPatch, toy_pair: Path) -> None:
    """Shipped configs find that pair."""
    monkeypatch.setenv("PIPA_DATA", str(toy_pair))
