"""The model card (README.md) that goes with exported weights, as model hubs expect one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Marks our own cards, so that no other README is replaced by one.
MARK = "library_name: pipa-rs"
_LICENCES = {
    "MiT": "SegFormer's ImageNet weights (MiT) are NVIDIA's, for non-commercial use only; that binds what was trained "
    "from them.",
    "EfficientNetLite": "EfficientNet-Lite's ImageNet weights are Apache-2.0.",
}


def card(description: Mapping[str, Any], file: str) -> str:
    """Text of the card: data, classes, settings, results and the licence of the start weights.

    Args:
        description: what the file carries (:meth:`pipa.inference.network.Network.description`).
        file: name of the weights beside the card.
    """
    training = description.get("training") or {}
    classes = [str(name) for name in description.get("classes") or []]
    model = description["model"]
    parts = [
        f"---\n{MARK}\npipeline_tag: image-segmentation\ntags:\n- semantic-segmentation\n- domain-adaptation\n---",
        f"# {training.get('config') or model.get('type', 'Segmenter')}",
        f"Semantic segmentation, {len(classes)} classes: {_kind(model.get('type'))} on "
        f"{_kind(_part(model, 'backbone'))} with {_kind(_part(model, 'decode_head'))}; {_whose(description)}.",
        f'```python\nimport pipa\n\nprediction = pipa.load("{file}").predict("photo.jpg")\n'
        "prediction.label_hw, prediction.confidence_hw, prediction.classes, prediction.overlay()\n```",
        "## Classes",
        ", ".join(f"{i} {name}" for i, name in enumerate(classes)) or "not recorded",
        "## Data",
        _list(training.get("data")),
        "## Results",
        _results(training),
        "## Settings",
        _list({**({"iterations done": training["iteration"]} if "iteration" in training else {}),
               **(training.get("settings") or {})}),
        "## Licence of the start weights",
        _licence(description.get("start") or {}),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _part(model: Mapping[str, Any], key: str) -> Any:
    part = model.get(key)
    part = part[-1] if isinstance(part, (list, tuple)) and part else part
    return part.get("type") if isinstance(part, Mapping) else None


def _kind(kind: Any) -> str:
    return str(kind) if kind else "an unnamed part"


def _whose(description: Mapping[str, Any]) -> str:
    return f"the {description['weights']}'s weights" if description.get("weights") else "weights of a training"


def _list(values: Mapping[str, Any] | None) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in (values or {}).items()) or "not recorded"


def _results(training: Mapping[str, Any]) -> str:
    scores = training.get("scores")
    if not scores:
        return "No validation is recorded; `pipa test` measures one."
    rows = "\n".join(f"| {name} | {value:.2f} |" for name, value in scores.items())
    return f"Validation at iteration {training.get('validated')}, in percent:\n\n| metric | |\n|---|--:|\n{rows}"


def _licence(start: Mapping[str, Any]) -> str:
    if start.get("weights") is None:
        return "The encoder's start weights are not recorded: trained from nothing, or from another checkpoint."
    terms = _LICENCES.get(str(start.get("encoder")), "Their terms are those of their publisher: look them up.")
    return f"Started from {start['weights']} ({start.get('encoder')}). {terms}"
