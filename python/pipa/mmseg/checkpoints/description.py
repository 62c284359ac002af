"""A network and its preprocessing as plain data: what a checkpoint carries so that it can be used without its config.

    {"format": 1, "model": {...}, "test_pipeline": [...], "imports": [...], "classes": [...], "palette": [...]}

Saved in a checkpoint as ``meta["inference"]``. Building from it runs no code but that of registered components.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmseg.registry import DATASETS

from pipa.mmseg.checkpoints.components import IMPORTS, is_registered, looked_up, registries
from pipa.mmseg.datasets.folder import load_classes

FORMAT = 1
KEY = "inference"

Description = dict[str, Any]


def describe(config: Any, dataset_meta: Mapping[str, Any] | None = None) -> Description:
    """Everything a prediction needs of a config.

    Args:
        dataset_meta: classes and palette of the training data; None: what the config says of its test data.

    Raises:
        ValueError: the config has no model or no test pipeline, or a value that is no plain data.
    """
    model = config.get("model")
    if not isinstance(model, Mapping):
        raise ValueError("config: expected a model as a dictionary")
    model = dict(model)
    if config.get("data_preprocessor") is not None:  # as mmengine's Runner does
        model.setdefault("data_preprocessor", config.get("data_preprocessor"))
    imports = (config.get("custom_imports") or {}).get("imports") or []
    meta = _meta(config, dataset_meta)
    return {
        "format": FORMAT,
        "model": without_pretrained(plain(model, "model")),
        "test_pipeline": plain(test_pipeline(config), "test_pipeline"),
        "imports": [imports] if isinstance(imports, str) else [str(name) for name in imports],
        "classes": None if meta.get("classes") is None else [str(name) for name in meta["classes"]],
        "palette": None if not meta.get("palette") else [[int(v) for v in color] for color in meta["palette"]],
        "start": _start(model),
    }


def describe_in(checkpoint: dict[str, Any], runner: Any) -> None:
    """Put the description of a training's network into its checkpoint (once), with what a model card tells.

    A config that is no plain data is named in the log: its checkpoints need their config to predict.
    """
    meta = checkpoint.setdefault("meta", {})
    if KEY in meta:
        return
    try:
        meta[KEY] = describe(runner.cfg, meta.get("dataset_meta"))
    except ValueError as error:
        runner.logger.warning(
            f"checkpoint: without the description of its network, predictions need the config: {error}"
        )
        return
    hub = runner.message_hub.log_scalars
    scores = {
        name.removeprefix("val/"): hub[name].current() for name in hub if name.startswith("val/") and "mIoU" in name
    }
    done = int(meta.get("iter", runner.iter))
    interval = int(getattr(runner.train_loop, "val_interval", 0) or 0)
    meta[KEY]["training"] = {
        "iteration": done,
        # A checkpoint is saved before the validation of its own iteration.
        "validated": (done - 1) // interval * interval if interval and scores else None,
        "config": Path(str(runner.cfg.filename)).stem if runner.cfg.filename else "",
        "settings": plain(_settings(runner.cfg), "settings"),
        "scores": {name: float(value) for name, value in scores.items()},
        "data": _data(runner.cfg),
    }


def _start(model: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder, and the weights it started from (None: from nothing, or from a file named in ``load_from``)."""
    backbone = model.get("backbone") or {}
    kind = backbone.get("type")
    weights = (
        (backbone.get("init_cfg") or {}).get("checkpoint") or backbone.get("pretrained") or model.get("pretrained")
    )
    if weights is True:
        weights = str(backbone.get("model_name") or "the weights that come with the encoder")
    return {
        "encoder": kind if isinstance(kind, str) else getattr(kind, "__name__", None),
        "weights": Path(weights).name if isinstance(weights, str) else None,
    }


def _settings(config: Any) -> dict[str, Any]:
    """The numbers and words of a training that explain its result."""
    optimizer = (config.get("optim_wrapper") or {}).get("optimizer") or {}
    settings = {
        "optimiser": optimizer.get("type"),
        "learning rate": optimizer.get("lr"),
        "iterations": (config.get("train_cfg") or {}).get("max_iters"),
        "batch": (config.get("train_dataloader") or {}).get("batch_size"),
        "seed": (config.get("randomness") or {}).get("seed"),
    }
    for hook in config.get("custom_hooks") or []:
        if isinstance(hook, Mapping) and str(hook.get("type")).endswith("PipaHook"):
            settings.update({k: v for k, v in hook.items() if isinstance(v, (bool, int, float, str)) and k != "type"})
    return {
        key: str(value) if isinstance(value, type) else value for key, value in settings.items() if value is not None
    }


