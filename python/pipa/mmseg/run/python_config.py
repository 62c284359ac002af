"""Configs in Python, in which all that is computed from a variable follows from the variable's last value.

mmengine runs a base file to its end before the file over it says anything: with ``max_iters = 2`` over a base that has
``max_iters = 60000`` and a schedule computed from it, the schedule keeps the old length. Here a base is run again with
the values that the files over it, and the command line, give its variables. A variable is any name at the top of a
file that is no setting of the runner itself (:data:`FIELDS`).

What else mmengine's format has stays: ``_base_`` (files, ``mmseg::`` paths; here also names of shipped configs),
``{{_base_.x}}``, ``{{$VARIABLE:default}}``, ``_delete_``. A config of its "lazy import" kind is read by mmengine alone.
"""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from pipa.configs import path_of
from pipa.mmseg.mmengine_compat import (
    ConfigSource,
    config_source,
    is_lazy_config,
    merge,
    package_config,
    read_any_config,
    scoped,
)

# Values of variables, from a file or a command line over the one that is read.
Layer: TypeAlias = Mapping[str, Any]

OWN_FIELDS = ("custom_imports", "target_dataloader", "pipa")
# What the runner and the hook read; everything else at the top of a config is a variable.
FIELDS = frozenset(
    [name for name in inspect.signature(Runner.__init__).parameters if name not in ("self", "cfg")]
    + ["compile", "activation_checkpointing", "efficient_conv_bn_eval", "sync_bn", "find_unused_parameters"]
    + ["model_wrapper_cfg", *OWN_FIELDS]
)


@dataclass
class Read:
    """A config file with all that it lies over."""

    values: ConfigDict
    text: str
    environment: dict[str, Any]
    idle: tuple[str, ...] = ()  # variables of the file that nothing is computed from
    alone: bool = False  # without a base


@dataclass
class Found:
    """A config as mmengine has it, and what else is known of its file."""

    config: Config
    idle: tuple[str, ...] = ()
    alone: bool = False


def read_python(path: str | Path, layers: tuple[Layer, ...] = ()) -> Found:
    """A config of a Python file.

    Args:
        layers: values of variables, from the nearest file over this one to the command line.

    Raises:
        ValueError: a ``_base_`` that is neither a file nor a shipped config.
    """
    check_text(Path(path))
    if is_lazy_config(Path(path)):
        return Found(Config.fromfile(str(path)))
    read = evaluate(Path(path), layers)
    if read.values.get("custom_imports"):
        import_modules_from_strings(**read.values["custom_imports"])
    config = Config(read.values, cfg_text=read.text, filename=str(path), env_variables=read.environment)
    return Found(config, read.idle, read.alone)


