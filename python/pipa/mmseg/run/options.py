"""Overrides of the command line: each one acts, or is refused with the key that acts.

train_cfg.max_iters=4000      the schedule follows
crop_size="(512, 512)"        a variable of the config: what is computed from it follows
pipa.pixel_weight=0.2         reaches the hook, wherever the config gives the setting
"""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import init_dist
from mmengine.runner import LogProcessor, Runner
from torch.utils.data import DataLoader

from pipa.mmseg.mmengine_compat import values_of, with_values
from pipa.mmseg.run.python_config import FIELDS, Found, Layer, check_variable, fields, hooks, replaced, under
from pipa.mmseg.run.values import refusal
from pipa.settings import HOOK_DEFAULTS, default_settings

# Options of a loader that change no result: they may stand for a loader that is not used.
HARMLESS = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")


def parse_value(text: str) -> Any:
    """A Python literal, true/false/null, or the text itself."""
    words = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse(options: Sequence[str]) -> list[tuple[str, Any]]:
    """Key and value of each ``KEY=VALUE``; ``data_root`` is a text whatever it looks like."""
    found = []
    for option in options:
        key, sign, text = option.partition("=")
        if not sign:
            raise ValueError(f"--cfg-options: expected KEY=VALUE, got {option!r}")
        found.append((key, text if key == "data_root" else parse_value(text)))
    return found


def apply(read: Callable[[Layer], Config], options: Sequence[tuple[str, Any]]) -> Config:
    """A config with overrides.

    Args:
        read: reads it with the values of some of its variables.

    Raises:
        ValueError: an override of something that is not there, or that nothing follows from.
    """
    plain = read({})
    if not options:
        return plain
    variables: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in options:
        check_option(plain, key)
        text = refusal(key, value)  # before anything is computed from it
        if text is not None:
            raise ValueError(f"--cfg-options {key}: {text}")
        name = key.partition(".")[0]
        if name not in FIELDS:
            variables[name] = _variable(plain, variables, key, value)
        elif key == "train_cfg.max_iters":
            own = {"train_cfg": {"max_iters": value}}
    latest = plain

    def below(layer: Layer) -> ConfigDict:
        nonlocal latest
        latest = read(layer) if layer else plain
        return values_of(latest)

    def varied(names: Iterable[str]) -> ConfigDict:
        return copy.deepcopy(under(below, {**{name: variables[name] for name in names}, **own}))

    values = varied(variables)
    config = with_values(latest, copy.deepcopy(values))
    for key, value in options:
        for place in _places(config, key):
            config.merge_from_dict({place: value})
    for name in variables:
        if plain[name] != config[name]:
            without = varied(other for other in variables if other != name)
            _check_effect(name, fields(without) != fields(values), config)
    return config


def _variable(config: Config, variables: Mapping[str, Any], key: str, value: Any) -> Any:
    """The new value of a variable, whole, for an override of it or of something inside it."""
    name = key.partition(".")[0]
    old = variables.get(name, config[name])
    if "." in key:
        part = Config({name: copy.deepcopy(old)})
        part.merge_from_dict({key: value})
        return part[name]
    check_variable(f"--cfg-options {name}", old, value)
    kinds: tuple[tuple[bool, type | tuple[type, ...], str], ...] = (
        (isinstance(old, dict), dict, "a dictionary"),
        (isinstance(old, (list, tuple)), (list, tuple), f"{len(old) if isinstance(old, (list, tuple)) else 0} values"),
        (isinstance(old, bool), bool, "true or false"),
        (isinstance(old, (int, float)) and not isinstance(old, bool), (int, float), "a number"),
    )
    for applies, kind, expected in kinds:
        if applies and value is not None and not isinstance(value, kind):
            raise ValueError(f"--cfg-options {key}: expected {expected} in the place of {old!r}, got {value!r}")
    return replaced(old, str(value) if isinstance(old, str) and isinstance(value, (int, float)) else value)


def _places(config: Config, key: str) -> list[str]:
    """Where an override has to be written: a hook may have settings and a target loader of its own."""
    first, _, rest = key.partition(".")
    found = [key]
    for i, hook in enumerate(config.get("custom_hooks") or []):
        place = f"custom_hooks.{i}"
        if not any(hook is one for one in hooks(config)):
            continue
        if first == "pipa" and rest.partition(".")[0] in hook:
            found.append(f"{place}.{rest}")
        if first == "target_dataloader" and hook.get("target_dataloader"):
            found.append(f"{place}.{key}")
        if key.startswith(f"{place}.target_dataloader.") and not hook.get("target_dataloader"):
            found = [key.removeprefix(f"{place}.")]
    return found


