"""What a training refuses at its start, in one sentence each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mmseg")

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

import tiny
from pipa.environment import WARNING
from pipa.mmseg.engine.start_checks import StartError, check_config, same_classes

pytestmark = pytest.mark.slow


@HOOKS.register_module()
class AnotherEMA(EMAHook):
    """A moving average of a user's own."""


@HOOKS.register_module()
class Replaces(Hook):
    """Puts its own training step in the place of PipaHook's."""

    def before_train(self, runner: Runner) -> None:
        runner.model.train_step = lambda data, optim_wrapper: {}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


def hook(cfg: dict[str, Any]) -> dict[str, Any]:
    return cfg["custom_hooks"][0]


def pipeline(cfg: dict[str, Any]) -> list[dict[str, Any]]:
    return cfg["train_dataloader"]["dataset"]["dataset"]["pipeline"]


def plain_source(cfg: dict[str, Any], **settings: Any) -> None:
    """Without rare class sampling, which reads labels itself."""
    inner = cfg["train_dataloader"]["dataset"]["dataset"]
    cfg["train_dataloader"]["dataset"] = {**inner, **settings}


def validated(cfg: dict[str, Any], evaluator: str = "DomainIoUMetric", **settings: Any) -> None:
    """Validate on the source's data, read with other settings."""
    inner = copy.deepcopy(cfg["train_dataloader"]["dataset"]["dataset"])
    inner.update(pipeline=[dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")], **settings)
    sampler = dict(type="DefaultSampler", shuffle=False)
    cfg.update(
        val_dataloader=dict(batch_size=1, num_workers=0, sampler=sampler, dataset=inner),
        val_cfg=dict(type="ValLoop"),
        val_evaluator=dict(type=evaluator),
    )


# What is changed in a good config, and words of the refusal.
CASES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "EMAHook": (lambda c: c["custom_hooks"].append(dict(type="EMAHook")), "EMAHook beside PipaHook"),
    "EMAHook by default": (lambda c: c["default_hooks"].update(ema=dict(type="EMAHook")), "EMAHook beside PipaHook"),
    "own EMA hook": (lambda c: c["custom_hooks"].append(dict(type="AnotherEMA")), "AnotherEMA beside PipaHook"),
    "own training step": (lambda c: c["custom_hooks"].append(dict(type="Replaces")), "replaced the model's train_step"),
    "two hooks": (lambda c: c["custom_hooks"].append(copy.deepcopy(hook(c))), "expected one, got 2"),
    "misspelt": (lambda c: hook(c).update(thresold=0.9), "unknown setting 'thresold'; did you mean 'threshold'"),
    "misspelt, shared": (lambda c: c.update(pipa=dict(patch_wieght=1)), "did you mean 'patch_weight'"),
    "value": (lambda c: hook(c).update(alpha="high"), "alpha: expected"),
    "patch": (lambda c: hook(c).update(patch_size=(720, 720)), r"patch_size \[720, 720\] does not fit .* 64 x 64"),
    "patch, in the warm-up": (
        lambda c: hook(c).update(patch_size=(720, 720), patch_warmup=10000),
        r"patch_size \[720, 720\] does not fit",
    ),
    "alignment": (lambda c: hook(c).update(patch_align=6), "patch_align 6: expected a multiple of .* stride 4"),
    "rows": (lambda c: hook(c).update(ignore_bottom=64), "ignore_bottom 64 leave no row of the 64 rows"),
    "rows above": (lambda c: hook(c).update(ignore_top=100), "ignore_top 100 .* leave no row"),
    "count": (lambda c: hook(c).update(pixel_min_pixels=1_000_000), "pixel_min_pixels 1000000: the maps of 2 images"),
    "batch": (
        lambda c: hook(c)["target_dataloader"].update(batch_size=3),
        "must have one batch_size, got 2 and 3",
    ),
    "no target": (lambda c: hook(c).pop("target_dataloader"), "give it target_dataloader"),
    "classes": (
        lambda c: c["model"]["decode_head"].update(num_classes=4),
        "num_classes is 4, but the data set of train_dataloader has 3 classes",
    ),
    "no label": (lambda c: (plain_source(c), pipeline_of(c).pop(1)), "a source image came without its label"),
    "reduce_zero_label": (lambda c: plain_source(c, reduce_zero_label=True), "reduce_zero_label"),
    "padding": (
        lambda c: c["model"]["data_preprocessor"].update(seg_pad_val=0),
        "seg_pad_val is 0, but the loss ignores id 255",
    ),
    "ignored id": (
        lambda c: c["model"]["decode_head"].update(ignore_index=254),
        "marks pixels without a class with id 255, but the loss ignores id 254",
    ),
    "crop's ignored id": (
        lambda c: next(t for t in pipeline(c) if t["type"] == "SyncCrop").update(cat_max_ratio=0.75, ignore_index=9),
        r"SyncCrop takes id 9 for pixels without a class \(cat_max_ratio\), but the loss ignores id 255",
    ),
    "padding's ignored id": (
        lambda c: next(t for t in pipeline(c) if t["type"] == "SyncCrop").update(pad=True, ignore_index=9),
        "SyncCrop pads labels with id 9, but the loss ignores id 255",
    ),
    "mmseg's crop": (
        lambda c: pipeline(c).insert(
            2, dict(type="RandomCrop", crop_size=(64, 64), cat_max_ratio=0.75, ignore_index=9)
        ),
        "RandomCrop takes id 9 for pixels without a class",
    ),
    "order of the classes": (
        lambda c: validated(c, classes=["sign", "car", "road"]),
        "train_dataloader: its class 0 is 'road', but that of the data set of val_dataloader is 'sign'",
    ),
    "metric's ignored id": (
        lambda c: validated(c, "IoUMetric", ignore_index=100),
        "val_evaluator: IoUMetric leaves out id 255, but the data set of val_dataloader marks .* id 100",
    ),
    "epochs": (
        lambda c: c.update(train_cfg=dict(by_epoch=True, max_epochs=1)),
        "an epoch of DrawSampler never ends",
    ),
}


def pipeline_of(cfg: dict[str, Any]) -> list[dict[str, Any]]:
    return cfg["train_dataloader"]["dataset"]["pipeline"]


@pytest.mark.parametrize("case", CASES)
def test_a_training_refuses(case: str, root: Path, tmp_path: Path) -> None:
    change, words = CASES[case]
    cfg = tiny.config(root, tmp_path, iterations=1)
    change(cfg)
    with pytest.raises((ValueError, RuntimeError), match=words) as caught:
        tiny.train(cfg)
    assert "\n" not in str(caught.value)  # one sentence
    assert not list(tmp_path.glob("iter_*.pth"))


def test_all_that_the_config_tells_is_told_at_once(root: Path, tmp_path: Path) -> None:
    cfg = tiny.config(root, tmp_path, iterations=1)
    hook(cfg).update(thresold=0.9, alpha=2, target_dataloader={**hook(cfg)["target_dataloader"], "batch_size": 5})
    cfg["custom_hooks"].append(dict(type="EMAHook"))
    with pytest.raises(StartError) as caught:
        tiny.train(cfg)
    places = [finding.where for finding in caught.value.findings]
    assert places == [
        "custom_hooks[0].thresold",
        "custom_hooks[0].alpha",
        "custom_hooks[0].target_dataloader.batch_size",
        "custom_hooks[1]",
    ]


def test_a_good_config_has_no_findings(root: Path, tmp_path: Path) -> None:
    assert list(check_config(tiny.config(root, tmp_path))) == []


@pytest.mark.parametrize("place", ["pipa", "custom_hooks[0]"])
def test_a_patch_term_that_never_acts_is_told(place: str, root: Path, tmp_path: Path) -> None:
    """The default warm-up of the patch term is longer than short trainings."""
    cfg = tiny.config(root, tmp_path, iterations=3)
    own = hook(cfg)
    own.pop("patch_warmup", None)
    if place != "pipa":
        own["patch_warmup"] = 3
    (found,) = check_config(cfg)
    assert (found.level, found.where) == (WARNING, f"{place}.patch_warmup")
    assert f"waits for {own.get('patch_warmup', 10000)} iterations and train_cfg.max_iters is 3" in found.found
    own["patch_weight"] = 0.0
    assert list(check_config(cfg)) == []


def test_a_name_may_be_spelled_otherwise() -> None:
    """Data sets write one class in many ways; its place is what counts."""
    data = SimpleNamespace(metainfo=dict(classes=("Traffic-Light", "road")))
    assert not list(same_classes("val", data, ["traffic light", "Road"], "train_dataloader"))
    assert list(same_classes("val", data, ["road", "traffic light"], "train_dataloader"))
    assert list(same_classes("val", data, ["traffic_light", "road", "sky"], "train_dataloader"))
