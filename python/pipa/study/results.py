"""results.json of a study: what is known of every finished run.

    {"study", "title", "baseline", "evaluations", "methods", "runs": [{"method", "seed", "mIoU", "teacher_mIoU",
     "iou", "teacher_iou", "curve", "log", "pseudo_labels", "embedding", "test", "settings", "seconds", "versions"}]}

All IoU are in per cent and follow the score rule, the mean of the last ``evaluations`` evaluations; ``teacher_*`` is
null for trainings without a teacher. ``curve`` holds every evaluation, ``log`` the training's scalars,
``pseudo_labels`` what :class:`pipa.mmseg.PseudoLabelMetric` found at every evaluation (of the teacher where there is
one), and from which probability (``threshold``) on it took a pixel for sure; ``embedding`` the distances of
:func:`pipa.mmseg.evaluation.embeddings.layout` at the end (older runs lack both), ``test`` null or the areas of each
class on the test data in pixels, ``{"student": {DRIVE: {"intersect", "union"}}}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipa.files.atomic import write_text
from pipa.files.plain import read_plain
from pipa.study.definition import Run, Study

MISSING = object()


def summary(run: Run, result: Mapping[str, Any], evaluations: int) -> dict[str, Any]:
    """The entry of a finished run.

    Args:
        result: what the worker left: evaluations, log, classes, seconds, versions.
        evaluations: the score is the mean of the last so many.

    Raises:
        ValueError: the training was evaluated fewer times than the score needs.
    """
    lines = result["evaluations"]
    if len(lines) < evaluations:
        raise ValueError(
            f"{run.method}, seed {run.seed}: the score is the mean of the last {evaluations} evaluations, "
            f"but the training has {len(lines)}; set train_cfg.val_interval in the study's settings"
        )
    last = lines[-evaluations:]
    teacher = "teacher/mIoU" in last[-1]
    curve = {"iteration": [line["iteration"] for line in lines], "mIoU": [rounded(line["mIoU"]) for line in lines]}
    if teacher:
        curve["teacher_mIoU"] = [rounded(line["teacher/mIoU"]) for line in lines]
    names = result["classes"]
    return {
        "method": run.method,
        "seed": run.seed,
        "mIoU": average(last, "mIoU"),
        "teacher_mIoU": average(last, "teacher/mIoU") if teacher else None,
        "iou": {name: average(last, f"IoU.{name}") for name in names},
        "teacher_iou": {name: average(last, f"teacher/IoU.{name}") for name in names} if teacher else None,
        "curve": curve,
        "log": columns(result["log"]),
        "pseudo_labels": {"threshold": result.get("threshold")} | quality(lines, names, "teacher/" if teacher else ""),
        "embedding": {name: rounded(value) for name, value in result.get("embedding", {}).items()},
        "test": result["test"],
        "settings": run.recorded(),
        "seconds": round(result["seconds"], 1),
        "versions": {**result["versions"], **({"config": result["config"]} if "config" in result else {})},
    }


def quality(lines: Sequence[Mapping[str, float]], names: Sequence[str], prefix: str) -> dict[str, Any]:
    """Evaluations of the pseudo-labels by quantity, those of the classes by class; null where a version before this one
    made the evaluation."""

    def column(key: str) -> list[float | None]:
        return [rounded(line.get(prefix + key, math.nan)) for line in lines]

    found: dict[str, Any] = {key: column(key) for key in ("sure", "sure_right")}
    for key in ("found", "right"):
        found[key] = {name: column(f"{key}.{name}") for name in names}
    return found


def average(lines: Sequence[Mapping[str, float]], key: str) -> float | None:
    """Mean of a metric; null where a class neither occurs nor is predicted, as JSON has no NaN."""
    values = [line[key] for line in lines]
    mean = sum(values) / len(values)
    return rounded(mean)


def rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def columns(lines: Sequence[Mapping[str, float]]) -> dict[str, dict[str, list[float | None]]]:
    """Scalars by name, each with its own iterations: some are logged more rarely than others."""
    found: dict[str, dict[str, list[Any]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "iteration":
                column = found.setdefault(name, {"iteration": [], "value": []})
                column["iteration"].append(line["iteration"])
                column["value"].append(float(f"{value:.4g}") if math.isfinite(value) else None)
    return found


def read_results(path: Path) -> dict[str, Any]:
    """A results.json. A ValueError names the file where it is none."""
    content = read_plain(path)
    needed = ("study", "title", "baseline", "evaluations", "methods", "runs")
    if not isinstance(content, dict) or any(key not in content for key in needed):
        raise ValueError(f"{path}: expected the results of a study with {', '.join(needed)}")
    if not isinstance(content["runs"], list):
        raise ValueError(f"{path}: runs: expected a list, got {type(content['runs']).__name__}")
    for i, run in enumerate(content["runs"]):
        check_entry(run, f"{path}: runs.{i}")
    return content


def check_entry(run: Any, place: str) -> None:
    """Refuse a run that has no score, or nothing to tell it by."""
    kinds: dict[str, tuple[Any, str]] = {
        "method": (str, "a name"),
        "seed": (int, "a whole number"),
        "mIoU": ((int, float), "a number"),
        "teacher_mIoU": ((int, float, type(None)), "a number or null"),
        "curve": (Mapping, "a mapping"),
        "settings": (Mapping, "a mapping"),
        "seconds": ((int, float), "a number"),
    }
    if not isinstance(run, Mapping):
        raise ValueError(f"{place}: expected a mapping, got {run!r}")
    for key, (kind, expected) in kinds.items():
        if not isinstance(run.get(key, MISSING), kind):
            raise ValueError(f"{place}: {key}: expected {expected}, got {run.get(key, 'nothing')!r}")


def write_results(path: Path, study: Study, entries: Sequence[Mapping[str, Any]]) -> None:
    """All finished runs, method by method and seed by seed."""
    order = {method: i for i, method in enumerate(study.methods)}
    head = {
        "study": study.name,
        "title": study.title,
        "baseline": study.baseline,
        "evaluations": study.evaluations,
        "methods": list(study.methods),
    }
    runs = sorted(entries, key=lambda entry: (order.get(entry["method"], len(order)), entry["seed"]))
    # A line per run: a page of numbers that a version control can compare.
    body = ",\n".join(json.dumps(run) for run in runs)
    text = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + body + "\n]}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def kept(path: Path, study: Study) -> list[dict[str, Any]]:
    """Runs of an earlier results file; those of the study's methods must have been made with its settings.

    Raises:
        ValueError: the file is another study's, or a run of it was made with other settings.
    """
    if not path.is_file():
        return []
    content = read_results(path)
    for key, value in (("study", study.name), ("evaluations", study.evaluations)):
        if content[key] != value:
            raise ValueError(f"{path}: expected results with {key} {value!r}, got {content[key]!r}; give another --out")
    # Of the whole study, not of the part that is asked for: tables show all that the file has.
    wanted = {run.method: run.recorded() for run in study.whole}
    for entry in content["runs"]:
        theirs = entry["settings"]
        ours = json.loads(json.dumps(wanted.get(entry["method"], theirs)))
        for key in {**ours, **theirs}:
            if ours.get(key, MISSING) != theirs.get(key, MISSING):
                made, said = (repr(one[key]) if key in one else "nothing" for one in (theirs, ours))
                raise ValueError(
                    f"{path}: {entry['method']}, seed {entry['seed']} was made with {key} {made}, but the study says "
                    f"{said}; give another --out"
                )
    return content["runs"]
