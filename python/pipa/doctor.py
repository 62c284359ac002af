"""`pipa doctor CONFIG`: what would go wrong hours later, found in minutes.

findings = pipa.doctor.check("config.py")
print(pipa.doctor.report(findings))
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipa import _abi

ERROR, WARNING, NOTE = "error", "warning", "note"
_LEVELS = (ERROR, WARNING, NOTE)

# The fork of OpenMMLab this package is built on, and the upstream packages with the same import names.
_NEEDED = {
    "onedl-mmengine": ("0.10.12", "0.11"),
    "onedl-mmcv": ("2.3.6", "2.4"),
    "onedl-mmsegmentation": ("1.4.2", "1.5"),
}
_UPSTREAM = ("mmengine", "mmengine-lite", "mmcv", "mmcv-full", "mmcv-lite", "mmsegmentation")
_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "error" (training would fail or be wrong), "warning" (look at it) or "note".
        where: part of the config or environment.
        found: what is the case, with the file it is about.
        fix: what to do; empty for notes.
    """

    level: str
    where: str
    found: str
    fix: str = ""


def check(
    config: str | Path | Mapping, workers: int | None = None, max_files: int | None = None, progress: bool = True
) -> list[Finding]:
    """Everything below, errors first.

    Args:
        config: path of a config, an mmengine Config or a mapping.
        workers: threads that decode files; None takes one per core.
        max_files: look at so many files of each data set instead of all.
    """
    workers = workers if workers is not None else os.cpu_count() or 1
    findings = check_environment()
    if any(f.level == ERROR and f.where == "packages" for f in findings):
        return _sorted(findings)  # mmseg may not even import
    try:
        loaded = _load(config)
    except Exception as error:  # a config is a program: it can raise anything
        text = f"{config}: the config cannot be loaded: {type(error).__name__}: {error}"
        return _sorted([*findings, Finding(ERROR, "config", text, "correct the config")])
    findings += check_run(loaded)
    findings += check_data(loaded, workers, max_files, progress)
    return _sorted(findings)


