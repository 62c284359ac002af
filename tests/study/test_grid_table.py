"""A grid of two settings as one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipa.study.definition import read_study
from pipa.study.tables import grid_table, markdown

STUDY = """
title: Weights
config: toy_pipa
seeds: [0, 1]
score: {evaluations: 1}
baseline: pixel_weight 0.0, patch_size 32x32
grid: {pipa.pixel_weight: [0.0, 0.1], pipa.patch_size: [[32, 32], [48, 64], [64, 64]]}
"""


def test_rows_are_the_first_setting_and_columns_the_second(tmp_path: Path) -> None:
    file = tmp_path / "weights.yaml"
    file.write_text(STUDY)
    study = read_study(file)
    runs = [
        (0.0, "32x32", 0, 40.0, 44.0),
        (0.0, "32x32", 1, 41.0, 46.0),
        (0.1, "32x32", 0, 42.26, None),
        (0.1, "64x64", 0, 50.0, 51.0),
        (0.1, "64x64", 1, 52.0, 51.5),
    ]
    entries = [
        {"method": f"pixel_weight {a}, patch_size {b}", "seed": seed, "mIoU": student, "teacher_mIoU": teacher}
        for a, b, seed, student, teacher in runs
    ]
    results = {
        "study": "weights",
        "title": "Weights",
        "baseline": study.baseline,
        "methods": list(study.methods),
        "evaluations": 1,
        "runs": entries,
    }
    assert grid_table(results).splitlines() == [
        "| pixel_weight \\ patch_size | 32x32 | 48x64 | 64x64 |",
        "| --- | ---: | ---: | ---: |",
        "| 0.0 | 40.5 / 45.0 | – | – |",
        "| 0.1 | 42.3 (1 of 2 seeds) | – | 51.0 / 51.2 |",
    ]
    for methods in (["PiPa", "self-training"], ["patch_size 32x32"], ["a 1, b 2, c 3"], ["a 1, b 2", "c 1, b 3"]):
        with pytest.raises(ValueError, match="study weights: expected a grid of two settings"):
            grid_table({**results, "methods": methods})


def test_the_page_of_a_study_holds_it() -> None:
    results = {
        "study": "x",
        "title": "X",
        "baseline": "a 1, b 1",
        "methods": ["a 1, b 1", "a 1, b 2"],
        "evaluations": 1,
    }
    runs = [{"method": "a 1, b 2", "seed": 0, "mIoU": 40.0, "teacher_mIoU": None}]
    assert "| 1 | – | 40.0 |" in markdown({**results, "runs": runs})