def _check_effect(name: str, changed: bool, config: Config) -> None:
    """Refuse an override of a variable that changes nothing, or not what has its name."""
    same = list(leaves(fields(config), name))
    if changed and (not same or isinstance(config[name], str) or any(_equal(value, config[name]) for _, value in same)):
        return
    where = f"; set {' or '.join(place for place, _ in same[:3])}" if same else ""
    raise ValueError(f"--cfg-options {name}: the option {name} has no effect, nothing is computed from it{where}")


def check_idle(found: Found, where: str) -> None:
    """Refuse a variable of a file that does nothing and is named like a setting that has another value.

    In a file without a base it is a warning: the runner's copy of a config has all variables, and nothing follows.
    """
    for name in found.idle:
        value = found.config.get(name)
        same = [] if isinstance(value, (dict, str)) else list(leaves(fields(found.config), name))
        if same and not any(_equal(one, value) for _, one in same):
            places = " or ".join(place for place, _ in same[:3])
            text = f"{where}: {name} = {value!r} has no effect, nothing is computed from it; set {places}"
            if not found.alone:
                raise ValueError(text)
            warnings.warn(text, UserWarning, stacklevel=2)


def leaves(node: Any, name: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """Place and value of everything in a config that has this name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            place = f"{path}.{key}" if path else str(key)
            if key == name:
                yield place, value
            else:
                yield from leaves(value, name, place)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from leaves(value, name, f"{path}.{i}")


def _equal(one: Any, other: Any) -> bool:
    return _plain(one) == _plain(other)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


# -- what may be set ---------------------------------------------------------------------------------------------------


def check_option(config: Config, key: str) -> None:
    """Refuse an override of what neither the config has nor the component at that place takes.

    A ``dict(type=...)`` checks its own settings when it is built.
    """
    parts = key.split(".")
    if parts[0] in ("pipa", "target_dataloader") and not hooks(config) and parts[-1] not in HARMLESS:
        raise ValueError(f"--cfg-options {key}: has no effect, the config has no PipaHook that reads it")
    node: Any = config
    for depth, part in enumerate(parts):
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ValueError(f"--cfg-options {key}: {part!r} is no index of a list of {len(node)}")
            node = node[int(part)]
            continue
        if not hasattr(node, "keys"):
            raise ValueError(f"--cfg-options {key}: {'.'.join(parts[:depth])} has no settings below it")
        if part not in node:
            last = depth == len(parts) - 1
            known = _known(tuple(parts[:depth]))
            if known is not None and part in known:
                node = {}
                continue
            if known is None and (node == {} or (last and "type" in node)):
                return
            if depth == 2 and parts[0] == "custom_hooks" and part == "target_dataloader" and not last:
                check_option(config, ".".join(parts[2:]))
                return
            raise ValueError(f"--cfg-options {key}: the config has no {part!r}{_hint(config, part, node, known)}")
        node = node[part]


def _hint(config: Config, part: str, node: Any, known: Any) -> str:
    near = [place for place, _ in leaves(fields(config), part)][:3] if node is config else []
    near = near or difflib.get_close_matches(part, [*map(str, node.keys()), *(known or ())], n=1)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self", "args", "kwargs"}


def _known(place: tuple[str, ...]) -> set[str] | None:
    """Settings of the component at a place that has no ``type``; None: it is not known here."""
    if place and place[-1].endswith("dataloader"):
        more = {"sampler", "batch_sampler", "dataset", "num_batch_per_epoch", "disable_subprocess_warning"}
        return _parameters(DataLoader.__init__) | more
    if place[:3] == ("optim_wrapper", "paramwise_cfg", "custom_keys"):
        return None if len(place) == 3 else {"lr_mult", "decay_mult"}
    return {
        (): set(FIELDS),
        ("randomness",): _parameters(Runner.set_randomness),
        ("env_cfg",): {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
        ("env_cfg", "mp_cfg"): {"mp_start_method", "opencv_num_threads"},
        ("env_cfg", "dist_cfg"): _parameters(init_dist) - {"launcher"} | {"timeout", "init_method"},
        ("log_processor",): _parameters(LogProcessor.__init__),
        ("auto_scale_lr",): {"enable", "base_batch_size"},
        ("pipa",): set(default_settings()) | set(HOOK_DEFAULTS),
        ("model", "test_cfg"): {"mode", "crop_size", "stride", "batched_slide"},
        ("optim_wrapper",): {"type", "optimizer", "paramwise_cfg", "constructor", "clip_grad", "accumulative_counts"},
        ("optim_wrapper", "clip_grad"): {"max_norm", "norm_type", "clip_value", "type", "error_if_nonfinite"},
    }.get(place)


# -- values that go together -------------------------------------------------------------------------------------------


def without_workers(node: Any) -> None:
    """A loader without workers has none to keep or to feed: torch refuses these settings then."""
    if isinstance(node, dict):
        if node.get("num_workers") == 0 and "dataset" in node:
            node.pop("prefetch_factor", None)
            if node.get("persistent_workers"):
                node["persistent_workers"] = False
        for value in node.values():
            without_workers(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            without_workers(value)
