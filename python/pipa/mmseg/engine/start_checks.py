"""What a training or a test refuses at its start. `PipaHook`, `DataCheckHook` and `pipa test` stop at it, `pipa doctor`
lists it.

Each check yields findings with the place in the config, so that all of them can be told at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.loops import EpochBasedTrainLoop
from mmseg.datasets.transforms import RandomCrop

from pipa.environment import ERROR, WARNING, Finding
from pipa.files.images import DataError
from pipa.mmseg.datasets.parts import parts
from pipa.mmseg.datasets.samplers import DrawSampler
from pipa.mmseg.datasets.transforms import SyncCrop
from pipa.settings import HOOK_DEFAULTS, check_names, default_settings, native_step

NAME = "PipaHook"
# Classes where the config does not say how many: few settings are refused then.
UNKNOWN = 255


class StartError(ValueError):
    """A training cannot start as its config says."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("; ".join(finding.found for finding in findings))


def refuse(findings: Sequence[Finding]) -> None:
    """Raise what is an error.

    Raises:
        StartError: a ValueError with all errors.
    """
    errors = [finding for finding in findings if finding.level == ERROR]
    if errors:
        raise StartError(errors)


def pipa_hooks(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of each PipaHook, by its place: {"custom_hooks[0]": ...}."""
    hooks = config.get("custom_hooks") or []
    return {f"custom_hooks[{i}]": hook for i, hook in enumerate(hooks) if is_pipa(hook)}


def is_pipa(hook: Any) -> bool:
    """Whether a hook, or the config of one, is PipaHook."""
    return getattr(_kind(hook), "__name__", "") == NAME


def hook_places(config: Mapping[str, Any]) -> list[str]:
    """Where PipaHook stands in a config."""
    return list(pipa_hooks(config))


def check_config(config: Mapping[str, Any]) -> Iterator[Finding]:
    """What the config alone tells, for a training with PipaHook."""
    found = pipa_hooks(config)
    if not found:
        return
    places = list(found)
    if len(places) > 1:
        yield Finding(ERROR, places[1], f"{NAME}: expected one, got {len(places)}", "take the others out")
    hook = found[places[0]]
    own = {key: value for key, value in hook.items() if key not in ("type", "priority", "target_dataloader")}
    shared = dict(config.get("pipa") or {})
    yield from _check_settings(shared, own, places[0], _of_head(config))
    yield from _check_length(config, {**shared, **own}, places[0] if "patch_warmup" in own else "pipa")
    yield from _check_batches(config, hook, places[0])
    counts = (config.get("optim_wrapper") or {}).get("accumulative_counts", 1)
    if counts != 1:
        text = f"{NAME}: accumulative_counts must be 1 (one iteration has several backward passes), got {counts}"
        yield Finding(ERROR, "optim_wrapper.accumulative_counts", text, "use a larger batch or more processes instead")


def check_others(config: Mapping[str, Any], hooks: Sequence[Any] = ()) -> Iterator[Finding]:
    """Hooks that hold another average of the model and exchange its weights; `hooks`: those of the run, where known."""
    if not hook_places(config):
        return
    named = [(f"custom_hooks[{i}]", hook) for i, hook in enumerate(config.get("custom_hooks") or [])]
    named += [(f"default_hooks.{key}", hook) for key, hook in (config.get("default_hooks") or {}).items()]
    found: dict[str, str] = {}
    for place, hook in [*named, *(("custom_hooks", hook) for hook in hooks)]:
        kind = _kind(hook)
        if isinstance(kind, type) and issubclass(kind, EMAHook):
            found.setdefault(kind.__name__, place)
    for name, place in found.items():
        text = f"{name} beside {NAME}: the teacher is the moving average of the model already, and it is saved"
        fix = f"take {name} out; alpha is the teacher's decay, --teacher tests and exports it"
        yield Finding(ERROR, place, text, fix)


def _kind(hook: Any) -> Any:
    """The class of a hook, or of its config; None where it is not known."""
    kind = hook.get("type") if isinstance(hook, Mapping) else type(hook)
    return HOOKS.get(kind) if isinstance(kind, str) else kind


def _of_head(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the hook takes from the decode head."""
    head = (config.get("model") or {}).get("decode_head") or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    classes = head.get("num_classes")
    classes = classes if isinstance(classes, int) and classes > 1 else UNKNOWN
    return {"num_classes": classes, "ignore_index": head.get("ignore_index", 255)}


def _check_settings(
    shared: Mapping[str, Any], own: Mapping[str, Any], place: str, head: Mapping[str, Any]
) -> Iterator[Finding]:
    """Every name and every value by itself, then all together."""
    known = [*default_settings(), *HOOK_DEFAULTS]
    both = {**shared, **own}
    base = {**head, **{key: both[key] for key in head if both.get(key) is not None}}
    places = {**dict.fromkeys(shared, "pipa"), **dict.fromkeys(own, place)}
    fix = "docs/settings.md lists names and ranges"
    for name, where in places.items():
        try:
            check_names([name], known)
        except ValueError as error:
            yield Finding(ERROR, f"{where}.{name}", str(error), fix)
    given = {name: value for name, value in both.items() if name in known and name not in HOOK_DEFAULTS}
    for name, text in refused({**given, **base}).items():
        yield Finding(ERROR, f"{places[name]}.{name}" if name in places else place, text, fix)


def _check_length(config: Mapping[str, Any], settings: Mapping[str, Any], place: str) -> Iterator[Finding]:
    """A term that waits for longer than the training lasts."""
    length = (config.get("train_cfg") or {}).get("max_iters")
    weight, warmup = (settings.get(name, default_settings()[name]) for name in ("patch_weight", "patch_warmup"))
    if not all(isinstance(value, (int, float)) for value in (length, weight, warmup)):
        return  # no length, or a value that is refused elsewhere
    if weight > 0 and warmup >= length:
        text = f"the patch term waits for {warmup} iterations and train_cfg.max_iters is {length}: it never acts"
        fix = "set pipa.patch_warmup below it (the paper: 10,000 of 60,000), or pipa.patch_weight=0"
        yield Finding(WARNING, f"{place}.patch_warmup", text, fix)


def refused(settings: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with settings of the iteration, by name; "" for what is wrong with all of them together."""
    base = {key: settings[key] for key in ("num_classes", "ignore_index") if key in settings}
    found: dict[str, str] = {}
    try:
        native_step(settings, 0)
    except ValueError as together:
        for name, value in settings.items():
            try:
                native_step({**base, name: value}, 0)
            except ValueError as error:
                if str(error) not in found.values():
                    found[name] = str(error)
        return found or {"": str(together)}
    return found


def sound(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that nothing is wrong with, so that what they say can be checked beside one that is."""
    wrong = refused(settings)
    return {name: value for name, value in settings.items() if name not in wrong}


def _check_batches(config: Mapping[str, Any], hook: Mapping[str, Any], place: str) -> Iterator[Finding]:
    target = hook.get("target_dataloader") or config.get("target_dataloader")
    if target is None:
        text = f"{NAME}: give it target_dataloader=dict(...), the loader of unlabelled target images"
        yield Finding(ERROR, f"{place}.target_dataloader", text, "see docs/data.md, draws")
        return
    source = config.get("train_dataloader") or {}
    sizes = [loader.get("batch_size") if "batch_sampler" not in loader else None for loader in (source, target)]
    if None not in sizes and sizes[0] != sizes[1]:
        text = f"{NAME}: train_dataloader and target_dataloader must have one batch_size, got {sizes[0]} and {sizes[1]}"
        own = f"{place}." if hook.get("target_dataloader") else ""
        yield Finding(ERROR, f"{own}target_dataloader.batch_size", text, "give both loaders the same batch_size")


def check_built(runner: Runner, model: Any, head: Any, num_classes: int | None) -> Iterator[Finding]:
    """What shows once the data sets and the model are there, before a weight is loaded.

    Args:
        model: the segmentor. head: its main decode head. num_classes: of the training. None: not known.
    """
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop) and isinstance(loop.dataloader.sampler, DrawSampler):
        text = "train_cfg: an epoch of DrawSampler never ends, so nothing would be validated or saved"
        yield Finding(ERROR, "train_cfg", text, "use train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)")
    train, val = (getattr(getattr(part, "dataloader", None), "dataset", None) for part in (loop, runner.val_loop))
    yield from _check_classes("train_dataloader", train, num_classes)
    ignored = getattr(head, "ignore_index", None)
    if train is not None and ignored is not None:
        yield from _check_ignored("train_dataloader", train, model, int(ignored))
    if val is not None:
        yield from check_evaluated("val", val, runner.val_loop.evaluator, num_classes)
        if len(class_names(train)) == len(class_names(val)):  # another number is told already
            yield from same_classes("val", val, class_names(train), "train_dataloader")


def check_evaluated(kind: str, data: Any, evaluator: Any, num_classes: int | None) -> Iterator[Finding]:
    """Data that a network is evaluated on: as many classes as it has, and one id for pixels without a class.

    Args:
        kind: "val" or "test". evaluator: whose metrics know the data set's `metainfo`.
    """
    yield from _check_classes(f"{kind}_dataloader", data, num_classes)
    for metric in evaluator.metrics:
        own = getattr(metric, "ignore_index", None)
        for part in parts(data):
            marked = getattr(part, "ignore_index", own)
            if own is not None and marked != own:
                text = (
                    f"{kind}_evaluator: {type(metric).__name__} leaves out id {own}, but the data set of "
                    f"{kind}_dataloader marks pixels without a class with id {marked}: they would count as errors"
                )
                fix = f"give it ignore_index={marked}; DomainIoUMetric takes the data set's where it is given none"
                yield Finding(ERROR, f"{kind}_evaluator", text, fix)
                break


def class_names(data: Any) -> list[str]:
    """Names of a data set's classes by id; none where it does not say them."""
    return [str(name) for name in (getattr(data, "metainfo", None) or {}).get("classes") or ()]


def same_classes(kind: str, data: Any, trained: Sequence[str], where: str) -> Iterator[Finding]:
    """The classes of data that a network is evaluated on, one by one beside those that it was trained on.

    Args:
        trained: names by id. where: what says them, a file or a loader of the config.
    """
    names = class_names(data)
    pairs = zip(map(spelled, names), map(spelled, trained), strict=False)
    place = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if not names or not trained or (place is None and len(names) == len(trained)):
        return
    place = min(len(names), len(trained)) if place is None else place
    theirs, ours = (repr(found[place]) if place < len(found) else "none" for found in (trained, names))
    counts = "" if len(names) == len(trained) else f" ({len(trained)} classes there, {len(names)} here)"
    text = f"{where}: its class {place} is {theirs}, but that of the data set of {kind}_dataloader is {ours}{counts}"
    fix = "give both the same classes in the same order"
    yield Finding(ERROR, f"{kind}_dataloader.dataset", text, fix)


def spelled(name: str) -> str:
    """A name without what data sets spell differently: "Traffic-Light", "traffic light" and "traffic_light" are one."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def classes_of(head: Any) -> int | None:
    """Number of classes that a decode head tells apart; None where it does not say."""
    found = getattr(head, "num_classes", None)
    return found if isinstance(found, int) else None


def check_tested(runner: Runner, head: Any, checkpoint: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """What a test refuses: data of other classes than the checkpoint's or the network's, or another ignored id.

    Args:
        head: the main decode head. checkpoint: its content. where: its file.
    """
    loop = runner.test_loop
    trained = checkpoint_classes(checkpoint)
    other = list(same_classes("test", loop.dataloader.dataset, trained, where))
    # One sentence: the names say all that the count does.
    yield from other
    yield from check_evaluated("test", loop.dataloader.dataset, loop.evaluator, None if other else classes_of(head))


def checkpoint_classes(checkpoint: Mapping[str, Any]) -> list[str]:
    """Names of the classes that a checkpoint was trained on; none where it does not say."""
    meta = checkpoint.get("meta") or {}
    for key in ("dataset_meta", "inference"):
        names = (meta.get(key) or {}).get("classes")
        if names:
            return [str(name) for name in names]
    return []


def _check_classes(place: str, data: Any, num_classes: int | None) -> Iterator[Finding]:
    names = class_names(data)
    if names and num_classes is not None and len(names) != num_classes:
        text = (
            f"model.decode_head.num_classes is {num_classes}, but the data set of {place} has {len(names)} classes "
            f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        )
        fix = f"set model.decode_head.num_classes={len(names)}, or give the data set the classes of the network"
        yield Finding(ERROR, "model.decode_head.num_classes", text, fix)


def _check_ignored(place: str, data: Any, model: Any, ignored: int) -> Iterator[Finding]:
    """One id for pixels without a class, in the data, the padding and the loss."""
    pre = model.data_preprocessor
    pads = getattr(pre, "size", None) is not None or (getattr(pre, "size_divisor", None) or 1) > 1
    fill = getattr(pre, "seg_pad_val", ignored)
    if pads and fill != ignored:
        text = f"data_preprocessor.seg_pad_val is {fill}, but the loss ignores id {ignored}: padding would be a class"
        yield Finding(ERROR, "model.data_preprocessor.seg_pad_val", text, f"set seg_pad_val={ignored}")
    for part in parts(data):
        own = getattr(part, "ignore_index", ignored)
        if own != ignored:
            text = (
                f"{type(part).__name__} marks pixels without a class with id {own}, but the loss ignores id {ignored} "
                "(decode_head.ignore_index)"
            )
            yield Finding(ERROR, f"{place}.dataset.ignore_index", text, "give both the same ignore_index")
        for transform in getattr(getattr(part, "pipeline", None), "transforms", ()):
            marked = getattr(transform, "ignore_index", None)
            if not isinstance(transform, (SyncCrop, RandomCrop)) or marked in (None, ignored):
                continue  # None: the data's own id
            name, what = type(transform).__name__, None
            if getattr(transform, "pad", False):
                what = f"{name} pads labels with id {marked}"
            elif transform.cat_max_ratio < 1:
                what = f"{name} takes id {marked} for pixels without a class (cat_max_ratio)"
            if what is not None:
                text = f"{what}, but the loss ignores id {ignored}"
                yield Finding(ERROR, f"{place}.dataset.pipeline", text, f"give {name} ignore_index={ignored}")


def need_labels(samples: Sequence[Any], place: str = "train_dataloader") -> None:
    """Every sample of a source batch has a label.

    Raises:
        DataError: names the image and what the pipeline lacks.
    """
    for sample in samples:
        if "gt_sem_seg" not in sample:
            raise DataError(
                f"{sample.metainfo.get('img_path')}: a source image came without its label; the pipeline of {place} "
                "needs dict(type='LoadLabel') (or LoadAnnotations) before PackSegInputs"
            )
