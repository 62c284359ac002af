"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def golden_root() -> Path:
    """Folder of the recorded inputs and outputs of the released code; it may be absent."""
    return Path(os.environ.get("PIPA_GOLDEN", ROOT.parent / "shared" / "golden"))


@pytest.fixture(scope="session")
def golden() -> Path:
    root = golden_root()
    if not root.is_dir():
        pytest.skip(f"golden data not found at {root} (set PIPA_GOLDEN)")
    return root


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def case(golden: Path) -> Callable[[str], dict[str, torch.Tensor]]:
    """Loads the arrays of a recorded case, "folder/name", as tensors; skips a case that this copy does not hold."""

    def load(name: str) -> dict[str, torch.Tensor]:
        path = golden / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"{name}.npz is described in README.json but not in this copy of the golden data")
        with np.load(path) as file:
            return {key: torch.from_numpy(np.array(value)) for key, value in file.items()}

    return load


@pytest.fixture(params=["fused", "libtorch"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test twice: with the fused host kernels, and with the libtorch operations that accelerators take."""
    from pipa import _core

    before = _core._set_fused(request.param == "fused")
    yield request.param
    _core._set_fused(before)
