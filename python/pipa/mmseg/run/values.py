"""Single values of a config that are refused before anything is built from them.

mmengine meets most of them late, in an error that names no key; some it takes for something else (``max_iters=True``
trains one iteration).
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pipa.files.plain import SUFFIXES
from pipa.mmseg.run.places import line_of
from pipa.mmseg.run.python_config import fields

Rule = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(least: int, floats: bool = True) -> Rule:
    """A whole number; `floats`: 4e4 is one too, where nothing is indexed with it."""

    def fits(value: Any) -> bool:
        kinds = (int, float) if floats else int
        return _is_number(value) and isinstance(value, kinds) and float(value).is_integer() and value >= least

    return f"a whole number of {least} or more", fits


def _pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(_COUNT[1](v) for v in value)


_COUNT = _whole(1, floats=False)
_PAIR: Rule = ("(height, width) in whole pixels", _pair)
_SIDES: Rule = ("(height, width) or one number, in whole pixels", lambda value: _COUNT[1](value) or _pair(value))
_NONE_OR_PAIR: Rule = (_PAIR[0], lambda value: value is None or _pair(value))
_NUMBER: Rule = ("a number of 0 or more", lambda value: _is_number(value) and 0 <= value < math.inf)
_PATH: Rule = ("a path as text", lambda value: value is None or isinstance(value, (str, os.PathLike)))
_SEED: Rule = (_whole(0)[0], lambda value: value is None or _whole(0, floats=False)[1](value))
_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")
_LEVEL: Rule = (
    f"one of {', '.join(_LEVELS)}",
    lambda value: value in logging.getLevelNamesMapping() if isinstance(value, str) else _is_number(value),
)

# By the place in the config, lists as `param_scheduler.0`.
_RULES: tuple[tuple[str, Rule], ...] = (
    (r"train_cfg\.(max_iters|max_epochs|val_interval)", _whole(1)),
    (r"train_cfg\.val_begin", _whole(0)),
    (r"param_scheduler(\.\d+)?\.begin", _whole(0)),
    (r"param_scheduler(\.\d+)?\.end", _whole(1)),
    (r"(.+\.)?\w*dataloader\.batch_size", _COUNT),
    (r"(.+\.)?\w*dataloader\.num_workers", _whole(0, floats=False)),
    (r"randomness\.seed", _SEED),
    (r"default_hooks\.checkpoint\.(interval|max_keep_ckpts)", _whole(-1)),
    (r"default_hooks\.logger\.interval", _COUNT),
    (r"optim_wrapper\.optimizer\.(lr|weight_decay|momentum)", _NUMBER),
    (r"optim_wrapper\.accumulative_counts", _COUNT),
    (r"model\.test_cfg\.(crop_size|stride)", _PAIR),
    (r"(model\.)?data_preprocessor\.size", _NONE_OR_PAIR),
    (r"log_level", _LEVEL),
    (r"load_from|work_dir", _PATH),
)
_CROPS = ("SyncCrop", "RandomCrop", "CenterCrop")


def refusal(place: str, value: Any, kind: str = "") -> str | None:
    """What is wrong with a value, as "expected ..., got ..."; None: nothing that shows here.

    Args:
        place: as ``train_cfg.max_iters`` or ``custom_hooks[0].target_dataloader.batch_size``.
        kind: the type of the component that has it.
    """
    dotted = place.replace("[", ".").replace("]", "")
    rule = next((rule for pattern, rule in _RULES if re.fullmatch(pattern, dotted)), None)
    if rule is None and kind.rpartition(".")[2] in _CROPS and dotted.endswith(".crop_size"):
        rule = _SIDES
    return None if rule is None or rule[1](value) else f"expected {rule[0]}, got {value!r}"


def refusals(config: Any) -> Iterator[tuple[str, str]]:
    """(place, what is wrong) of every value of a config; variables that nothing reads do not count."""
    yield from _walk(fields(config), "")


def check_values(config: Config) -> None:
    """Refuse the first value that is wrong. ValueError names the file, its line where that is known, and the key."""
    for place, text in refusals(config):
        if config.filename is None:
            raise ValueError(f"{place}: {text}")
        file = Path(config.filename)  # of a YAML or JSON config with another end
        file = next((one for one in (file, *map(file.with_suffix, SUFFIXES)) if one.is_file()), file)
        raise ValueError(f"{line_of(file, place) or file}: {place}: {text}")


def _walk(node: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        kind = node.get("type")
        for key, value in node.items():
            inner = f"{place}.{key}" if place else str(key)
            text = refusal(inner, value, kind if isinstance(kind, str) else getattr(kind, "__name__", ""))
            if text is not None:
                yield inner, text
            yield from _walk(value, inner)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _walk(value, f"{place}[{i}]")
