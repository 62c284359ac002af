"""Settings have one source, the Rust core: types, documentation and defaults elsewhere say the same, and a wrong value
is refused by its name.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from pipa import PatchContrastLoss, PipaStep, PixelContrastLoss
from pipa import functional as F
from pipa.settings import HOOK_DEFAULTS, HookSettings, StepSettings, default_settings, native_step, schema

ROOT = Path(__file__).resolve().parents[2]


def test_types_and_tables_are_what_the_tool_writes() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/settings.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_typed_names_are_those_of_the_core() -> None:
    assert {"num_classes", *StepSettings.__annotations__} == set(default_settings())
    assert set(HookSettings.__annotations__) == set(StepSettings.__annotations__) | set(HOOK_DEFAULTS)


def test_choices_are_literals() -> None:
    hints = get_type_hints(StepSettings)
    choices = {entry["name"]: [word for word, _ in entry["choices"]] for entry in schema() if entry["choices"]}
    assert len(choices) >= 4
    assert choices == {name: list(get_args(hints[name])) for name in choices}


# Function -> its argument -> the setting whose default it has.
DEFAULTS: list[tuple[Callable[..., Any], dict[str, str]]] = [
    (
        PixelContrastLoss,
        {
            "temperature": "pixel_temperature",
            "sampling": "pixel_sampling",
            "max_anchors": "pixel_max_anchors",
            "max_per_class": "pixel_max_per_class",
            "min_pixels": "pixel_min_pixels",
            "memory_bank": "pixel_memory_bank",
            "ignore_index": "ignore_index",
        },
    ),
    (PatchContrastLoss, {"temperature": "patch_temperature"}),
    (F.contrast, {"temperature": "pixel_temperature"}),
    (F.pixel_contrast, {"temperature": "pixel_temperature"}),
    (F.patch_contrast, {"temperature": "patch_temperature"}),
    (F.patch_contrast_gated, {"temperature": "patch_temperature"}),
    (
        F.choose_anchors,
        {
            "max_anchors": "pixel_max_anchors",
            "max_per_class": "pixel_max_per_class",
            "min_pixels": "pixel_min_pixels",
            "ignore_index": "ignore_index",
        },
    ),
    (F.draw_patches, {"align": "patch_align"}),
    (
        F.pseudo_label,
        {"threshold": "threshold", "ignore_top": "ignore_top", "ignore_bottom": "ignore_bottom"},
    ),
    (F.draw_classes, {"scope": "mix_classes", "ignore_index": "ignore_index"}),
    (F.draw_class_mask, {"scope": "mix_classes", "ignore_index": "ignore_index"}),
    (
        F.draw_augment,
        {name: name for name in ("jitter_strength", "jitter_probability", "blur_probability")},
    ),
    (F.strong_augment, {"mean": "mean", "std": "std"}),
    (F.cross_entropy, {"average": "loss_average", "ignore_index": "ignore_index"}),
    (F.accuracy, {"average": "loss_average", "ignore_index": "ignore_index"}),
    (F.downscale_label, {"ignore_index": "ignore_index"}),
    (F.feature_distance, {"min_ratio": "feature_distance_min_ratio", "weight": "feature_distance_weight"}),
    (F.ema_update, {"alpha": "alpha"}),
    (F.confusion_matrix, {"ignore_index": "ignore_index"}),
]


@pytest.mark.parametrize(("function", "names"), DEFAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_defaults_of_functions_are_those_of_the_settings(function: Callable[..., Any], names: dict[str, str]) -> None:
    parameters, known = inspect.signature(function).parameters, default_settings()
    for argument, setting in names.items():
        default = parameters[argument].default
        assert (list(default) if isinstance(default, tuple) else default) == known[setting], argument


def test_patch_range_of_draw_patches_is_the_settings() -> None:
    parameters = inspect.signature(F.draw_patches).parameters
    assert [parameters["min_iou"].default, parameters["max_iou"].default] == default_settings()["patch_iou"]


WRONG: list[tuple[str, Any, str]] = [
    ("patch_size", 64, r"patch_size: expected \[height, width\], two whole numbers of at least 1, got 64"),
    ("patch_size", [64, 64, 64], r"patch_size: expected \[height, width\].*, got \[64, 64, 64\]"),
    ("patch_size", [64, 0], r"patch_size: expected \[height, width\].*, got \[64, 0\]"),
    ("patch_iou", [0.5, 0.2], r"patch_iou: expected \[lowest, highest\] in this order, got \[0.5, 0.2\]"),
    ("alpha", "high", r"alpha: expected a number in \[0, 1\], got 'high'"),
    ("alpha", None, r"alpha: expected a number in \[0, 1\], got None"),
    ("alpha", float("nan"), r"alpha: expected a number in \[0, 1\], got nan"),
    ("pixel_weight", float("inf"), "pixel_weight: expected a number of at least 0, got inf"),
    ("pixel_temperature", 0, "pixel_temperature: expected a number above 0, got 0"),
    ("pixel_max_anchors", 10.5, "pixel_max_anchors: expected a whole number of at least 2, got 10.5"),
    ("pixel_max_anchors", True, "pixel_max_anchors: expected a whole number of at least 2, got True"),
    ("pixel_sampling", "some", r"pixel_sampling: expected \"balanced\" or \"all\", got 'some'"),
    ("mix_classes", "image", r"mix_classes: expected \"per_image\" or \"batch\", got 'image'"),
    ("mask_augment", 1, "mask_augment: expected True or False, got 1"),
    ("mean", [0.0, {}, 0.0], "mean: expected a list of numbers, one per channel, got"),
    ("std", [1.0, 1.0], "std: expected one number per channel, 3 as mean has, got 2"),
    ("feature_distance_classes", "car", "feature_distance_classes: expected a list of class ids or None, got 'car'"),
    ("feature_distance_classes", [3], r"feature_distance_classes: expected ids in 0\.\.2, got 3"),
    ("thresold", 0.9, r"unknown setting 'thresold'; did you mean 'threshold'\?"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_wrong_setting_is_named_with_what_is_expected(name: str, value: Any, message: str) -> None:
    student = torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=message):
        PipaStep(student, num_classes=3, **{name: value})


def test_arrays_and_scalars_of_numpy_and_torch_are_taken() -> None:
    given = {"mean": np.zeros(3), "std": torch.ones(3), "alpha": np.float32(0.5), "pixel_max_anchors": np.int64(9)}
    assert "mean" in native_step(given, 0).settings_json


RIGHT = """
from torch import nn
from pipa import PipaStep
from pipa.mmseg.engine.pipa_hook import PipaHook
from pipa.settings import HookSettings

step = PipaStep(nn.Conv2d(3, 3, 1), num_classes=3, threshold=0.9, patch_size=[8, 8])
hook: HookSettings = {"joined": False, "alpha": 0.99}
made = PipaHook(evaluate_teacher=False, mask_weight=1.0)
"""
MISSPELT = (
    RIGHT.replace("threshold=0.9", 'thresold=0.9, mix_classes="image"')
    .replace("joined", "joind")
    .replace("mask_weight=1.0", "mask_weigth=1.0")
)


@pytest.mark.slow
def test_a_type_checker_finds_a_misspelt_setting(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    for name, text in (("right", RIGHT), ("misspelt", MISSPELT)):
        (tmp_path / f"{name}.py").write_text(text)
    files = [tmp_path / "right.py", tmp_path / "misspelt.py"]
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *files]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    assert "right.py" not in found
    assert 'Unexpected keyword argument "thresold"' in found
    assert 'Argument "mix_classes"' in found
    assert 'Extra key "joind"' in found
    assert 'Unexpected keyword argument "mask_weigth"' in found
