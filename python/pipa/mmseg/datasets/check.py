"""Looks at every file of the data sets of a config before hours are spent on them. Used by `pipa.commands.doctor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmseg.registry import DATASETS

from pipa.environment import ERROR, NOTE, WARNING, Finding
from pipa.files.images import DataError, open_image, read_image, upright
from pipa.files.labels import LabelReading, lost
from pipa.mmseg.datasets.check_crop import crop_findings
from pipa.mmseg.datasets.domain_dataset import DomainDataset
from pipa.mmseg.datasets.rare_class_sampling import RareClassSampling
from pipa.mmseg.datasets.transforms import LoadImage, LoadLabel

_LABEL_LOADERS = ("LoadLabel", "LoadAnnotations")
_SHOWN = 5


@dataclass
class Sample:
    """What was found in one image and its label."""

    image: str
    size: tuple[int, int] | None = None
    counts: dict[int, int] = field(default_factory=dict)  # pixels per class, ignored ones left out
    labelled: bool = False
    errors: list[str] = field(default_factory=list)
    flat: bool = False  # one value in all pixels
    unlisted: float = 0.0  # share of the label's pixels whose colour or id is no class's
    told: str = ""  # a sentence about them
    painted: bool = False  # the label holds colours


def loaders(config: Mapping, path: str = "") -> Iterator[tuple[str, Mapping]]:
    """Every dataloader of a config with its place, also inside hooks (`custom_hooks[0].target_dataloader`)."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            place = f"{path}.{key}" if path else str(key)
            if str(key).endswith("dataloader") and isinstance(value, Mapping) and "dataset" in value:
                yield place, value
            else:
                yield from loaders(value, place)
    elif isinstance(config, Sequence) and not isinstance(config, (str, bytes)):
        for i, value in enumerate(config):
            yield from loaders(value, f"{path}[{i}]")


def used_loaders(config: Mapping) -> list[tuple[str, Mapping]]:
    """As `loaders`, those that a training or a test reads: no variable of a file, and a top-level target_dataloader
    only where a PipaHook has none of its own."""
    hooks = [hook for hook in config.get("custom_hooks") or [] if isinstance(hook, Mapping)]
    shared = any("PipaHook" in str(hook.get("type")) and not hook.get("target_dataloader") for hook in hooks)
    read = ("train_dataloader", "val_dataloader", "test_dataloader", *(["target_dataloader"] if shared else []))
    return [(place, loader) for place, loader in loaders(config) if place in read or place.startswith("custom_hooks")]


def innermost(dataset: Mapping) -> Mapping:
    """The data set inside wrappers such as RareClassSampling, SeededDataset or RepeatDataset; of several the first."""
    return leaves(dataset)[0][1]


def leaves(dataset: Mapping, place: str = "dataset") -> list[tuple[str, Mapping]]:
    """The data sets that hold the images, each with its place, inside wrappers (ConcatDataset too)."""
    if isinstance(dataset.get("datasets"), Sequence):
        inner = [leaves(one, f"{place}.datasets[{i}]") for i, one in enumerate(dataset["datasets"])]
        return [found for several in inner for found in several]
    if isinstance(dataset.get("dataset"), Mapping):
        return leaves(dataset["dataset"], f"{place}.dataset")
    return [(place, dataset)]


def _samplings(dataset: Mapping) -> list[Mapping]:
    """Every RareClassSampling among the wrappers of a data set."""
    own = [dataset] if dataset.get("type") in ("RareClassSampling", RareClassSampling) else []
    inner = [dataset["dataset"]] if isinstance(dataset.get("dataset"), Mapping) else dataset.get("datasets") or []
    return own + [found for one in inner for found in _samplings(one)]


