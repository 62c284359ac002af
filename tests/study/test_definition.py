"""Definitions of studies: what a file may say, and that every shipped study fits its configs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("mmseg")

from pipa.mmseg.engine.pipa_hook import PipaHook
from pipa.mmseg.run.study_config import configure, threshold_of
from pipa.mmseg.run.study_length import evaluations
from pipa.step import native_step
from pipa.study.definition import find, read_study, shipped

GOOD: dict[str, Any] = dict(config="toy_pipa", score=dict(evaluations=1), methods=dict(a={}, b={}))


@pytest.mark.parametrize("name", [name for name, _ in shipped()])
def test_shipped_studies_fit_their_configs(name: str, tmp_path: Path) -> None:
    study = find(name)
    assert study.baseline in study.methods
    for run in study.runs[: len(study.methods)]:
        config = configure(asdict(run), tmp_path)
        loop = config.train_cfg
        begin, step = (loop.get("dynamic_intervals") or [(0, loop.val_interval)])[-1]
        evaluations = range(max(begin, step), loop.max_iters + 1, step)
        assert len(evaluations) >= study.evaluations, "the score needs more evaluations than the training has"
        assert config.param_scheduler[-1].end == loop.max_iters
        hooks = [hook for hook in config.custom_hooks if hook.type == "PipaHook"]
        assert len(hooks) == run.adapt
        for hook in hooks:
            native_step(
                PipaHook(**{**config.get("pipa", {}), **{k: v for k, v in hook.items() if k != "type"}}).options, 0
            )


def test_a_grid_is_every_combination_seed_by_seed(tmp_path: Path) -> None:
    grid = {"pipa.pixel_weight": [0.0, 0.1], "pipa.patch_size": [[32, 32], [64, 64]]}
    study = read_study(write(tmp_path, dict(config="toy_pipa", score=dict(evaluations=1), grid=grid, seeds=[3, 1])))
    assert study.methods[:2] == ("pixel_weight 0.0, patch_size 32x32", "pixel_weight 0.0, patch_size 64x64")
    assert [run.seed for run in study.runs] == [3] * 4 + [1] * 4
    assert study.runs[3].settings == {"pipa.pixel_weight": 0.1, "pipa.patch_size": [64, 64]}


def test_settings_reach_the_training_and_its_length_scales_everything(tmp_path: Path) -> None:
    methods = dict(a=dict(settings={"pipa.pixel_weight": 0.3, "optim_wrapper.optimizer.lr": 1e-5}), b=dict(adapt=False))
    path = write(tmp_path, {**GOOD, "methods": methods, "iterations": 100, "settings": {"pipa.patch_weight": 0.7}})
    first, second = (configure(asdict(run), tmp_path) for run in read_study(path).runs)
    hook = next(h for h in first.custom_hooks if h.type == "PipaHook")
    given = {**first.pipa, **hook}
    assert (given["pixel_weight"], given["patch_weight"], first.optim_wrapper.optimizer.lr) == (0.3, 0.7, 1e-5)
    # toy_pipa: 1000 iterations, evaluations every 250, warm-up of the rate 50 and of the patch term 200
    assert (first.train_cfg.max_iters, first.train_cfg.val_interval, hook.patch_warmup) == (100, 25, 20)
    assert [(s.begin, s.end) for s in first.param_scheduler] == [(0, 5), (5, 100)]
    assert "PipaHook" not in [h.type for h in second.custom_hooks]


def test_a_setting_of_a_variable_is_followed_and_one_of_nothing_refused(tmp_path: Path) -> None:
    """As on the command line; a setting that did nothing would stand in results.json as if it had."""
    settings = {"crop_size": [64, 64], "train_cfg.max_iters": 200, "target_dataloader.batch_size": 2}
    run = read_study(write(tmp_path, {**GOOD, "settings": settings})).runs[0]
    config = configure(asdict(run), tmp_path)
    crops = [step["crop_size"] for step in config.train_dataloader.dataset.dataset.pipeline if "crop_size" in step]
    assert [list(crop) for crop in crops] == [[64, 64]]
    assert config.param_scheduler[1].end == 200
    assert config.custom_hooks[0].target_dataloader.batch_size == 2
    idle = read_study(write(tmp_path, {**GOOD, "settings": {"max_itres": 3}})).runs[0]
    with pytest.raises(ValueError, match="toy_pipa: setting max_itres: the config has no 'max_itres'"):
        configure(asdict(idle), tmp_path)


def test_source_only_training_is_measured_at_the_threshold_of_adaptation(tmp_path: Path) -> None:
    methods = dict(a={}, b=dict(adapt=False))
    runs = read_study(write(tmp_path, {**GOOD, "methods": methods})).runs
    assert {threshold_of(configure(asdict(run), tmp_path)) for run in runs} == {0.9}


def test_schedules_scale_whatever_they_count(tmp_path: Path) -> None:
    lines = OWN + ITERATIONS + (
        "param_scheduler = [dict(type='MultiStepLR', milestones=[10000, 30000], by_epoch=False),\n"
        "                   dict(type='CosineAnnealingLR', T_max=40000, by_epoch=False)]\n"
        "train_cfg.update(val_begin=8000)\n"
    )  # fmt: skip
    (tmp_path / "mine.py").write_text(lines)
    content = {**GOOD, "config": "mine.py", "iterations": 4000}
    config = configure(asdict(read_study(write(tmp_path, content)).runs[0]), tmp_path)
    steps, cosine = config.param_scheduler
    assert (steps.milestones, cosine.T_max, config.train_cfg.val_begin) == ([1000, 3000], 4000, 800)
    assert evaluations(config) == 9  # 800, 1200, ..., 4000
    (tmp_path / "mine.py").write_text(lines + "param_scheduler = dict(type='ExponentialLR', gamma=0.9, by_epoch=False)")
    with pytest.raises(ValueError, match=r"mine\.py: iterations: expected schedules .* got ExponentialLR"):
        configure(asdict(read_study(write(tmp_path, content)).runs[0]), tmp_path)


def test_evaluations_are_counted_as_mmengine_makes_them(tmp_path: Path) -> None:
    loop = "train_cfg = dict(type='IterBasedTrainLoop', max_iters=10, val_interval=4, dynamic_intervals=[(7, 1)])\n"
    (tmp_path / "mine.py").write_text(OWN + loop)
    config = configure(asdict(read_study(write(tmp_path, {**GOOD, "config": "mine.py"})).runs[0]), tmp_path)
    assert evaluations(config) == 5  # 4, 7, 8, 9, 10


def test_a_method_comes_with_what_it_starts_from(tmp_path: Path) -> None:
    methods = dict(a={}, b=dict(start="a"), c=dict(iterations=3), d=dict(start="b", iterations=5))
    study = read_study(write(tmp_path, {**GOOD, "methods": methods, "seeds": [0, 1], "iterations": 8}))
    assert [(run.start, run.iterations) for run in study.runs[:4]] == [(None, 8), ("a", 8), (None, 3), ("b", 5)]
    assert study.starts == {"b": "a", "d": "b"}
    with pytest.raises(ValueError, match="--iterations: mine has methods with a length of their own"):
        study.only(iterations=4)
    assert [run.iterations for run in study.only(["b"], [0], iterations=4).runs] == [4, 4]
    part = study.only(["d"], [1])
    assert [(run.method, run.seed) for run in part.runs] == [("a", 1), ("b", 1), ("d", 1)]
    assert part.runs[2].recorded()["start"] == "b"
    assert "start" not in part.runs[0].recorded()  # results of before there were starts stay what they are


def test_a_study_takes_over_what_another_says(tmp_path: Path) -> None:
    """Setting by setting, from a shipped one or a file; the config of another folder is found there."""
    (tmp_path / "away").mkdir()
    common = {"train_cfg.val_interval": 5, "pipa.alpha": 0.9}
    other = {**GOOD, "config": "own.py", "settings": common, "seeds": [4], "test": True, "iterations": 10}
    write(tmp_path / "away", other)
    own = dict(like="away/mine.yaml", settings={"pipa.alpha": 0.5}, iterations=20, methods=dict(c={}))
    study = read_study(write(tmp_path, own))
    assert (study.methods, study.seeds, study.baseline, study.test, study.evaluations) == (("c",), [0], "c", True, 1)
    run = study.runs[0]
    assert run.settings == {"train_cfg.val_interval": 5, "pipa.alpha": 0.5}
    assert (Path(run.config), run.iterations) == ((tmp_path / "away" / "own.py").resolve(), 20)
    terms = find("toy_terms")
    like = read_study(write(tmp_path, dict(like="toy_terms", methods={"x": {}})))
    assert (like.data, like.evaluations) == (terms.data, terms.evaluations)
    assert like.runs[0].recorded() == next(run for run in terms.runs if run.method == "PiPa").recorded()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(like="mine.yaml"), "like: expected a study that is not like this one, got 'mine.yaml'"),
        (dict(like="toy_trems"), "like: no study named 'toy_trems'; did you mean toy_terms"),
        (dict(like=["toy_terms"]), "like: expected the name or file of a study, got ['toy_terms']"),
        (dict(like="toy_terms", settings=3), "settings: expected a mapping, got 3"),
        (dict(sore=dict(evaluations=1)), "unknown key 'sore'; did you mean 'score'?"),
        (dict(score=dict(evaluations=0)), "score.evaluations: expected a whole number of 1 or more, got 0"),
        (dict(score={}), "score.evaluations: expected a whole number of 1 or more, got nothing"),
        (dict(score=None), "score: expected a mapping, got nothing"),
        (dict(seeds=[0, 0]), "seeds: expected a list of different whole numbers, got [0, 0]"),
        (dict(seeds=True), "seeds: expected a list of different whole numbers, got True"),
        (dict(seeds=[-1]), "seeds: expected a list of different whole numbers, got [-1]"),
        (dict(baseline="c"), "baseline: expected one of a, b, got 'c'"),
        (dict(methods=dict(a=dict(setings={}))), "methods.a: unknown key 'setings'; did you mean 'settings'?"),
        (dict(methods=dict(a=dict(adapt="no"))), "methods.a: adapt: expected true or false, got 'no'"),
        (dict(methods=dict(a=dict(start="b"), b={})), "methods.a: start: expected a method above it (), got 'b'"),
        (dict(methods=dict(a={}, b=dict(start="b"))), "methods.b: start: expected a method above it (a), got 'b'"),
        (
            dict(methods=dict(a={}, b=dict(start="a", settings=dict(load_from="x.pth")))),
            "methods.b: expected start or a setting load_from, got both",
        ),
        (
            dict(methods=dict(a=dict(adapt=False, settings={"pipa.alpha": 0.9}))),
            "methods.a: pipa.alpha is a setting of PipaHook, and adapt is false",
        ),
        (dict(methods=dict(a=dict(iterations=0))), "methods.a: iterations: expected 1 or more, got 0"),
        (dict(methods={"a b": {}, "a_b": {}}), "expected names that differ in letters, got ['a b', 'a_b']"),
        (dict(methods={}), "expected methods or a grid, got 'neither'"),
        (dict(grid={"pipa.alpha": 0.9}), "grid.pipa.alpha: expected a list of values, got 0.9"),
        (dict(config=None), "config: expected the name or file of a config, here or for the study, got nothing"),
        (dict(iterations=0), "iterations: expected 1 or more, got 0"),
        (dict(test="no"), "test: expected true or false, got 'no'"),
        (dict(methods=dict(a=False)), "methods.a: expected a mapping of"),
        (dict(methods=dict(a=dict(settings=[]))), "methods.a: settings: expected a mapping, got []"),
        (dict(settings={5: 1}), "methods.a: settings: expected dotted paths such as train_cfg.val_interval, got 5"),
        (dict(settings={"randomness.seed": 1}), "settings: randomness.seed has no effect, seeds, above, decides it"),
        (dict(settings={"work_dir": "x"}), "settings: work_dir has no effect, the study decides it"),
        (dict(data="tioy"), "data: expected toy, or nothing, got 'tioy'"),
    ],
)
def test_a_wrong_definition_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOD, **change})
    with pytest.raises(ValueError) as error:
        read_study(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)


OWN = """
default_scope = "mmseg"
model = dict(type="EncoderDecoder")
custom_imports = dict(imports=["pipa.mmseg"])
custom_hooks = [dict(type="PipaHook")]
param_scheduler = [dict(type="PolyLR", begin=0, end=40000, by_epoch=False)]
val_evaluator = dict(type="IoUMetric")
"""
ITERATIONS = """train_cfg = dict(type="IterBasedTrainLoop", max_iters=40000, val_interval=4000)
"""


@pytest.mark.parametrize(
    ("hooks", "interval"),
    [
        ("", 400),
        ("default_hooks = dict(logger=dict(type='LoggerHook'))", 400),
        ("default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))", 400),
        ("default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1000, by_epoch=False))", 100),
        ("default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook', interval=1000, out_dir='away'))", 100),
        (
            "from mmengine.hooks import CheckpointHook as Other\n"
            "from pipa.mmseg.engine.pipa_hook import PipaHook\n"
            "custom_hooks = [dict(type=PipaHook)]\n"
            "default_hooks = dict(checkpoint=dict(type=Other, interval=1))",
            400,
        ),
    ],
)
def test_any_config_saves_what_a_study_goes_on_from(hooks: str, interval: int, tmp_path: Path) -> None:
    """And its patch term waits for a part of the training, where the config leaves the wait at its default."""
    lines = (hooks + OWN + ITERATIONS) if "import" not in hooks else OWN + ITERATIONS + hooks
    (tmp_path / "mine.py").write_text(lines)
    content = {**GOOD, "config": "mine.py", "iterations": 4000, "methods": dict(a={}, b=dict(adapt=False))}
    first, second = (configure(asdict(run), tmp_path) for run in read_study(write(tmp_path, content)).runs)
    assert first.default_hooks.checkpoint == dict(type="SafeCheckpointHook", interval=interval, max_keep_ckpts=1)
    assert first.custom_hooks[0].patch_warmup == 1000
    assert [h.type for h in second.custom_hooks] == ["RepeatableHook"]


def test_a_training_of_epochs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN + "train_cfg = dict(by_epoch=True, max_epochs=3)")
    run = read_study(write(tmp_path, {**GOOD, "config": "mine.py"})).runs[0]
    with pytest.raises(ValueError, match=r"mine\.py: train_cfg: expected max_iters, .* got {.*'max_epochs': 3}"):
        configure(asdict(run), tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_cfg.max_itres": 1, "optim_wraper.x": 1}, "no 'optim_wraper'; did you mean 'optim_wrapper'?"),
        ({"param_scheduler.7.end": 1}, "'7' is no index of a list of 2"),
    ],
)
def test_a_setting_that_is_not_there_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    run = read_study(write(tmp_path, {**GOOD, "settings": settings})).runs[0]
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        configure(asdict(run), tmp_path)


def test_a_setting_of_the_iteration_needs_the_hook(tmp_path: Path) -> None:
    run = read_study(write(tmp_path, {**GOOD, "config": "toy_source_only", "settings": {"pipa.alpha": 0.5}})).runs[0]
    with pytest.raises(ValueError, match=r"setting pipa\.alpha: has no effect, the config has no PipaHook"):
        configure(asdict(run), tmp_path)


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
