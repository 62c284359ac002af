"""benchmarks/gpu.py at toy size: what a machine with a GPU will be asked to run works here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402
from gpu_timing import MARKER, shares  # noqa: E402


@pytest.mark.slow
def test_every_section_runs_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks/gpu.py"), "--device", "cpu", "--toy", "--json"]
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["toy"] is True
    assert list(result["sections"]) == list(gpu.SECONDS)
    rows = [row for rows in result["sections"].values() for row in rows]
    assert not [row for row in rows if "error" in row or "left_out" in row]
    assert all(row["ours_ms"] > 0 for row in rows if "ours_ms" in row)
    parts = [row for row in rows if "networks" in row]
    assert len(parts) == 4  # two networks, two precisions
    assert all(row["networks"] + row["outside"] == pytest.approx(1) for row in parts)


def run(seconds: float, cases: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Rows that a section of these cases writes."""
    monkeypatch.setattr(gpu, "section", lambda name: lambda device: iter(cases.items()))
    out = tmp_path / "rows.jsonl"
    gpu.run_section("loader", out, "cpu", True, seconds)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_case_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops() -> None:
        raise SystemExit("losses differ")

    cases = {
        "first": lambda: {"ours_ms": 1.0},
        "broken": lambda: 1 / 0,
        "stops": stops,
        "last": lambda: {"ours_ms": 2.0},
    }
    rows = run(60, cases, tmp_path, monkeypatch)
    assert [row["name"] for row in rows] == list(cases)
    assert [row.get("error", "").partition(":")[0] for row in rows] == ["", "ZeroDivisionError", "SystemExit", ""]


def test_cases_after_the_time_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(-1, {"late": lambda: 1 / 0}, tmp_path, monkeypatch)
    assert rows == [{"name": "late", "left_out": "no time left"}]


def test_a_section_that_hangs_or_dies_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "import json, os, sys, time\n"
        "out = sys.argv[sys.argv.index('--rows') + 1]\n"
        "open(out, 'a').write(json.dumps({'name': 'done', 'ours_ms': 3.0}) + '\\n')\n"
        "time.sleep(60) if 'hangs' in sys.argv else os._exit(7)\n"
    )
    script = tmp_path / "section.py"
    script.write_text(body)
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    arguments = type("Arguments", (), {"device": "cpu", "toy": True})()
    for name, code in (("hangs", -9), ("dies", 7)):
        rows = gpu.start(name, arguments, 2.0)
        assert rows[0] == {"name": "done", "ours_ms": 3.0}
        assert rows[1]["error"].endswith(str(code))


def test_shares_of_a_profile() -> None:
    mark = f"at::cuda::{MARKER}(long)"
    kernels = [
        (mark, 0.0, 1.0),
        ("gemm", 1.0, 5.0),
        ("copy", 4.0, 6.0),  # beside the product: one unit more
        (mark, 6.0, 7.0),
        ("warm-up before", -5.0, -1.0),
        ("softmax", 8.0, 9.0),
        (mark, 9.0, 9.5),
        ("gemm", 9.5, 19.5),
        (mark, 20.0, 21.0),
        ("after", 21.0, 22.0),
    ]
    found = shares(kernels, ["network forward", "cross entropy", "network forward"])
    assert found == pytest.approx({"network forward": 15 / 20, "cross entropy": 1 / 20, "gaps": 4 / 20})
    with pytest.raises(ValueError, match="expected 3 markers, got 4 among 10 kernels"):
        shares(kernels, ["network forward", "cross entropy"])


def test_cores_of_loading() -> None:
    said = (
        "| files and pipeline | ours, images/s | mmseg, images/s | ratio |\n|---|---:|---:|---:|\n"
        "| GTA5, crop 640 | 50.0 | 9.7 | 7.0 |\n| Cityscapes, crop 640 | 100.0 | 16.0 | 4.1 |\n"
    )
    step = [{"name": "daformer MiT-B5 640, 2 + 2, float32", "ours_ms": 200.0}, {"name": "hrda", "ours_ms": 1.0}]
    (row,) = gpu.keeping_up({"loader": [{"name": "loader.py", "said": said}], "step": step})
    assert row["cores"] == pytest.approx((2 / 50 + 2 / 100) / 0.2)
    assert row["met"] is True