def _data(config: Any) -> dict[str, str]:
    """The kinds of data sets, by their role."""
    found = {}
    for role, loader in (("source", "train_dataloader"), ("target", "target_dataloader"), ("test", "test_dataloader")):
        dataset = (config.get(loader) or {}).get("dataset")
        while isinstance(dataset, Mapping) and (dataset.get("dataset") or dataset.get("datasets")):
            dataset = dataset.get("dataset") or dataset["datasets"][0]
        if isinstance(dataset, Mapping):
            kind = dataset.get("type")
            found[role] = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    return found


def check(description: Any, where: str) -> Description:
    """Refuse what a file may not ask for. ValueError names the file and the key."""
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        raise ValueError(f"{where}: expected a description of the network in format {FORMAT}, found {found!r}")
    for key, kind in (("model", dict), ("test_pipeline", list), ("imports", list)):
        if not isinstance(description.get(key), kind):
            raise ValueError(f"{where}: {key}: expected a {kind.__name__}, got {type(description.get(key)).__name__}")
    names = [*looked_up(description["model"]), *looked_up(description["test_pipeline"])]
    for name in names:
        if "." in name and not is_registered(name):
            raise ValueError(f"{where}: type {name!r} is no registered component; a checkpoint may name those only")
    return description


def allowed_imports(description: Description) -> list[str]:
    """Modules of this package and the libraries it builds on; a checkpoint can ask for no other."""
    return [name for name in description["imports"] if name.split(".")[0] in IMPORTS]


def test_pipeline(config: Any) -> list[Any]:
    """The pipeline that `pipa test` reads its images with.

    Raises:
        ValueError: there is none, or joined data sets have different ones.
    """
    for loader in ("test_dataloader", "val_dataloader"):
        dataset = (config.get(loader) or {}).get("dataset")
        found = list(_pipelines(dataset)) if dataset is not None else []
        if any(other != found[0] for other in found[1:]):
            raise ValueError(f"{loader}: its data sets have different pipelines; a prediction needs one")
        if found:
            return list(found[0])
    if config.get("test_pipeline"):
        return list(config.get("test_pipeline"))
    raise ValueError(
        "config: no test pipeline (test_dataloader.dataset.pipeline), so nothing says how to read an image"
    )


def _pipelines(dataset: Any) -> Iterator[Any]:
    if dataset.get("pipeline"):
        yield dataset["pipeline"]
        return
    for inner in (dataset.get("dataset"), *(dataset.get("datasets") or [])):
        if inner is not None:
            yield from _pipelines(inner)


def _meta(config: Any, dataset_meta: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if dataset_meta and dataset_meta.get("classes"):
        return dataset_meta
    for loader in ("test_dataloader", "val_dataloader", "train_dataloader"):
        dataset = (config.get(loader) or {}).get("dataset")
        while dataset is not None and (dataset.get("dataset") or dataset.get("datasets")):
            dataset = dataset.get("dataset") or dataset["datasets"][0]
        if dataset is None:
            continue
        if (dataset.get("metainfo") or {}).get("classes"):
            return dataset["metainfo"]
        named = dataset.get("classes")
        if named is not None:
            found = [p for p in _places(named, dataset) if not isinstance(p, Path) or p.is_file()]
            if found:
                classes = load_classes(found[0])
                return {"classes": classes.names, "palette": classes.colors}
            continue
        kind = DATASETS.get(dataset["type"]) if isinstance(dataset.get("type"), str) else dataset.get("type")
        if getattr(kind, "METAINFO", {}).get("classes"):
            return kind.METAINFO
    return {}


def _places(named: Any, dataset: Any) -> list[Any]:
    """Where a data set's class file may be: as given, or below the data's folder."""
    if not isinstance(named, (str, Path)):
        return [named]
    return [Path(named), Path(dataset.get("data_root") or ".") / named]


def without_pretrained(model: Any) -> Any:
    """A model's config that looks for no weights: the checkpoint holds them all."""
    if isinstance(model, dict):
        kept = {}
        for key, value in model.items():
            if key == "init_cfg":
                continue
            if key == "pretrained":
                kept[key] = False if isinstance(value, bool) else None
            else:
                kept[key] = without_pretrained(value)
        return kept
    if isinstance(model, (list, tuple)):
        return type(model)(without_pretrained(value) for value in model)
    return model


def plain(value: Any, where: str) -> Any:
    """Dictionaries, lists, tuples, numbers, text and None; a registered class by its name."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(inner, where) for inner in value)
    if isinstance(value, (list, set, range)) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return [plain(inner, where) for inner in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = getattr(value, "__name__", "")
    if any(value in root.module_dict.values() for root in registries()):
        return name
    raise ValueError(f"{where}: expected plain data, got {type(value).__name__}; a checkpoint cannot carry it")