def check_text(path: Path) -> None:
    """Refuse what is no Python text; mmengine's own errors would not name the file."""
    try:
        ast.parse(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected a config in Python, YAML or JSON, got a file that is no text") from None
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: expected a config in Python, got {error.msg}") from error


def evaluate(path: Path, layers: tuple[Layer, ...] = ()) -> Read:
    """The values of a file and its bases; see :func:`read_python`."""
    path = path.absolute()
    check_text(path)
    source = config_source(path)
    environment = source.environment
    texts: list[str] = []

    def below(layer: Layer) -> ConfigDict:
        texts.clear()
        found = ConfigDict()
        for base in source.bases:
            file, scope = _located(base, path)
            python = file.suffix == ".py"
            base_read = evaluate(file, (layer, *layers)) if python else Read(*read_any_config(file))
            texts.append(base_read.text)
            environment.update(base_read.environment)
            if twice := found.keys() & base_read.values.keys():
                raise KeyError(f"{path}: two files of _base_ give {', '.join(sorted(twice))}")
            found.update(scoped(base_read.values, scope))
        return found

    first = below({})
    own = _run(source, path, first, layers)
    check_variables(path, own, first)
    config = under(below, own, first)
    if config is not first:  # what the file takes from its bases follows too; what it gives them stays
        kept = {name: own[name] for name in own if name in first and name not in FIELDS}
        own = _run(source, path, config, (kept, *layers))
    merged = merge(ConfigDict(copy.deepcopy(own)), config)
    reach_hook(merged, own)
    values = ConfigDict({key: value for key, value in merged.items() if not key.startswith("__")})
    text = "\n".join([*texts, f"{path}\n{path.read_text(encoding='utf-8')}"])
    read = {node.id for node in ast.walk(source.tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    names = [name for name in own if name not in FIELDS and name not in read]
    return Read(values, text, environment, unused(path, names, own, first, below), not source.bases)


def under(below: Callable[[Layer], ConfigDict], own: Mapping[str, Any], first: ConfigDict | None = None) -> ConfigDict:
    """The base that `own` is merged over: with own's variables, and schedules as long as own's training.

    Args:
        below: reads the base with the values of some of its variables.
        first: what it gives without any.
    """
    first = below({}) if first is None else first
    layer = {key: value for key, value in own.items() if key in first and key not in FIELDS}
    config = below(layer) if any(first[key] != value for key, value in layer.items()) else first
    new, old = (_length(part) for part in (own, config))
    if new is None or old is None or new == old:
        return config
    for name, value in config.items():
        if name not in FIELDS and type(value) is int and value == old:
            try:
                tried = below({**layer, name: new})
            except (ValueError, TypeError, ArithmeticError, LookupError):
                continue
            if _length(tried) == new:
                return tried
    config = copy.deepcopy(config)
    for schedule in _schedules(config):
        _follow(schedule, old, new)
    return config


def check_variables(path: Path, own: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """:func:`check_variable` of each variable of a file over the base that gives it first. ValueError."""
    for name, value in own.items():
        if name in first and name not in FIELDS:
            check_variable(f"{path}: {name}", first[name], value)


def check_variable(where: str, old: Any, new: Any) -> None:
    """Refuse a variable that what is computed from it cannot take: a text or a truth value in the place of a number,
    or a size with another count of sides."""
    number = isinstance(old, (int, float)) and not isinstance(old, bool)
    if number and isinstance(new, (str, bool)):
        raise ValueError(f"{where}: expected a number in the place of {old!r}, got {new!r}")
    sides = where.endswith("size") and isinstance(old, tuple) and isinstance(new, (list, tuple))
    if sides and len(old) != len(new):
        raise ValueError(f"{where}: expected {len(old)} values in the place of {old!r}, got {new!r}")


def reach_hook(config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Pass a file's ``pipa`` and ``target_dataloader`` on to a hook of its base that has settings of its own."""
    if "custom_hooks" in own:
        return
    for hook in hooks(config):
        for key, value in (own.get("pipa") or {}).items():
            if key in hook:
                hook[key] = value
        if own.get("target_dataloader") and hook.get("target_dataloader"):
            loader = copy.deepcopy(own["target_dataloader"])
            hook["target_dataloader"] = merge(ConfigDict(loader), hook["target_dataloader"])


def hooks(config: Mapping[str, Any]) -> list[Any]:
    """The PipaHooks of a config."""
    found = config.get("custom_hooks") or []
    return [hook for hook in found if isinstance(hook, dict) and str(hook.get("type")).endswith("PipaHook")]


def fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What acts: a config without its variables."""
    return {key: value for key, value in config.items() if key in FIELDS}


def _located(base: str, path: Path) -> tuple[Path, str | None]:
    """File and scope of a ``_base_``: beside the config, of an installed package, or a shipped config by its name."""
    if "::" in base:
        return package_config(base, path)
    file = path.parent / base
    if file.is_file():
        return file, None
    if len(Path(base).parts) > 1:
        raise ValueError(f"{path}: _base_ {base!r}: no such file {file}")
    try:
        return path_of(base), None
    except ValueError as error:
        raise ValueError(f"{path}: _base_ must be a file beside it or a shipped config: {error}") from None


def _run(source: ConfigSource, path: Path, base: ConfigDict, layers: tuple[Layer, ...]) -> dict[str, Any]:
    """Run a config's code over its base; layers give variables their values where the code assigns them."""

    def bind(name: str, value: Any) -> Any:
        for layer in layers:
            if name in layer:
                value = replaced(value, layer[name])
        return value

    names = {name for layer in layers for name in layer if name not in FIELDS}
    code = ast.fix_missing_locations(_Bind(names).visit(copy.deepcopy(source.tree)))
    space: dict[str, Any] = {"_base_": copy.deepcopy(base), "__bind__": bind}
    try:
        exec(compile(code, str(path), "exec"), space)
    except (NameError, TypeError, AttributeError, LookupError, ImportError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    kept = (types.FunctionType, types.ModuleType)
    own = {k: v for k, v in space.items() if k != "_base_" and k[:2] != "__" and not isinstance(v, kept)}
    return source.filled(own, base)


def replaced(value: Any, new: Any) -> Any:
    """A variable's value with another one in its place: dictionaries are merged, a list stands for a tuple too."""
    new = copy.deepcopy(new)
    if isinstance(value, dict) and isinstance(new, dict):
        merged = merge(ConfigDict(x=new), ConfigDict(x=ConfigDict(value)))  # x: for _delete_ at the top
        return merged["x"]
    if isinstance(value, tuple) and isinstance(new, list):
        return tuple(new)
    return new


class _Bind(ast.NodeTransformer):
    """``x = __bind__("x", x)`` after each assignment of a name at the top of the file; ``_base_ = ...`` goes."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit_Assign(self, node: ast.Assign) -> Any:
        if isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_base_":
            return None
        return self._bound(node, node.targets)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        return self._bound(node, [node.target])

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        return self._bound(node, [node.target])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return node  # names of its own

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return node

    def _bound(self, node: ast.stmt, targets: list[ast.expr]) -> list[ast.stmt]:
        parts = [part for target in targets for part in ast.walk(target)]
        names = [p.id for p in parts if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store) and p.id in self.names]
        after = [ast.parse(f"{name} = __bind__({name!r}, {name})").body[0] for name in names]
        return [node, *(ast.copy_location(statement, node) for statement in after)]


def unused(
    where: Path, names: list[str], own: Mapping[str, Any], first: ConfigDict, below: Callable[[Layer], ConfigDict]
) -> tuple[str, ...]:
    """Of variables of a file, those that its bases make nothing of.

    Raises:
        ValueError: one of them looks like a misspelt variable of a base.
    """
    known = [key for key in first if key not in FIELDS]
    for name in names:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.88)
        if near and name not in known:
            raise ValueError(f"{where}: unknown setting {name!r}; did you mean {near[0]!r}?")

    def idle(name: str) -> bool:
        if name not in first:
            return True
        return bool(first[name] != own[name]) and fields(below({name: own[name]})) == fields(first)

    return tuple(name for name in names if idle(name))


def _length(config: Mapping[str, Any]) -> int | None:
    loop = config.get("train_cfg")
    value = loop.get("max_iters") if isinstance(loop, Mapping) else None
    return value if type(value) is int else None


def _schedules(config: Mapping[str, Any]) -> list[Any]:
    found = config.get("param_scheduler") or []
    return [part for part in (found if isinstance(found, (list, tuple)) else [found]) if isinstance(part, dict)]


def _follow(schedule: dict[str, Any], old: int, new: int) -> None:
    """Move the end of a schedule that ended with the training."""
    for key in ("end", "T_max", "total_steps"):
        if schedule.get(key) in (old, old + 1):
            schedule[key] += new - old
    if type(schedule.get("end")) is int and schedule.get("begin", 0) >= schedule["end"]:
        schedule["begin"] = max(0, schedule["end"] - 1)
