"""Steps of a test pipeline: which of them a prediction cannot take back, and which a graph of the network lacks.

mmsegmentation resizes a prediction to the picture and mirrors it back, nothing else: over a step that pads, cuts or
turns the picture it would lie wrongly, and no error would say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmseg.registry import TRANSFORMS

IMAGE_LOADERS = ("LoadImage", "LoadImageFromFile", "LoadImageFromNDArray", "LoadSingleRSImageFromFile")
LABEL_LOADERS = ("LoadLabel", "LoadAnnotations")
_RESIZES = ("Resize", "ResizeToMultiple", "ResizeShortestEdge")
_PACKERS = ("PackSegInputs", "PackUnlabelled")
_FLIP = "RandomFlip"

_PADS = "it pads the picture, which a prediction does not undo"
_CUTS = "it cuts the picture, and a prediction has to cover all of it"
_RANDOM = "it is random, so each prediction would be another"
_VIEWS = "it makes several views of a picture; `pipa predict --flip --scales` averages over views"
_REFUSED = {
    **dict.fromkeys(("Pad", "BioMedical3DPad"), _PADS),
    "CenterCrop": _CUTS,
    **dict.fromkeys(("TestTimeAug", "MultiScaleFlipAug"), _VIEWS),
    **dict.fromkeys(
        (
            "SyncCrop", "RandomCrop", "RandomRotate", "RandomRotFlip", "RandomResize", "RandomChoiceResize",
            "RandomCutOut", "RandomMosaic", "RandomGrayscale", "RandomApply", "RandomChoice", "RandomDepthMix",
            "PhotoMetricDistortion", "Albu", "BioMedical3DRandomCrop", "BioMedical3DRandomFlip",
            "BioMedicalGaussianNoise", "BioMedicalGaussianBlur", "BioMedicalRandomGamma",
        ),
        _RANDOM,
    ),
}  # fmt: skip
_INSTEAD = {_PADS: "; model.data_preprocessor.test_cfg=dict(size_divisor=...) pads and is undone"}


def name_of(step: Any) -> str:
    """The class of a step, or of its config, without its package."""
    kind = step["type"] if isinstance(step, Mapping) else type(step)
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def refusals(pipeline: Sequence[Any], place: str, labels: bool) -> Iterator[tuple[str, str]]:
    """(place, sentence) of each step whose prediction would not lie on the picture.

    Args:
        place: of the pipeline in the config. labels: labels are read too, as a test does and a prediction does not.
    """
    label = None
    for i, step in enumerate(pipeline):
        where, name, kinds = f"{place}[{i}]", name_of(step), _kinds(step)
        reason = next((_REFUSED[kind] for kind in kinds if kind in _REFUSED), None)
        if reason is None and _FLIP in kinds and _by_chance(step):
            reason = _RANDOM
        if reason is not None:
            yield where, f"{name} cannot stand in a test pipeline: {reason}; take it out{_INSTEAD.get(reason, '')}"
        elif labels and label is not None and (kinds & {*_RESIZES} or (_FLIP in kinds and _given(step, "prob") != 0)):
            text = f"{name} stands after {label} and changes the label too, but a prediction has the picture's own size"
            yield where, f"{text} and side; put {label} after it"
        if kinds & {*LABEL_LOADERS}:
            label = name
        inner = _given(step, "transforms")
        if reason is None and isinstance(inner, Sequence) and not isinstance(inner, str):
            yield from refusals(inner, f"{where}.transforms", labels)


def check_pipeline(pipeline: Sequence[Any], place: str, labels: bool) -> None:
    """Refuse the first step that :func:`refusals` names. ValueError."""
    for where, text in refusals(pipeline, place, labels):
        raise ValueError(f"{where}: {text}")


def evaluated(config: Mapping[str, Any], loader: str) -> Iterator[tuple[str, str]]:
    """:func:`refusals` of the data that a loader of the config evaluates on."""
    dataset = (config.get(loader) or {}).get("dataset")
    for place, pipeline in _pipelines(dataset, f"{loader}.dataset"):
        yield from refusals(pipeline, f"{place}.pipeline", labels=True)


def check_evaluated(config: Mapping[str, Any], loader: str) -> None:
    """Refuse the first step that :func:`evaluated` names. ValueError."""
    for where, text in evaluated(config, loader):
        raise ValueError(f"{where}: {text}")


def outside_graph(pipeline: Sequence[Any]) -> list[str]:
    """Names of the steps that change pixels outside the network; resizing is left to the caller of a graph."""
    known = {*LABEL_LOADERS, *_RESIZES, *_PACKERS}
    found = []
    for step in pipeline:
        kinds = _kinds(step)
        idle = _FLIP in kinds and _given(step, "prob") == 0
        if not (idle or kinds & known or (kinds & {*IMAGE_LOADERS} and not reads_grey(step))):
            found.append(name_of(step))
    return found


def reads_grey(step: Any) -> bool:
    """Does the image loader make one grey channel of a file?"""
    return str(_given(step, "color_type")).startswith("grayscale")


def _kinds(step: Any) -> set[str]:
    """The step's class and those that it is derived from, by name."""
    kind = step["type"] if isinstance(step, Mapping) else type(step)
    found = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    return {name_of(step), *(base.__name__ for base in getattr(found, "__mro__", ()))}


def _given(step: Any, name: str) -> Any:
    return step.get(name) if isinstance(step, Mapping) else getattr(step, name, None)


def _by_chance(flip: Any) -> bool:
    prob = _given(flip, "prob")
    return prob is not None and prob not in (0, 1)


def _pipelines(dataset: Any, place: str) -> Iterator[tuple[str, Sequence[Any]]]:
    if not isinstance(dataset, Mapping):
        return
    if dataset.get("pipeline"):
        yield place, dataset["pipeline"]
        return
    yield from _pipelines(dataset.get("dataset"), f"{place}.dataset")
    for i, inner in enumerate(dataset.get("datasets") or ()):
        yield from _pipelines(inner, f"{place}.datasets[{i}]")