def check_environment() -> list[Finding]:
    """Versions, threads and shared memory."""
    findings = []
    built, found = _abi.torch_build(), torch.__version__
    if found.split("+")[0] != built:
        text = f"pipa was built for torch {built}, found {found}"
        findings.append(Finding(ERROR, "torch", text, f"pip install torch=={built}"))
    else:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, training on the CPU"
        findings.append(Finding(NOTE, "torch", f"torch {found}, {device}, {torch.get_num_threads()} threads"))
    findings += check_packages({d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.get_num_threads() > cores:
        text = f"torch uses {torch.get_num_threads()} threads on {cores} core(s)"
        findings.append(Finding(WARNING, "threads", text, f"set OMP_NUM_THREADS={cores}"))
    if sys.platform == "linux" and (shared := _free("/dev/shm")) is not None and shared < _GIB:
        text = f"/dev/shm has {shared / _GIB:.2f} GiB free; loader workers pass batches through it"
        findings.append(Finding(WARNING, "memory", text, "start the container with --shm-size=2g, or num_workers=0"))
    return findings


def check_packages(installed: Mapping[str, str]) -> list[Finding]:
    """The fork of OpenMMLab is there in a version that fits, and upstream is not beside it.

    Args:
        installed: distribution name in lower case -> version.
    """
    findings = []
    beside = [name for name in _UPSTREAM if name in installed]
    if beside:
        text = f"{', '.join(beside)} and the onedl packages have the same import names and overwrite each other's files"
        fix = f"pip uninstall {' '.join(beside)}, then pip install --force-reinstall 'pipa-rs[mmseg]'"
        findings.append(Finding(ERROR, "packages", text, fix))
    for name, (low, high) in _NEEDED.items():
        version = installed.get(name)
        if version is None:
            findings.append(Finding(ERROR, "packages", f"{name} is not installed", "pip install 'pipa-rs[mmseg]'"))
        elif not _version(low) <= _version(version) < _version(high):
            text = f"{name} {version} is installed; expected >={low},<{high}"
            findings.append(Finding(ERROR, "packages", text, f"pip install '{name}>={low},<{high}'"))
    return findings


def require_packages() -> None:
    """Refuse to go on without the fork, or with upstream beside it: half of each would be imported.

    Raises:
        ImportError: with the command that repairs the environment.
    """
    installed = {}
    for name in (*_NEEDED, *_UPSTREAM):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    beside = any(name in installed for name in _UPSTREAM)
    if beside or any(name not in installed for name in _NEEDED):
        finding = check_packages(installed)[0]
        raise ImportError(f"pipa.mmseg: {finding.found}; {finding.fix}")


def check_run(config: Mapping) -> list[Finding]:
    """Settings and places that a run needs: disk, seed, loader workers, checkpoint files."""
    findings = []
    work_dir = Path(config.get("work_dir") or "work_dirs")
    existing = next((p for p in (work_dir, *work_dir.absolute().parents) if p.exists()), Path("."))
    if not os.access(existing, os.W_OK):
        findings.append(Finding(ERROR, "work_dir", f"{existing}: cannot be written", "choose another --work-dir"))
    free = _free(existing)
    if free is not None and free < 10 * _GIB:
        level = ERROR if free < _GIB else WARNING
        text = f"{existing}: {free / _GIB:.1f} GiB free; a checkpoint with teacher and optimiser takes up to 1.5 GiB"
        findings.append(Finding(level, "work_dir", text, "free some space or choose another --work-dir"))
    if (config.get("randomness") or {}).get("seed") is None:
        text = "no seed: every start draws another one"
        findings.append(Finding(WARNING, "randomness", text, "set randomness=dict(seed=0)"))
    workers = {p: int(v.get("num_workers", 0)) for p, v in _loaders(config) if not p.startswith(("val", "test"))}
    cores = os.cpu_count() or 1
    if sum(workers.values()) > 2 * cores:
        text = f"{sum(workers.values())} loader workers on {cores} core(s): {workers}"
        findings.append(Finding(WARNING, "num_workers", text, "lower num_workers"))
    for key, path in _checkpoints(config):
        if "://" not in path and not Path(path).is_file():
            findings.append(Finding(ERROR, key, f"{path}: no such checkpoint file", "download it or correct the path"))
        elif "://" in path:
            findings.append(Finding(NOTE, key, f"{path} will be fetched from the network"))
    return findings


def check_data(config: Mapping, workers: int, max_files: int | None = None, progress: bool = True) -> list[Finding]:
    """Every file of every data set of the config."""
    from mmseg.utils import register_all_modules
    from rich.progress import Progress, TaskID

    from pipa.mmseg import data_check

    register_all_modules(init_default_scope=True)
    findings = data_check.check_pairing(config)
    places = list(data_check.used_loaders(config))
    if not places:
        findings.append(Finding(ERROR, "config", "no dataloader with a dataset in the config", "add train_dataloader"))
    with Progress(disable=not progress) as bar:
        for place, loader in places:
            task = bar.add_task(place, total=None)

            def advance(done: int, total: int, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total)

            findings += data_check.check_loader(place, loader, workers, max_files, advance)
    return findings


def report(findings: Sequence[Finding]) -> str:
    """Readable text: one block per finding and a count at the end."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.where}: {finding.found}")
        lines += [f"{'':<8} -> {finding.fix}"] if finding.fix else []
    errors = sum(f.level == ERROR for f in findings)
    warnings = sum(f.level == WARNING for f in findings)
    lines.append(f"{errors} error(s), {warnings} warning(s)")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------------------
def _load(config: str | Path | Mapping) -> Mapping:
    from mmengine.config import Config

    if isinstance(config, Config):  # not a Mapping
        return config.to_dict()
    if isinstance(config, Mapping):
        return config
    if not Path(config).is_file():
        raise FileNotFoundError("no such file")
    from pipa.mmseg.config import read_config

    return read_config(config).to_dict()


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: _LEVELS.index(f.level))


def _free(path: str | Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _version(text: str) -> tuple[int, ...]:
    digits = []
    for part in text.split("+")[0].split("."):
        number = "".join(c for c in part if c.isdigit())
        if not number:
            break
        digits.append(int(number))
    return tuple(digits)


def _loaders(config: Mapping) -> list[tuple[str, Mapping]]:
    from pipa.mmseg.data_check import used_loaders

    return list(used_loaders(config))


def _checkpoints(config: Any, path: str = "") -> list[tuple[str, str]]:
    """(place, value) of every `load_from` and `checkpoint` / `pretrained` path of the config."""
    found = []
    if isinstance(config, Mapping):
        for key, value in config.items():
            place = f"{path}.{key}" if path else str(key)
            if key in ("load_from", "checkpoint", "pretrained") and isinstance(value, str) and value:
                found.append((place, value))
            else:
                found += _checkpoints(value, place)
    elif isinstance(config, (list, tuple)):
        for i, value in enumerate(config):
            found += _checkpoints(value, f"{path}[{i}]")
    return found
