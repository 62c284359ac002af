"""Configs as plain YAML or JSON: data only, for settings that come from somebody else.

    _base_: gta2cs_daformer_pipa        # a shipped config, or another YAML or JSON file beside this one
    train_cfg: {max_iters: 20000}       # the schedule follows
    crop_size: [512, 512]               # so does all that is computed from a variable of the base

A config in Python is a program. mmengine reads YAML with a loader that makes any object a tag asks for, imports what
``custom_imports`` names, and takes a dotted ``type`` for any function of any module; here all three are refused.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.utils import import_modules_from_strings

from pipa.configs import path_of
from pipa.files.plain import SUFFIXES, read_plain
from pipa.mmseg.checkpoints.components import IMPORTS, is_registered, looked_up
from pipa.mmseg.mmengine_compat import merge
from pipa.mmseg.run.python_config import (
    FIELDS,
    Found,
    Layer,
    check_variables,
    reach_hook,
    read_python,
    replaced,
    under,
    unused,
)


def read_data_config(path: str | Path) -> Config:
    """Config of a YAML or JSON file, merged over its ``_base_``.

    Raises:
        ValueError: the file is not plain data, names something it may not, or its ``_base_`` leads in a circle.
    """
    return read_data(path).config


def read_data(path: str | Path, layers: tuple[Layer, ...] = (), _inside: tuple[Path, ...] = ()) -> Found:
    """A config of a YAML or JSON file.

    Args:
        layers: values of variables, from the nearest file over this one to the command line.
    """
    path = Path(path).resolve()
    if path in _inside:
        raise ValueError(f"{path}: _base_ leads in a circle")
    content = read_plain(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(content).__name__}")
    bases = content.pop("_base_", [])
    content = dict(ConfigDict(content))
    for layer in layers:
        content.update({k: replaced(content[k], v) for k, v in layer.items() if k in content and k not in FIELDS})

    def below(layer: Layer) -> ConfigDict:
        merged = ConfigDict()
        for base in [bases] if isinstance(bases, str) else bases:
            merged = merge(_base(path, str(base), (layer, *layers), (*_inside, path)), merged)
        return merged

    first = below({})
    check_variables(path, content, first)
    merged = under(below, content, first)
    _import(path, content.get("custom_imports"))
    for name in looked_up(content):
        if "." in name and not is_registered(name):
            raise ValueError(
                f"{path}: type {name!r} is no registered component; a YAML or JSON config is data and names those only"
            )
    idle = unused(path, [key for key in content if key not in FIELDS], content, first, below)
    merged = merge(ConfigDict(copy.deepcopy(content)), merged)
    reach_hook(merged, content)
    # The runner keeps a copy in the work folder: as Python, which keeps tuples apart from lists.
    text = path.read_text(encoding="utf-8")
    return Found(Config(merged, cfg_text=text, filename=str(path.with_suffix(".py"))), idle, not bases)


def _base(path: Path, base: str, layers: tuple[Layer, ...], inside: tuple[Path, ...]) -> Config:
    file = path.parent / base
    if file.suffix in SUFFIXES:
        if not file.is_file():
            raise ValueError(f"{path}: _base_ {base!r}: no such file {file}")
        return read_data(file, layers, inside).config
    try:
        shipped = path_of(base)
    except ValueError as error:
        raise ValueError(f"{path}: _base_ must be a YAML or JSON file or a shipped config: {error}") from None
    return read_python(shipped, layers).config


def _import(path: Path, custom_imports: Any) -> None:
    if custom_imports is None:
        return
    names = custom_imports.get("imports") if isinstance(custom_imports, dict) else None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: custom_imports: expected a mapping with a list under 'imports'")
    for name in names:
        if name.split(".")[0] not in IMPORTS:
            raise ValueError(
                f"{path}: custom_imports names {name!r}; a YAML or JSON config may import only {', '.join(IMPORTS)}: "
                "use a config in Python for code of your own"
            )
    import_modules_from_strings(names)