def check_loader(
    place: str,
    loader: Mapping,
    workers: int,
    max_files: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Findings of one dataloader: of each data set in it, then of its rare class sampling.

    Args:
        max_files: look at that many files of each data set, evenly spread, instead of all.
        advance: called with (files done, files in all).
    """
    findings: list[Finding] = []
    found = leaves(loader["dataset"])
    for inside, config in found:
        findings += _check_data_set(
            place if len(found) == 1 else f"{place}.{inside}", config, workers, max_files, advance
        )
    for sampling in [] if any(f.level == ERROR for f in findings) else _samplings(loader["dataset"]):
        findings += _rare_class(place, sampling)
    return findings


def _check_data_set(
    place: str,
    config: Mapping,
    workers: int,
    max_files: int | None,
    advance: Callable[[int, int], None] | None,
) -> list[Finding]:
    try:
        # wrappers are built after the files were looked at: they may count all labels
        dataset = DATASETS.build(dict(config))
        dataset.full_init()
    except (DataError, FileNotFoundError) as error:
        return [Finding(ERROR, place, str(error), "correct the path or the files, then run the check again")]
    except Exception as error:
        text = f"the data set cannot be built: {type(error).__name__}: {error}"
        return [Finding(ERROR, place, text, f"correct {place}.dataset in the config")]
    if len(dataset) == 0:
        return [Finding(ERROR, place, "the data set is empty", "correct data_root, data_prefix, suffixes or the list")]
    count = len(dataset) if max_files is None else min(max_files, len(dataset))
    indices = [int(i) for i in np.linspace(0, len(dataset) - 1, count)]
    inspect = _Inspector(dataset)
    samples = []
    with ThreadPoolExecutor(workers) as pool:  # decoding releases the GIL
        for sample in pool.map(inspect, indices):
            samples.append(sample)
            if advance is not None:
                advance(len(samples), count)
    findings = list(_summarise(place, dataset, samples))
    findings += crop_findings(place, dataset, {s.image: s.size for s in samples if s.size is not None})
    return findings


class _Inspector:
    """Decodes one image and its label the way the pipeline will."""

    def __init__(self, dataset: Any) -> None:
        transforms = dataset.pipeline.transforms
        self.dataset = dataset
        self.strict = isinstance(dataset, DomainDataset)
        images = [t for t in transforms if isinstance(t, LoadImage)]
        self.convert = images[0].convert if images else None
        kinds = [str(getattr(t, "color_type", "")) for t in transforms]
        # OpenCV turns a photo as its EXIF record says, but for these of mmcv's ways to read it.
        self.turned = not any(kind == "unchanged" or kind.endswith("ignore_orientation") for kind in kinds)
        self.labels = any(type(t).__name__ in _LABEL_LOADERS for t in transforms)
        self.loader = next((t for t in transforms if isinstance(t, LoadLabel)), LoadLabel())
        self.loader.told = True  # the report says it
        self.classes = len(dataset.metainfo.get("classes") or ()) or None

    def __call__(self, index: int) -> Sample:
        info = self.dataset.get_data_info(index)
        sample = Sample(str(info.get("img_path")))
        try:
            if self.convert is None:  # another loader reads it (mmcv's converts what it is given)
                with open_image(sample.image) as opened:
                    image = upright(opened) if self.turned else opened
                    sample.size = (image.height, image.width)
                    pixels = np.asarray(image.convert("RGB"))
            else:
                pixels = read_image(sample.image, self.convert)
                sample.size = (pixels.shape[0], pixels.shape[1])
            sample.flat = bool((pixels == pixels[0, 0]).all())
        except DataError as error:
            sample.errors.append(str(error))
        if self.labels and info.get("seg_map_path") is not None:
            sample.labelled = True
            try:
                self._label(sample, info)
            except (DataError, ValueError) as error:
                sample.errors.append(str(error))
        return sample

    def _label(self, sample: Sample, info: dict) -> None:
        ignore = int(info.get("ignore_index", getattr(self.dataset, "ignore_index", 255)))
        if not self.strict:  # mmseg's data sets say less about their labels
            zero = bool(info.pop("reduce_zero_label", False))
            info.setdefault("num_classes", self.classes if not zero or self.classes is None else self.classes + 1)
            if info.get("label_map"):
                info["num_classes"] = len(info["label_map"])
        reading = LabelReading.of(info, self.loader.num_classes, self.loader.ignore_index)
        sample.painted = reading.colors is not None
        sample.unlisted, sample.told = lost(info["seg_map_path"], reading)
        label = self.loader.read({**info, "reduce_zero_label": False}, info["seg_map_path"])
        if sample.size is not None and label.shape != sample.size:
            raise DataError(
                f"{info['seg_map_path']}: expected a label of the size of its image, {sample.size[0]}x{sample.size[1]} "
                f"(height x width, {sample.image}), found {label.shape[0]}x{label.shape[1]}"
            )
        counts = np.bincount(label.reshape(-1))
        sample.counts = {int(c): int(counts[c]) for c in np.flatnonzero(counts) if c != ignore}


def _summarise(place: str, dataset: Any, samples: Sequence[Sample]) -> Iterator[Finding]:
    errors = [text for sample in samples for text in sample.errors]
    for text in errors[:_SHOWN]:
        yield Finding(ERROR, place, text, "replace or remove this file")
    if len(errors) > _SHOWN:
        yield Finding(ERROR, place, f"{len(errors) - _SHOWN} more files are not usable", "see the ones above")
    flat = [sample.image for sample in samples if sample.flat]
    if flat:
        yield Finding(
            WARNING, place, f"{len(flat)} image(s) have one colour only, e.g. {flat[0]}", "look at them; remove them"
        )
    yield from _unlisted(place, samples)
    labelled = [sample for sample in samples if sample.labelled and not sample.errors]
    blank = [sample.image for sample in labelled if not sample.counts]
    if blank:
        text = f"{len(blank)} label(s) have no pixel that counts, e.g. that of {blank[0]}"
        yield Finding(WARNING, place, text, "such images train nothing; remove them from the list")
    if labelled:
        pixels: Counter[int] = Counter()
        for sample in labelled:
            pixels.update(sample.counts)
        names = list(dataset.metainfo.get("classes") or ())
        absent = [name for c, name in enumerate(names) if not pixels[c]]
        if absent and len(labelled) == len(samples):
            level = NOTE if place.startswith(("val", "test")) else WARNING
            yield Finding(level, place, f"no pixel of {', '.join(absent)}", "check the id map, or leave the class out")
    sizes = Counter(sample.size for sample in samples if sample.size is not None)
    if sizes:
        shown = ", ".join(f"{h}x{w} ({n})" for (h, w), n in sizes.most_common(3))
        yield Finding(NOTE, place, f"{len(samples)} of {len(dataset)} images looked at; sizes {shown}", "")


def _unlisted(place: str, samples: Sequence[Sample]) -> Iterator[Finding]:
    """How much of the labels is lost because its colour is no class's (mostly a fault), or its id (mostly a choice)."""
    told = [sample for sample in samples if sample.told]
    if not told:
        return
    most = max(told, key=lambda sample: sample.unlisted)
    share = sum(sample.unlisted for sample in samples) / sum(sample.labelled for sample in samples)
    what = "a colour of no class" if most.painted else "an id that the id map does not list"
    text = f"{100 * share:.1f} % of all label pixels have {what} and are ignored; most in {most.told}"
    if most.painted:
        yield Finding(WARNING, place, text, "add the colours to the class file, or write the labels without smoothing")
    else:
        yield Finding(NOTE, place, text, "")


def _rare_class(place: str, config: Mapping) -> list[Finding]:
    try:
        settings = {key: value for key, value in config.items() if key not in ("type", "dataset")}
        sampling = RareClassSampling(dataset=dict(config["dataset"]), **settings)
    except (DataError, ValueError, TypeError) as error:
        return [Finding(ERROR, place, str(error), "see docs/data-errors.md, rare class sampling")]
    names = sampling.metainfo.get("classes") or ()
    few = [
        f"{names[c] if c < len(names) else c} ({len(sampling.images[c])})"
        for c in sampling.classes
        if len(sampling.images[c]) < 10
    ]
    if few:
        text = f"rare class sampling: classes with fewer than 10 images to draw from: {', '.join(few)}"
        return [Finding(WARNING, place, text, "the same images will be repeated often; lower min_pixels")]
    return []


def _loose(dataset: Mapping) -> str:
    """The type of a data set or wrapper whose random transforms do not follow the draw, or nothing."""
    kind = dataset.get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    if name in ("SeededDataset", "RareClassSampling"):
        return ""
    if name == "ConcatDataset":
        return next(filter(None, map(_loose, dataset.get("datasets") or ())), "")
    if name == "RepeatDataset":
        return _loose(dataset["dataset"])
    found = DATASETS.get(kind) if isinstance(kind, str) else kind
    return "" if isinstance(found, type) and issubclass(found, DomainDataset) else name


def check_pairing(config: Mapping) -> list[Finding]:
    """Mistakes between loaders: a target whose labels are opened, two loaders with the same draws."""
    findings = []
    streams: dict[tuple, str] = {}
    for place, loader in used_loaders(config):
        name = place.rsplit(".", 1)[-1]
        pipelines = [config.get("pipeline", ()) for _, config in leaves(loader["dataset"])]
        steps = [t for pipeline in pipelines for t in pipeline if isinstance(t, Mapping)]
        opened = [t["type"] for t in steps if t.get("type") in _LABEL_LOADERS]
        if name.startswith("target") and opened:
            text = f"the pipeline of the target has {opened[0]}: labels of the target would be opened"
            findings.append(Finding(ERROR, place, text, "take it out and pack with PackUnlabelled"))
        if name.startswith(("train", "target")):
            sampler = loader.get("sampler") or {}
            if sampler.get("type") == "DrawSampler":
                key = (sampler.get("seed"), sampler.get("stream", 0))
                if key in streams:
                    text = f"uses the same random draws as {streams[key]} (stream {key[1]})"
                    findings.append(Finding(ERROR, place, text, "give the target's DrawSampler stream=1"))
                streams[key] = place
                loose = _loose(loader["dataset"])
                if loose:
                    text = (
                        f"the transforms of {loose} do not follow the draws: a resumed run will not see the same crops"
                    )
                    findings.append(Finding(WARNING, place, text, "wrap it in dict(type='SeededDataset', dataset=...)"))
            else:
                text = f"its sampler is {sampler.get('type')}: a resumed run will not see the same crops"
                findings.append(Finding(WARNING, place, text, "use sampler=dict(type='DrawSampler')"))
    return findings
