"""What the trainings of a study look like from inside, as Markdown tables: gradients, pseudo-labels, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipa.study.tables import methods, seeds_of, shared, table

# Terms in the order of their columns; those on mixed images stand with their own on the source. Others come after.
ORDER = ("source", "mix", "pixel", "patch", "distribution", "mask")
SAME = {"pixel_mix": "pixel", "distribution_mix": "distribution", "feature_distance_target": "feature_distance"}
PREFIXES = {"student": "grad_norm_", "encoder": "encoder_grad_norm_"}
DISTANCES = ("source_within", "source_between", "target_within", "target_between", "across")


def gradient_table(results: Mapping[str, Any], part: str) -> str | None:
    """Share of each term in the sum of the gradient norms of ``part``, mean of the second half of the log."""
    results = shared(results, lambda run: gradient_shares(run["log"], part))
    shares = {
        m: [s for run in runs_of(results, m) if (s := gradient_shares(run["log"], part))] for m in methods(results)
    }
    there = {term for of_method in shares.values() for share in of_method for term in share}
    heads = [*(term for term in ORDER if term in there), *sorted(there.difference(ORDER))]
    rows = [
        [method, *(mean([share.get(head) for share in of_method], 0) for head in heads)]
        for method, of_method in shares.items()
        if of_method
    ]
    title = f"Share of each term in the sum of the {part}'s gradient norms, in per cent, {seeds_of(results)}:"
    return titled(title, ["", *heads], rows)


def gradient_shares(log: Mapping[str, Any], part: str = "student") -> dict[str, float]:
    """Per cent by term, in the whole ``student`` or its ``encoder``; empty where no such gradient norms were logged."""
    prefix, norms = PREFIXES[part], dict[str, float]()
    for name, values in log.items():
        term = SAME.get(name.removeprefix(prefix), name.removeprefix(prefix))
        if name.startswith(prefix):
            late = [v for v in values["value"][len(values["value"]) // 2 :] if v is not None]
            norms[term] = norms.get(term, 0.0) + (float(np.mean(late)) if late else 0.0)
    total = sum(norms.values())
    return {term: 100 * norm / total for term, norm in norms.items()} if total > 0 else {}


def threshold_of(run: Mapping[str, Any]) -> float | None:
    """From which probability on a run took a pixel for sure; None of a run that says nothing of it."""
    return (run.get("pseudo_labels") or {}).get("threshold")


def labelled(results: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The runs whose pseudo-labels compare, of the seeds that every method has, and why which methods are left out.

    A run without adaptation has no threshold of its own: it counts where it was measured at the baseline's. Trainings
    with another threshold count with theirs, which is what they learned from.
    """
    runs = [run for run in results["runs"] if run.get("pseudo_labels")]
    common = {threshold_of(run) for run in runs if run["method"] == results["baseline"]}
    compare = [run for run in runs if run["settings"].get("adapt", True) or not common or threshold_of(run) in common]
    kept = {run["method"] for run in compare}
    out = [
        f"{method} ({threshold_of(run)})"
        for method in methods(results)
        for run in runs
        if run["method"] == method and method not in kept
    ]
    together = shared({**results, "runs": compare})
    apart = sorted(kept - {run["method"] for run in together["runs"]}, key=results["methods"].index)
    reasons = {"measured from another probability on": list(dict.fromkeys(out)), "of other seeds": apart}
    return together, [f"as {reason}: {', '.join(names)}" for reason, names in reasons.items() if names]


def label_table(results: Mapping[str, Any]) -> str | None:
    """Sure pixels of the target, how many of them are right, and the share of each class that is found, at the end."""
    results, left_out = labelled(results)
    usual = {threshold_of(run) for run in runs_of(results, results["baseline"])}
    last, rows, names = results["evaluations"], [], []
    for method in methods(results):
        found = [run["pseudo_labels"] for run in runs_of(results, method)]
        if found:
            names = list(found[0]["found"])
            end = [[late(one[key], last) for one in found] for key in ("sure", "sure_right")]
            end += [[late(one["found"][name], last) for one in found] for name in names]
            own = {one.get("threshold") for one in found}
            shown = method if own == usual or not usual else f"{method} (from {', '.join(map(str, own))})"
            rows.append([shown, *(mean(values, 0) for values in end)])
    made = titled(
        f"Pseudo-labels on the validation data (teachers; source-only: its one network), in per cent, "
        f"{seeds_of(results)}: sure pixels, "
        "those of them that are right, and of each class the pixels that are sure and right:",
        ["", "sure", "right", *names],
        rows,
    )
    if made is None or not left_out:
        return made
    return f"{made}\n\nNot shown, {'; '.join(left_out)}."


def embedding_table(results: Mapping[str, Any]) -> str | None:
    """Cosine distances in the student's encoder at the end: within and between classes, of a class across domains."""
    results, rows = shared(results, lambda run: run.get("embedding")), []
    for method in methods(results):
        found = [run["embedding"] for run in runs_of(results, method)]
        if found:
            cells = [mean([one[key] for one in found], 3) for key in DISTANCES]
            matched = [None if one["matched"] is None else 100 * one["matched"] for one in found]
            rows.append([method, *cells, mean(matched, 0)])
    heads = ["within, source", "between, source", "within, target", "between, target", "across", "matched, %"]
    return titled(
        f"Cosine distances of the encoder's maps, {seeds_of(results)}: of pixels to their class's mean direction, of "
        "two classes' directions, of a class's directions on source and target; classes whose direction on the target "
        "is nearest to its own on the source. Source is the labelled data of the training, which for an oracle is the "
        "target:",
        ["", *heads],
        rows,
    )


def inside(results: Mapping[str, Any]) -> str:
    """All tables that have a row, each of the seeds of which every method has its numbers."""
    gradients = (gradient_table(results, part) for part in PREFIXES)
    made = (*gradients, label_table(results), embedding_table(results))
    return "\n\n".join(text for text in made if text is not None)


def titled(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str | None:
    """A sentence and its table; None without rows, which older results give."""
    return f"{title}\n\n{table(heads, rows)}" if rows else None


def runs_of(results: Mapping[str, Any], method: str) -> list[Mapping[str, Any]]:
    return [run for run in results["runs"] if run["method"] == method]


def late(values: Sequence[float | None], last: int) -> float | None:
    """Mean of the last evaluations, as the score rule has it."""
    known = [v for v in values[-last:] if v is not None]
    return float(np.mean(known)) if known else None


def mean(values: Sequence[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.{digits}f}" if known else "–"
