"""benchmarks/gpu.py at toy size: what a machine with a GPU will be asked to run works here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_section_runs_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    sections = ["kernels", "contrast", "step", "options"]
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks/gpu.py"), "--device", "cpu", "--toy", "--json"]
    done = subprocess.run([*command, str(out), "--only", *sections], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["toy"] is True
    assert list(result["sections"]) == sections
    rows = [row for rows in result["sections"].values() for row in rows]
    assert not [row for row in rows if "error" in row]
    assert all(row["ours_ms"] > 0 for row in rows if "ours_ms" in row)
    (share,) = (row["share"] for row in rows if "share" in row)
    assert 0 < share < 1
