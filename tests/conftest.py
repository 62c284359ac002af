"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

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
