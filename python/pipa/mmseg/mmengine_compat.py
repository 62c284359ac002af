"""What this package takes of OpenMMLab's private names, each with its reason, so that a renamed one breaks here alone.

One is overridden elsewhere: ``CheckpointHook._save_best_checkpoint``, in engine/checkpoint_hook.py.
"""

from __future__ import annotations

import ast
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.loops import BaseLoop, _InfiniteDataloaderIterator
from torch import Tensor

#: The iterator that IterBasedTrainLoop keeps; a resume makes it anew, as the loop does.
InfiniteIterator = _InfiniteDataloaderIterator


def build_runner(config: Config) -> Runner:
    """``Runner.from_cfg`` without a shell's remark.

    For its log mmengine asks the compiler that Python was built with for its version, through a shell. Where there is
    none, the shell says so on the screen, of something that no training needs.

    Raises:
        ValueError: the config has no model.
    """
    if "model" not in config:
        raise ValueError(f"{config.filename}: expected a config with a model, got {', '.join(config) or 'nothing'}")
    variables = sysconfig.get_config_vars()
    compiler = variables.get("CC")
    if not compiler or shutil.which(Path(compiler.split()[0]).name):
        return Runner.from_cfg(config)
    variables["CC"] = "false"  # fails in silence; the log has n/a, as it would have
    try:
        return Runner.from_cfg(config)
    finally:
        variables["CC"] = compiler


def is_training(runner: Runner) -> bool:
    """Was the training loop built? ``runner.train_loop`` would build it in a run that only tests."""
    return isinstance(runner._train_loop, BaseLoop)


def is_resuming(runner: Runner) -> bool:
    """Resume instead of starting from weights; the runner has no public name for its argument ``resume``."""
    return bool(runner._resume)


def start_file(runner: Runner) -> str | None:
    """The file that ``load_from`` or ``resume`` names; the runner has no public name for it either."""
    return None if runner._load_from is None else str(runner._load_from)


def start_from(runner: Runner, path: str | None) -> None:
    """Let a runner that resumes take this file; None starts anew. ``resume=True`` alone takes whatever came last."""
    runner._load_from = path
    runner._resume = path is not None


def accumulative_counts(wrapper: OptimWrapper) -> int:
    """Iterations between two steps of the optimiser; kept under a private name alone."""
    return int(getattr(wrapper, "_accumulative_counts", 1))


def update_val_interval(loop: Any) -> None:
    """What the loop does before each iteration: ``dynamic_intervals`` set ``val_interval``."""
    if hasattr(loop, "_decide_current_val_interval"):
        loop._decide_current_val_interval()


def checkpoint_loaders() -> dict[str, Callable[..., Any]]:
    """Loader of each prefix of a checkpoint's name; there is a public way to set one, none to list them."""
    return dict(CheckpointLoader._schemes)


def merge(config: ConfigDict | Config, base: ConfigDict) -> ConfigDict:
    """``config`` over ``base``, by the rules of ``_base_`` (``_delete_`` too); merge_from_dict splits names at dots."""
    return Config._merge_a_into_b(config._cfg_dict if isinstance(config, Config) else config, base)


def place_in_part(dataset: ConcatDataset | RepeatDataset, index: int) -> tuple[int, int]:
    """Number of the part that holds an image, and the image's index in it."""
    found = dataset._get_ori_dataset_idx(index)
    return found if isinstance(dataset, ConcatDataset) else (0, found)


def normalised_by(preprocessor: Any, image_bchw: Tensor) -> Tensor:
    """Channels and values of RGB images, (B, 3, H, W), as the model's preprocessor makes them, without its copies.

    The preprocessor gets BGR; whether it turns the channels and normalises is kept under private names.
    """
    inputs = image_bchw if preprocessor._channel_conversion else image_bchw.flip(1)
    return (inputs - preprocessor.mean) / preprocessor.std if preprocessor._enable_normalize else inputs


# -- configs in Python: pipa.mmseg.run.python_config runs a file several times, with other values of its variables -----


def is_lazy_config(path: Path) -> bool:
    """Is it a config of mmengine's kind with ``read_base`` and imports, which mmengine has to read alone?"""
    return bool(Config._is_lazy_import(str(path)))


@dataclass
class ConfigSource:
    """A config file with its templates filled in."""

    tree: ast.Module
    bases: list[str]
    environment: dict[str, Any]
    holes: dict[str, Any]  # what stands for each {{_base_.x}}

    def filled(self, values: dict[str, Any], base: ConfigDict) -> dict[str, Any]:
        """The values that the code gave, with the base's in the place of ``{{_base_.x}}``."""
        Config._parse_scope(values)
        return dict(Config._substitute_base_vars(values, self.holes, base))


def config_source(path: Path) -> ConfigSource:
    """Fill in ``{{fileDirname}}``, ``{{$VARIABLE:default}}`` and so on, as ``Config.fromfile`` alone does in public."""
    with TemporaryDirectory() as folder:
        file = str(Path(folder) / "config.py")
        Config._substitute_predefined_vars(str(path), file)
        environment = Config._substitute_env_variables(file, file)
        holes = Config._pre_substitute_base_vars(file, file)
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        return ConfigSource(tree, Config._get_base_files(file), environment, holes)


def package_config(base: str, path: Path) -> tuple[Path, str | None]:
    """File and scope of a ``_base_`` like ``mmseg::_base_/models/fcn_r50-d8.py``."""
    file, scope = Config._get_cfg_path(base, str(path))
    return Path(file), scope


def read_any_config(path: Path) -> tuple[ConfigDict, str, dict[str, Any]]:
    """Values, text and environment of a base in YAML or JSON."""
    values, text, environment = Config._file2dict(str(path))
    return ConfigDict(values), text, environment


def scoped(values: Mapping[str, Any], scope: str | None) -> ConfigDict:
    """Values of a base file, which remember the package they are from."""
    return Config._dict_to_config_dict(values, scope)


def values_of(config: Config) -> ConfigDict:
    """A config's values as they are; ``to_dict`` copies them to plain dictionaries."""
    return config._cfg_dict


def with_values(config: Config, values: ConfigDict) -> Config:
    """A config of the same file with other values."""
    return Config(values, cfg_text=config.text, filename=config.filename, env_variables=config.env_variables)
