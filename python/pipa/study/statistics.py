"""What differs by more than chance: paired differences over seeds, by SciPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

RESAMPLES = 9999
# Resampling fewer units than these says little more than what each of them is: of two, all resamples are four.
FEWEST_DRIVES = 6
MODELS = ("student", "teacher")


@dataclass(frozen=True)
class Paired:
    """Differences of two methods, seed by seed.

    Attributes:
        seeds, differences: of the seeds that both methods have, in points of per cent.
        mean: of the differences.
        bootstrap: 95 % interval of the mean, by resampling the seeds (percentile); None below two seeds.
        student_t: 95 % interval by Student's t, which is honest about how little few seeds say; None below two seeds.
        better: seeds with a difference above 0.
        sign_p: two-sided p of the sign test (differences of 0 left out); None where none is left. Five seeds that all
            point one way give 0.0625: fewer than six cannot reach 0.05.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    bootstrap: tuple[float, float] | None
    student_t: tuple[float, float] | None
    better: int
    sign_p: float | None


def paired(seeds: Sequence[int], differences: Sequence[float]) -> Paired:
    """Statistics of differences that are there already.

    >>> paired([0, 1, 2], [1.0, 2.0, 3.0]).mean
    2.0
    """
    values = np.asarray(differences, dtype=float)
    if len(values) == 0:
        raise ValueError("paired: expected a seed that both methods have, got none")
    bootstrap = student_t = None
    if len(values) > 1:
        if np.ptp(values) == 0:  # every resample is the same: SciPy would warn and give NaN
            bootstrap = student_t = (float(values[0]), float(values[0]))
        else:
            interval = stats.bootstrap(
                (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
            ).confidence_interval
            bootstrap = (float(interval.low), float(interval.high))
            by_t = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
            student_t = (float(by_t.low), float(by_t.high))
    better, worse = int((values > 0).sum()), int((values < 0).sum())
    sign_p = float(stats.binomtest(better, better + worse, 0.5).pvalue) if better + worse else None
    return Paired(tuple(seeds), tuple(map(float, values)), float(values.mean()), bootstrap, student_t, better, sign_p)


def compare(results: Mapping[str, Any], method: str, baseline: str, model: str = "student") -> Paired | None:
    """Paired differences of two methods of a study; None where they share no seed.

    Args:
        model: "student", or "teacher": then a training without a teacher counts with its one network.
    """
    ours, theirs = scores(results, method, model), scores(results, baseline, model)
    seeds = sorted(set(ours) & set(theirs))
    return paired(seeds, [ours[s] - theirs[s] for s in seeds]) if seeds else None


def scores(results: Mapping[str, Any], method: str, model: str = "student") -> dict[int, float]:
    """Score of each seed of a method."""
    found = {}
    for run in results["runs"]:
        if run["method"] == method:
            teacher = run["teacher_mIoU"] if model == "teacher" else None
            found[run["seed"]] = run["mIoU"] if teacher is None else teacher
    return found


def class_differences(
    results: Mapping[str, Any], method: str, baseline: str, model: str = "student"
) -> dict[str, float | None]:
    """Mean paired difference of each class; None where a class has no IoU in one of the runs."""
    ours, theirs = (class_scores(results, name, model) for name in (method, baseline))
    seeds = sorted(set(ours) & set(theirs))
    names = list(next(iter(ours.values()))) if ours else []
    means: dict[str, float | None] = {}
    for name in names:
        values = [
            ours[s][name] - theirs[s][name]
            for s in seeds
            if ours[s][name] is not None and theirs[s].get(name) is not None
        ]
        means[name] = sum(values) / len(values) if values and len(values) == len(seeds) else None
    return means


def class_scores(results: Mapping[str, Any], method: str, model: str) -> dict[int, dict[str, Any]]:
    """IoU of the classes by seed."""
    return {
        run["seed"]: run["teacher_iou"] if model == "teacher" and run["teacher_iou"] else run["iou"]
        for run in results["runs"]
        if run["method"] == method
    }


def scores_on_test(results: Mapping[str, Any], method: str, model: str = "student") -> dict[int, float]:
    """mIoU of each seed of a method on the test data, all drives together."""
    return {seed: float(miou(areas.sum(1))) for seed, areas in drive_areas(results, method, model)[1].items()}


def compare_on_test(results: Mapping[str, Any], method: str, baseline: str, model: str = "student") -> Paired | None:
    """Paired differences on the test data, all drives together; None where the two share no tested seed."""
    ours, theirs = scores_on_test(results, method, model), scores_on_test(results, baseline, model)
    seeds = sorted(set(ours) & set(theirs))
    return paired(seeds, [ours[s] - theirs[s] for s in seeds]) if seeds else None


def over_drives(
    results: Mapping[str, Any], method: str, baseline: str, model: str = "student"
) -> tuple[float, tuple[float, float] | None] | None:
    """Mean difference on the test data over the common seeds, and its 95 % interval by resampling the drives.

    None where the two methods share no tested seed; no interval below six drives, for which see :func:`by_drive`.
    """
    found = drive_differences(results, method, baseline, model)
    if found is None:
        return None
    names, difference = found
    every = np.arange(len(names))
    mean = float(difference(every))
    if len(names) < FEWEST_DRIVES:
        return mean, None
    # So many, and 500 at a time for memory: with 2000 resamples the ends still move by a tenth of the interval.
    interval = stats.bootstrap(
        (every,), difference, n_resamples=RESAMPLES, batch=500, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return mean, (float(interval.low), float(interval.high))


def by_drive(results: Mapping[str, Any], method: str, baseline: str, model: str = "student") -> dict[str, float] | None:
    """Mean difference over the common seeds on each drive of the test data; None where there is no such seed."""
    found = drive_differences(results, method, baseline, model)
    return None if found is None else {name: float(found[1](np.array([i]))) for i, name in enumerate(found[0])}


def drive_differences(
    results: Mapping[str, Any], method: str, baseline: str, model: str
) -> tuple[list[str], Callable[..., np.ndarray]] | None:
    """Names of the drives, and the mean difference over the common seeds on some of them, (..., drives) -> (...)."""
    names, ours = drive_areas(results, method, model)
    others, theirs = drive_areas(results, baseline, model)
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    if names != others:
        raise ValueError(f"{results['study']}: {method} and {baseline} were tested on different drives")

    def difference(drives: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = [(ours[s][:, drives], theirs[s][:, drives]) for s in seeds]  # (2, ..., drives, classes)
        return np.mean([miou(a.sum(-2)) - miou(b.sum(-2)) for a, b in pairs], axis=0)

    return names, difference


def drive_areas(results: Mapping[str, Any], method: str, model: str) -> tuple[list[str], dict[int, np.ndarray]]:
    """Names of the drives, and by seed the areas (2, drives, classes): intersections and unions in pixels."""
    names: list[str] = []
    found = {}
    for run in results["runs"]:
        if run["method"] == method and run.get("test"):
            drives = run["test"].get(model) or run["test"]["student"]
            names = sorted(drives)
            found[run["seed"]] = np.array([[drives[n][part] for n in names] for part in ("intersect", "union")], float)
    return names, found


def miou(areas: np.ndarray) -> np.ndarray:
    """Mean IoU in per cent of areas (2, ..., classes), over the classes that occur or are predicted."""
    intersect, union = areas
    there = union > 0
    return 100 * np.divide(intersect, union, out=np.zeros_like(union), where=there).sum(-1) / there.sum(-1)


def has_teacher(results: Mapping[str, Any], method: str) -> bool:
    return any(run["teacher_mIoU"] is not None for run in results["runs"] if run["method"] == method)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample deviation; no deviation of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
