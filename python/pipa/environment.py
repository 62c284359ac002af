"""The environment a training runs in: versions, packages, threads, shared memory; and the findings about it."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipa import _abi

ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = (ERROR, WARNING, NOTE)

# The fork of OpenMMLab this package is built on, and the upstream packages with the same import names.
_NEEDED = ("onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation")
_UPSTREAM = ("mmengine", "mmengine-lite", "mmcv", "mmcv-full", "mmcv-lite", "mmsegmentation")
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "error" (training would fail or be wrong), "warning" (look at it) or "note".
        where: part of the config or environment.
        found: what is the case, with the file it is about.
        fix: what to do; empty for notes.
        line: `FILE:LINE` of the setting in the config, where it is known.
    """

    level: str
    where: str
    found: str
    fix: str = ""
    line: str = ""


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
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata}
    findings += check_packages(installed) + check_bounds(installed)
    if "onedl-mmcv" in installed:
        findings += check_opencv()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.get_num_threads() > cores:
        text = f"torch uses {torch.get_num_threads()} threads on {cores} core(s)"
        findings.append(Finding(WARNING, "threads", text, f"set OMP_NUM_THREADS={cores}"))
    if sys.platform == "linux" and (shared := free_space("/dev/shm")) is not None and shared < GIB:
        text = f"/dev/shm has {shared / GIB:.2f} GiB free; loader workers pass batches through it"
        findings.append(Finding(WARNING, "memory", text, "start the container with --shm-size=2g, or num_workers=0"))
    return findings


def describe_environment() -> str:
    """A short report for people who are asked for help: one `name: value` a line, without paths and names of users."""
    threads = f"{torch.get_num_threads()} of torch, {os.cpu_count()} cores"
    lines = {
        "pipa": f"{_version('pipa-rs')} (core built for torch {_abi.torch_build()})",
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        **{name: _version(name) for name in (*_NEEDED, "numpy", "pillow")},
        "opencv": _opencv(),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.machine()}",
        "devices": _devices(),
        "threads": f"{threads}; OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}",
    }
    beside = [name for name in _UPSTREAM if _version(name) != "not installed"]
    if beside:
        lines["beside"] = f"{', '.join(beside)} (upstream; the same import names)"
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _opencv() -> str:
    """Its version as it says it itself: several distributions bring it."""
    try:
        return str(importlib.import_module("cv2").__version__)
    except ModuleNotFoundError:
        return "not installed"
    except ImportError as error:
        return f"cannot be loaded: {error}"


def _devices() -> str:
    if not torch.cuda.is_available():
        return "CPU only"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


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
    for name in _NEEDED:
        bounds = _bounds(name)
        version = installed.get(name)
        if version is None:
            findings.append(Finding(ERROR, "packages", f"{name} is not installed", "pip install 'pipa-rs[mmseg]'"))
        elif not SpecifierSet(bounds).contains(version, prereleases=True):
            text = f"{name} {version} is installed; expected {bounds}"
            findings.append(Finding(ERROR, "packages", text, f"pip install '{name}{bounds}'"))
    return findings


def check_bounds(installed: Mapping[str, str]) -> list[Finding]:
    """NumPy and Pillow are of versions that were tried."""
    findings = []
    for name in ("numpy", "pillow"):
        version, bounds = installed.get(name), _bounds(name)
        if version is not None and not SpecifierSet(bounds).contains(version, prereleases=True):
            text = f"{name} {version} is installed; expected {bounds}"
            findings.append(Finding(ERROR, name, text, f"pip install '{name}{bounds}'"))
    return findings


def check_opencv() -> list[Finding]:
    """OpenCV can be loaded. The build that mmcv asks for draws windows, and a server has no libraries for that."""
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        # Over the other build, not beside it: both bring the folder cv2, and mmcv's requirement stays met.
        fix = "without a screen: pip install --force-reinstall --no-deps opencv-python-headless"
        return [Finding(ERROR, "packages", f"OpenCV cannot be loaded: {error}", fix)]
    return []


def require_packages() -> None:
    """Refuse to go on without the fork, or with upstream beside it: half of each would be imported.

    Nor without OpenCV, which mmcv imports.

    Raises:
        ImportError: with the command that repairs the environment.
    """
    installed = {}
    for name in (*_NEEDED, *_UPSTREAM):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    beside = any(name in installed for name in _UPSTREAM)
    missing = any(name not in installed for name in _NEEDED)
    findings = check_packages(installed) if beside or missing else check_opencv()
    if findings:
        raise ImportError(f"pipa.mmseg: {findings[0].found}; {findings[0].fix}")


def report(findings: Sequence[Finding]) -> str:
    """Readable text: one block per finding and a count at the end."""
    lines = []
    for finding in findings:
        place = f"{finding.where} ({finding.line})" if finding.line else finding.where
        lines.append(f"{finding.level:<8} {place}: {finding.found}")
        lines += [f"{'':<8} -> {finding.fix}"] if finding.fix else []
    errors = sum(f.level == ERROR for f in findings)
    warnings = sum(f.level == WARNING for f in findings)
    lines.append(f"{errors} error(s), {warnings} warning(s)")
    return "\n".join(lines)


def free_space(path: str | Path) -> int | None:
    """Free bytes where ``path`` is, None where the system does not tell."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _bounds(name: str) -> str:
    """The versions of a package that this one's own metadata asks for."""
    wanted = [Requirement(text) for text in metadata.requires("pipa-rs") or []]
    return next((",".join(sorted(map(str, r.specifier), reverse=True)) for r in wanted if r.name == name), "")


def hide_remarks() -> None:
    """Hide remarks of imported packages that a user of this command can do nothing about."""
    for start in ("Fail to import ``Multi", "Default ``avg_non_ignore``"):
        warnings.filterwarnings("ignore", message=start)
    # Photos of 90 to 179 megapixels; Pillow refuses larger ones, and that is told as a bad file.
    warnings.filterwarnings("ignore", message=r"Image size \(")
