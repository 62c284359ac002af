"""Rare class sampling against the probabilities of the released code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmseg")

from pipa.files.statistics import match_files
from pipa.mmseg.datasets.rare_class_sampling import class_probabilities


@pytest.mark.parametrize("temperature", ["0.01", "0.1", "0.5", "1.0"])
def test_class_probabilities(golden: Path, temperature: str) -> None:
    stats = json.loads((golden / "rcs/sample_class_stats.json").read_text())
    expected = json.loads((golden / "rcs/rcs_probs.json").read_text())[temperature]
    classes, probabilities = class_probabilities(stats, float(temperature))
    assert classes == expected["classes"]
    np.testing.assert_allclose(probabilities, np.float32(expected["probs"]), rtol=2e-5)
    assert probabilities.dtype == np.float32


def test_softmax_of_one_minus_frequency() -> None:
    """Independent of the golden data: P(c) = softmax((1 - f_c) / T) in float64."""
    stats = [{"0": 70, "1": 20, "file": "a"}, {"0": 5, "2": 5, "file": "b"}]
    classes, probabilities = class_probabilities(stats, 0.2)
    weight = np.exp((1 - np.array([0.05, 0.20, 0.75])) / 0.2)
    assert classes == [2, 1, 0]
    np.testing.assert_allclose(probabilities, weight / weight.sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        class_probabilities(stats, 0)


def test_files_are_matched_by_their_shortest_distinct_tail() -> None:
    labels = ["/data/a/x/1.png", "/data/b/x/1.png", "/data/b/x/2.png"]
    assert match_files(["old/b/x/1.png", "old/a/x/1.png", "old/c/x/1.png"], labels) == [1, 0, None]
    # Statistics of train and val beside the labels of train alone.
    both = ["old/val/1.png", "old/train/1.png", "old/train/2.png"]
    assert match_files(both, ["/new/train/1.png", "/new/train/2.png"]) == [None, 0, 1]
    assert match_files(both, ["/new/gt/1.png", "/new/gt/2.png"]) == [None, None, None]
    assert match_files(["q/2.png"], ["/z/2.png", "/z/3.png"]) == [0]
