"""Two iterations of every composed config of HRDA: all that it names acts."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmseg")

import two_iterations

pytestmark = pytest.mark.slow
data, quiet = two_iterations.data, two_iterations.quiet


@pytest.mark.parametrize("name", two_iterations.names("hrda"))
@pytest.mark.usefixtures("quiet")
def test_two_iterations(name: str, tmp_path: Path) -> None:
    two_iterations.check(name, tmp_path)
