"""How a released checkpoint of DAFormer, HRDA, MIC or PiPa is to be used: from its config text, else as published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipa.mmseg.checkpoints.config_text import read_config_text
from pipa.mmseg.checkpoints.description import FORMAT, Description
from pipa.mmseg.checkpoints.model import config_from_keys
from pipa.mmseg.datasets.domains import CITYSCAPES

# ImageNet's, of RGB values 0 to 255: what all four repositories normalise with.
_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
# Published tests: DAFormer at half the resolution of Cityscapes, HRDA at all of it in windows of its training crop.
_DAFORMER_SCALE = (1024, 512)
_HRDA_SLIDE = {"mode": "slide", "batched_slide": True, "crop_size": (1024, 1024), "stride": (512, 512)}
_HRDA_SETTINGS = ("scales", "hr_crop_size", "hr_slide_inference", "hr_slide_overlapping", "feature_scale")


def released_description(content: Mapping[str, Any], converted: Mapping[str, Any]) -> Description:
    """The description of a converted segmentor (:mod:`pipa.mmseg.checkpoints.description`).

    Args:
        content: the released file; its ``meta["config"]`` holds the settings as text, where it has any.
        converted: its weights under our names.
    """
    text = (content.get("meta") or {}).get("config")
    settings = (read_config_text(text) if isinstance(text, str) else None) or {}
    told: Mapping[str, Any] = settings.get("model") or {}
    model = config_from_keys(converted["state_dict"])
    hrda = model["type"] == "HRDAEncoderDecoder"
    if hrda:
        model.update({key: told[key] for key in _HRDA_SETTINGS if told.get(key) is not None})
    test = told.get("test_cfg") or {}
    known = {key: test[key] for key in ("mode", "batched_slide", "crop_size", "stride") if test.get(key) is not None}
    model["test_cfg"] = known if known.get("mode") else dict(_HRDA_SLIDE) if hrda else {"mode": "whole"}
    head = (told.get("decode_head") or {}).get("decoder_params", {}).get("fusion_cfg") or {}
    own = model["decode_head"]["decoder_params"]["fusion_cfg"]
    if isinstance(head, Mapping) and head.get("dilations") and "dilations" in own:
        own["dilations"] = tuple(head["dilations"])
    steps = list(_steps(settings))
    normalise = next((step for step in steps if step.get("type") == "Normalize"), {})
    model["data_preprocessor"] = {
        "type": "SegDataPreProcessor",
        "mean": list(normalise.get("mean", _MEAN)),
        "std": list(normalise.get("std", _STD)),
        "bgr_to_rgb": bool(normalise.get("to_rgb", True)),
        "pad_val": 0,
        "seg_pad_val": 255,
    }
    scale = next((step["img_scale"] for step in steps if step.get("img_scale") is not None), None)
    if isinstance(scale, list):
        scale = scale[0]
    if scale is None and not hrda:
        scale = _DAFORMER_SCALE
    pipeline: list[dict[str, Any]] = [{"type": "LoadImage"}]
    if scale is not None:
        pipeline.append({"type": "Resize", "scale": tuple(scale), "keep_ratio": True})
    pipeline.append({"type": "PackSegInputs"})
    start = {"encoder": "MiT", "weights": "SegFormer's ImageNet weights"}
    names = _classes(converted, model)
    return {"format": FORMAT, "model": model, "test_pipeline": pipeline, "imports": [], "start": start, **names}


def _steps(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The test pipeline's steps, those inside of MultiScaleFlipAug too."""

    def walk(steps: Any) -> Iterator[Mapping[str, Any]]:
        for step in steps or []:
            if isinstance(step, Mapping):
                yield step
                yield from walk(step.get("transforms"))

    test = (settings.get("data") or {}).get("test") or {}
    yield from walk(test.get("pipeline") or settings.get("test_pipeline"))


def _classes(converted: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    meta = converted["meta"].get("dataset_meta") or {}
    names, colors = meta.get("classes"), meta.get("palette")
    if names is None and model["decode_head"]["num_classes"] == len(CITYSCAPES["classes"]):
        names = CITYSCAPES["classes"]
    if colors is None and names is not None and list(names) == list(CITYSCAPES["classes"]):
        colors = CITYSCAPES["palette"]
    return {
        "classes": None if names is None else list(names),
        "palette": None if colors is None else [list(color) for color in colors],
    }
