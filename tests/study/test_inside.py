"""What a study says of its trainings from inside, against plain loops and the network's own pseudo-labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("mmseg")

from pipa import functional
from pipa.mmseg import PseudoLabelMetric
from pipa.mmseg.evaluation.embeddings import class_means, layout
from pipa.study.definition import Run
from pipa.study.inside import gradient_shares, inside
from pipa.study.plots import label_curves
from pipa.study.results import summary
from pipa.study.tables import shared

CLASSES = ("road", "sky", "car")


def test_pseudo_labels_are_counted_pixel_by_pixel() -> None:
    metric = PseudoLabelMetric(threshold=0.6)
    metric.dataset_meta = dict(classes=CLASSES)
    labelled, taken, right = np.zeros(3), np.zeros(3), np.zeros(3)
    sure_pixels = 0
    for _ in range(3):
        logits, label = 2 * torch.randn(3, 7, 9), torch.randint(0, 4, (1, 7, 9))
        label[label == 3] = 255
        label[0, 0, :2] = torch.tensor([77, -1])  # ids that are no class
        metric.process({}, [dict(seg_logits=dict(data=logits), gt_sem_seg=dict(data=label))])
        for y in range(7):
            for x in range(9):
                if int(label[0, y, x]) not in (0, 1, 2):
                    continue
                p = np.exp(logits[:, y, x].double().numpy())
                p, k = (p / p.sum()).max(), int(p.argmax())
                labelled[int(label[0, y, x])] += 1
                taken[k] += p >= 0.6
                right[k] += p >= 0.6 and k == int(label[0, y, x])
        # The same pixels are sure as in the step's own pseudo-labels.
        _, weight = functional.pseudo_label(logits[None], threshold=0.6)
        sure_pixels += int((logits.softmax(0).amax(0) >= 0.6).sum())
        assert float(weight.flatten()[0]) == pytest.approx(float((logits.softmax(0).amax(0) >= 0.6).double().mean()))
    found = metric.evaluate(3)
    assert found["sure"] == pytest.approx(100 * taken.sum() / labelled.sum())
    assert found["sure_right"] == pytest.approx(100 * right.sum() / taken.sum())
    for i, name in enumerate(CLASSES):
        assert found[f"found.{name}"] == pytest.approx(100 * right[i] / labelled[i])
        assert found[f"right.{name}"] == pytest.approx(100 * right[i] / taken[i])
    assert sure_pixels > taken.sum()  # ignored pixels counted nowhere


def test_a_class_without_pixels_is_nan_and_one_map_is_refused() -> None:
    metric = PseudoLabelMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    logits = torch.stack([torch.full((2, 2), 9.0), torch.zeros(2, 2), torch.zeros(2, 2)])
    metric.process(
        {}, [dict(seg_logits=dict(data=logits), gt_sem_seg=dict(data=torch.zeros(1, 2, 2, dtype=torch.long)))]
    )
    found = metric.evaluate(1)
    assert found["found.road"] == 100.0
    assert np.isnan(found["found.sky"])
    assert np.isnan(found["right.sky"])
    with pytest.raises(ValueError, match="a map of logits for each class"):
        metric.process({}, [dict(seg_logits=dict(data=logits[:1]), gt_sem_seg=dict(data=torch.zeros(1, 2, 2)))])


def test_embedding_distances_are_those_of_plain_loops() -> None:
    def features(image: Tensor) -> list[Tensor]:
        return [image[:, :4], torch.nn.functional.avg_pool2d(image[:, 4:], 2)]

    def batches(seed: int) -> list[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(seed)
        made = []
        for _ in range(2):
            label = torch.randint(0, 4, (2, 6, 8), generator=g)
            label[label == 3] = 255
            made.append((torch.randn(2, 7, 6, 8, generator=g) + label[:, None] % 5, label))
        return made

    means, loops = [], []
    for seed in (0, 1):
        means.append(class_means(batches(seed), features, 3))
        by_class: dict[int, list[np.ndarray]] = {k: [] for k in range(3)}
        for image, label in batches(seed):
            fine, coarse = features(image)
            coarse = coarse / coarse.norm(dim=1, keepdim=True)
            coarse = torch.nn.functional.interpolate(coarse, (6, 8), mode="bilinear", align_corners=False)
            joined = torch.cat([fine / fine.norm(dim=1, keepdim=True), coarse], 1).double().numpy()
            for b in range(2):
                for y in range(6):
                    for x in range(8):
                        if (k := int(label[b, y, x])) < 3:
                            by_class[k].append(joined[b, :, y, x] / np.linalg.norm(joined[b, :, y, x]))
        loops.append(by_class)
    found = layout(*means)
    unit = [{k: np.mean(v, 0) / np.linalg.norm(np.mean(v, 0)) for k, v in by_class.items()} for by_class in loops]
    for side, directions, by_class in zip(("source", "target"), unit, loops, strict=True):
        within = np.mean([np.mean([1 - p @ directions[k] for p in by_class[k]]) for k in range(3)])
        pairs = [(0, 1), (0, 2), (1, 2)]
        between = np.mean([1 - directions[i] @ directions[j] for i, j in pairs])
        assert found[f"{side}_within"] == pytest.approx(within, rel=1e-5)
        assert found[f"{side}_between"] == pytest.approx(between, rel=1e-5)
    across = [[1 - unit[1][t] @ unit[0][s] for s in range(3)] for t in range(3)]
    assert found["across"] == pytest.approx(np.trace(across) / 3, rel=1e-5)
    assert found["matched"] == pytest.approx(np.mean([int(np.argmin(row)) == k for k, row in enumerate(across)]))


def results(labels: bool) -> dict[str, Any]:
    log = {
        "grad_norm_source": {"iteration": [1, 2, 3, 4], "value": [9.0, 9.0, 1.0, 2.0]},
        "grad_norm_pixel": {"iteration": [1, 2, 3, 4], "value": [9.0, 9.0, 0.2, 0.3]},
        "grad_norm_pixel_mix": {"iteration": [1, 2, 3, 4], "value": [9.0, 9.0, 0.5, 0.5]},
    }
    runs = []
    for seed in (0, 1):
        run: dict[str, Any] = dict(
            method="PiPa", seed=seed, log=log, settings={}, curve=dict(iteration=[5, 10], mIoU=[1, 2])
        )
        if labels:
            run["pseudo_labels"] = dict(
                sure=[10.0, 40.0 + seed], sure_right=[50.0, 90.0], found=dict(road=[1.0, 30.0], sky=[None, None])
            )
            keys = ("source_within", "source_between", "target_within", "target_between", "across")
            run["embedding"] = dict.fromkeys(keys, 0.25 + seed / 10) | {"matched": 0.5}
        runs.append(run)
    return dict(study="s", evaluations=1, methods=["PiPa"], baseline="PiPa", runs=runs)


def test_a_run_that_an_earlier_version_began_is_kept() -> None:
    run = Run("PiPa", 0, "toy_pipa", True, {})
    lines = [
        {"iteration": i, "mIoU": 1.0, "IoU.road": 1.0, "teacher/mIoU": 2.0, "teacher/IoU.road": 2.0} for i in (1, 2)
    ]
    keys = ("sure", "sure_right", "found.road", "right.road")
    lines[1] |= {f"teacher/{key}": 40.0 for key in keys}
    result = dict(evaluations=lines, log=[], classes=["road"], test=None, seconds=1.0, versions={})
    entry = summary(run, result, 2)
    assert entry["pseudo_labels"]["sure"] == [None, 40.0]
    assert entry["pseudo_labels"]["found"] == {"road": [None, 40.0]}
    assert (
        inside(dict(study="s", evaluations=2, baseline="PiPa", methods=["PiPa"], runs=[entry])).count("| PiPa | 40 |")
        == 1
    )


def test_gradient_shares_are_of_the_second_half_and_one_term_each() -> None:
    shares = gradient_shares(results(False)["runs"][0]["log"])
    assert shares == pytest.approx({"source": 100 * 1.5 / 2.25, "pixel": 100 * 0.75 / 2.25})
    more = {**results(False)["runs"][0]["log"], "grad_norm_feature_distance": {"iteration": [1], "value": [2.25]}}
    table = inside(
        dict(study="s", evaluations=1, baseline="a", methods=["a"], runs=[dict(method="a", seed=0, log=more)])
    )
    assert "|  | source | pixel | feature_distance |" in table
    assert "| a | 33 | 17 | 50 |" in table
    assert gradient_shares({"loss": {"iteration": [1], "value": [1.0]}}) == {}
    # The encoder's own norms, where they were logged, make a table of their own.
    encoder = {f"encoder_{name}": {"iteration": [1], "value": [value]} for name, value in
               {"grad_norm_source": 1.0, "grad_norm_pixel": 3.0}.items()}  # fmt: skip
    both = dict(method="a", seed=0, log={**results(False)["runs"][0]["log"], **encoder})
    tables = inside(dict(study="s", evaluations=1, baseline="a", methods=["a"], runs=[both]))
    assert "in the sum of the student's" in tables
    assert "in the sum of the encoder's" in tables
    assert "| a | 67 | 33 |" in tables
    assert "| a | 25 | 75 |" in tables


def test_tables_and_plots_show_what_there_is(tmp_path: Path) -> None:
    text = inside(results(True))
    assert "|  | source | pixel |" in text
    assert "| PiPa | 67 | 33 |" in text
    assert "| PiPa | 40 | 90 | 30 | – |" in text  # 40.5 to even
    assert "| PiPa | 0.300 | 0.300 | 0.300 | 0.300 | 0.300 | 50 |" in text
    drawn = label_curves(results(True), tmp_path / "labels.svg")
    assert drawn is not None
    assert "road" in drawn.read_text()
    # Runs of before have gradients alone.
    assert inside(results(False)).count("| PiPa |") == 1
    assert label_curves(results(False), tmp_path / "none.svg") is None


def test_pseudo_labels_are_compared_at_one_threshold(tmp_path: Path) -> None:
    """A run without adaptation is measured at a threshold, and has none of its own."""

    def run(method: str, seed: int, threshold: float, sure: float) -> dict[str, Any]:
        entry = results(True)["runs"][0]
        labels = {**entry["pseudo_labels"], "threshold": threshold, "sure": [0.0, sure]}
        return {**entry, "method": method, "seed": seed, "settings": {"adapt": method != "s"}, "pseudo_labels": labels}

    runs = [run("s", 0, 0.968, 11.0), run("a", 0, 0.9, 22.0), run("a", 1, 0.9, 33.0), run("b", 0, 0.95, 44.0)]
    study = dict(study="s", evaluations=1, baseline="a", methods=["s", "a", "b"], runs=runs)
    text = inside(study)
    assert "| a | 22 | 90 |" in text
    assert "| b (from 0.95) | 44 | 90 |" in text  # what it learned from
    assert "| s | 11 |" not in text
    assert "Not shown, as measured from another probability on: s (0.968)." in text
    drawn = label_curves(study, tmp_path / "labels.svg")
    assert drawn is not None
    alike = {**study, "runs": [*runs[1:], run("s", 1, 0.9, 55.0), run("b", 1, 0.95, 66.0)]}
    assert "| s | 55 | 90 |" in inside(alike)
    assert "| a | 33 | 90 |" in inside(alike)  # of seed 1, which all have
    assert "Not shown" not in inside(alike)


def test_methods_are_compared_on_the_seeds_that_all_have() -> None:
    """A study that is not whole: the mean of other seeds would be taken for a difference of methods."""
    entry = results(True)["runs"][0]
    low, high = ({**entry, "embedding": dict(entry["embedding"], across=value)} for value in (0.1, 0.9))
    runs = [{**low, "method": m, "seed": 0} for m in ("a", "b")] + [{**high, "method": "a", "seed": 1}]
    study = dict(study="s", evaluations=1, methods=["a", "b"], baseline="a", runs=runs)
    assert inside(study).count("| 0.250 | 0.250 | 0.250 | 0.250 | 0.100 | 50 |") == 2
    assert [run["method"] for run in shared(study)["runs"]] == ["a", "b"]
    # Without a common seed as few methods as possible are left out, and never the baseline.
    assert [run["method"] for run in shared({**study, "runs": runs[1:]})["runs"]] == ["a"]
    seeds = {"a": (0, 1, 2), "b": (3, 4), "c": (1, 2, 5), "d": (2, 4)}
    runs = [{**low, "method": m, "seed": seed} for m, own in seeds.items() for seed in own]
    kept = shared({**study, "methods": list(seeds), "runs": runs})["runs"]
    assert [(run["method"], run["seed"]) for run in kept] == [("a", 2), ("c", 2), ("d", 2)]


def test_means_are_of_the_seeds_whose_numbers_every_method_has() -> None:
    """Looks are newer than the scores of some runs: a mean of seeds 0 and 1 beside one of seed 1 alone says nothing."""
    keys = ("source_within", "source_between", "target_within", "target_between", "across", "matched")

    def run(method: str, seed: int, value: float | None) -> dict[str, Any]:
        return dict(method=method, seed=seed, log={}, embedding=dict.fromkeys(keys, value) if value is not None else {})

    runs = [run("a", 0, 0.25), run("a", 1, 0.75), run("b", 0, None), run("b", 1, 0.5), run("c", 1, None)]
    table = inside(dict(study="s", evaluations=1, baseline="a", methods=["a", "b", "c"], runs=runs))
    assert ", seed 1: of pixels" in table
    assert "| a | 0.750 |" in table
    assert "| b | 0.500 |" in table
    assert "| c |" not in table
