"""A large picture costs memory for itself and for one window, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")

from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.run.train import load_config
from small_segmentors import checkpoint, shrink

pytestmark = pytest.mark.slow

# Peak memory in bytes beyond what a small picture takes, for each (height, width, stride).
MEASURE = """
import json, resource, sys
import numpy as np, torch
import pipa
from pipa.inference import Window

torch.set_num_threads(1)
segmenter = pipa.load(sys.argv[1], device="cpu")
largest, jobs = int(sys.argv[2]), json.loads(sys.argv[3])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def photo(height, width):
    return np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], (height, width, 3)).copy()

def predict(height, width, stride):
    window = Window((largest, largest), (stride, stride), 4)
    prediction = segmenter.predict(photo(height, width), window=window)
    assert prediction.label_hw.shape == (height, width)
    prediction.overlay()

predict(2 * largest, 2 * largest, largest)
found = [peak()]
for job in jobs:
    predict(*job)
    found.append(peak())
print(json.dumps([b - a for a, b in zip(found, found[1:])]))
"""


def measured(file: Path, window: int, jobs: list[tuple[int, int, int]]) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, str(file), str(window), json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    config = shrink(load_config("toy_pipa"))
    config.model.decode_head.num_classes = 100
    description = {**describe(config), "classes": None, "palette": None}
    return checkpoint(config, tmp_path_factory.mktemp("model") / "random.pth", description)


def test_memory_does_not_grow_with_the_number_of_windows(many_classes: Path) -> None:
    """36 windows, then 441 of the same picture: logits that are kept of each would be 2.6 GB."""
    few, many = measured(many_classes, 128, [(768, 768, 128), (768, 768, 32)])
    assert few < 2**28
    assert many < 2**27


def test_a_picture_costs_bytes_per_pixel_not_classes(many_classes: Path) -> None:
    """Four times as many rows: 100 classes in floats would be 400 bytes for each pixel, what is kept has about 50."""
    _, taller = measured(many_classes, 128, [(768, 768, 128), (3072, 768, 128)])
    assert taller < 100 * 3 * 768 * 768
