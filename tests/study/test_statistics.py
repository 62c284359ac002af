"""Statistics beside exact enumeration and SciPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipa.study.statistics import by_drive, class_differences, compare, compare_on_test, over_drives, paired
from pipa.study.tables import markdown, table_on_test

PARTS = ("intersect", "union")


@pytest.mark.parametrize("values", [[1.4, -0.3, 0.9], [0.1, 0.5, 2.0, -1.0, 0.7]])
def test_bootstrap_is_that_of_all_resamples(values: list[float]) -> None:
    means = [np.mean(chosen) for chosen in itertools.product(values, repeat=len(values))]
    low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    found = paired(range(len(values)), values)
    assert found.bootstrap == pytest.approx((low, high), abs=0.06)
    by_scipy = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(7))
    assert found.bootstrap == pytest.approx(tuple(by_scipy.confidence_interval), abs=0.06)


def test_t_interval_and_sign_test() -> None:
    values = [0.1, 0.5, 2.0, -1.0, 0.7, 0.0]
    found = paired(range(6), values)
    half = stats.t.ppf(0.975, 5) * np.std(values, ddof=1) / np.sqrt(6)
    assert found.student_t == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert (found.better, found.sign_p) == (4, stats.binomtest(4, 5).pvalue)
    assert paired(range(5), [1, 2, 3, 4, 5]).sign_p == pytest.approx(2 * 0.5**5)


def test_few_seeds() -> None:
    one = paired([0], [1.5])
    assert (one.mean, one.bootstrap, one.student_t, one.sign_p) == (1.5, None, None, 1.0)
    assert paired([0, 1], [0.0, 0.0]).sign_p is None
    assert paired([0, 1], [0.5, 0.5]).bootstrap == (0.5, 0.5)
    with pytest.raises(ValueError, match="expected a seed that both methods have"):
        paired([], [])


def test_only_seeds_that_both_have_are_compared() -> None:
    results = dict(runs=[run("a", 0, 50, 52), run("a", 1, 51, 53), run("b", 1, 49, None), run("b", 2, 10, None)])
    student, teacher = (compare(results, "a", "b", model) for model in ("student", "teacher"))
    assert student is not None
    assert teacher is not None
    # A training without a teacher counts with its one network.
    assert (student.seeds, student.mean, teacher.mean) == ((1,), 2.0, 4.0)
    assert class_differences(results, "a", "b", "teacher") == {"x": 4.0, "y": None}
    assert compare(results, "a", "c") is None


def test_a_page_without_a_pair_says_so() -> None:
    head = dict(study="s", title="t", baseline="b", evaluations=1, methods=["a", "b"])
    alone = markdown({**head, "runs": [run("a", 0, 50, 52), run("b", 1, 49, None)]})
    assert "No differences: no seed has runs of b and of another method yet." in alone
    assert "## Paired differences" not in alone
    both = markdown({**head, "runs": [run("a", 0, 50, 52), run("b", 0, 49, None)]})
    assert "| a | student | +1.00 |" in both
    assert "No differences" not in both


def test_interval_over_drives() -> None:
    rng = np.random.default_rng(0)
    runs = []
    for method, seed in itertools.product("ab", range(2)):
        union = rng.integers(50, 99, (6, 3))
        areas = {f"d{i}": dict(intersect=[int(u) // 2 for u in row], union=row.tolist()) for i, row in enumerate(union)}
        if method == "a":
            areas["d1"]["intersect"][0] += 20
        runs.append(dict(method=method, seed=seed, test=dict(student=areas)))
    results = dict(study="mine", runs=runs)

    def miou(entry: dict[str, Any], drives: tuple[int, ...]) -> float:
        total = {part: sum(np.array(entry["test"]["student"][f"d{i}"][part]) for i in drives) for part in PARTS}
        return float(100 * np.mean(total["intersect"] / total["union"]))

    def difference(drives: tuple[int, ...]) -> float:
        return np.mean([miou(runs[s], drives) - miou(runs[2 + s], drives) for s in range(2)])

    mean, interval = over_drives(results, "a", "b")
    assert mean == pytest.approx(difference(tuple(range(6))))
    every = [difference(drives) for drives in itertools.product(range(6), repeat=6)]
    assert interval == pytest.approx(np.percentile(every, [2.5, 97.5], method="inverted_cdf"), abs=0.5)
    assert over_drives(results, "a", "c") is None
    seeds = compare_on_test(results, "a", "b")
    assert seeds.differences == pytest.approx([miou(runs[i], range(6)) - miou(runs[2 + i], range(6)) for i in range(2)])
    assert seeds.mean == pytest.approx(mean)
    assert compare_on_test(results, "a", "c") is None
    # Of five drives the resamples are too few for an interval: each drive speaks for itself.
    for entry in runs:
        del entry["test"]["student"]["d5"]
    assert over_drives(results, "a", "b")[1] is None
    single = by_drive(results, "a", "b")
    assert list(single) == ["d0", "d1", "d2", "d3", "d4"]
    assert list(single.values()) == pytest.approx([difference((i,)) for i in range(5)])


def test_the_table_of_the_test_data_shows_seeds_where_there_are_several() -> None:
    """And of few drives each one's difference, as two make no interval."""
    areas = {"d0": dict(intersect=[50], union=[100]), "d1": dict(intersect=[60], union=[100])}
    better = {"d0": dict(intersect=[53], union=[100]), "d1": dict(intersect=[65], union=[100])}
    head = dict(study="s", title="t", baseline="b", evaluations=1, methods=["a", "b"])
    both = [
        {**run("a", 0, 50, None), "test": {"student": better}},
        {**run("b", 0, 50, None), "test": {"student": areas}},
    ]
    one = table_on_test({**head, "runs": both}).splitlines()
    assert one[0] == "|  | network | test mIoU | minus b | on each drive |"
    assert one[2] == "| a | student | 59.0 | +4.00 | +3.0, +5.0 |"
    more = [{**entry, "seed": 1} for entry in both]
    two = table_on_test({**head, "runs": both + more}).splitlines()
    assert two[0].endswith("| seed 0 | seed 1 | minus b | on each drive | 95 % t over seeds | better in |")
    assert two[2] == "| a | student | 59.0 ± 0.0 | 59.0 | 59.0 | +4.00 | +3.0, +5.0 | +4.00 to +4.00 | 2 of 2 |"
    assert two[3] == "| b | student | 55.0 ± 0.0 | 55.0 | 55.0 | – | – | – | – |"


def run(method: str, seed: int, student: float, teacher: float | None) -> dict[str, Any]:
    own = {"x": student, "y": None if method == "b" else 1.0}
    smooth = None if teacher is None else {"x": teacher, "y": 1.0}
    return dict(method=method, seed=seed, mIoU=student, teacher_mIoU=teacher, iou=own, teacher_iou=smooth)
