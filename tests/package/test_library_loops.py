"""The programs of examples/ run, go on where they stopped, and keep equal weights in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from module_graph import ROOT

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")
EXAMPLES = ROOT / "examples"
# Runs a program's main() and keeps what each process has learnt.
DRIVER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
torch.set_num_threads(1)
import {name}
made = {name}.main()
step = getattr(made, "step", made)
weights = dict(step.networks._student.state_dict(), **step.state_dict())
torch.save(weights, Path({out!r}) / ("rank" + os.environ.get("LOCAL_RANK", "0") + ".pt"))
"""
OPTIONS = {"accelerate_training": ["--cpu"], "lightning_training": ["--accelerator", "cpu"]}


def run(name: str, out: Path, *options: str, processes: int = 1) -> list[dict[str, torch.Tensor]]:
    """Weights of each process after the program."""
    out.mkdir(parents=True, exist_ok=True)
    driver = out / "driver.py"
    driver.write_text(DRIVER.format(folder=str(EXAMPLES), name=name, out=str(out)))
    start = [sys.executable]
    if processes > 1 and name == "accelerate_training":  # as `accelerate launch` does
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    elif processes > 1:
        options = (*options, "--devices", str(processes))
    command = [*start, str(driver), "--out", str(out), *OPTIONS[name], *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "loss_patch" in done.stdout
    return [torch.load(out / f"rank{rank}.pt") for rank in range(processes)]


@pytest.mark.parametrize("name", OPTIONS)
def test_one_process(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name.split("_")[0])
    (first,) = run(name, tmp_path, "--iterations", "4")
    assert first["_extra_state"]["iteration"] == 4
    teacher = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "adapted")
    for key, value in teacher.state_dict().items():
        torch.testing.assert_close(value, first[f"teacher.{key}"])
    (second,) = run(name, tmp_path, "--iterations", "6", "--resume")
    assert second["_extra_state"]["iteration"] == 6


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes(name: str, tmp_path: Path) -> None:
    """Different images, equal weights: the gradients are those of the joined batch."""
    pytest.importorskip(name.split("_")[0])
    one, two = run(name, tmp_path, "--iterations", "4", processes=2)
    assert one["_extra_state"]["iteration"] == two["_extra_state"]["iteration"] == 4
    assert set(one) == set(two)
    for key, value in one.items():
        if isinstance(value, torch.Tensor) and "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(value, two[key], msg=key)
