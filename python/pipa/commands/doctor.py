"""`pipa doctor CONFIG`: what would go wrong hours later, found in minutes.

findings = doctor.check("config.py")
print(doctor.report(findings))
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipa.environment import ERROR, LEVELS, NOTE, WARNING, Finding, check_environment, report

__all__ = ["ERROR", "NOTE", "WARNING", "Finding", "check", "report"]


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
        from pipa.mmseg.run import checks

        loaded = checks.load(config)
    except Exception as error:  # a config is a program: it can raise anything
        text = f"{config}: the config cannot be loaded: {type(error).__name__}: {error}"
        return _sorted([*findings, Finding(ERROR, "config", text, "correct the config")])
    findings += checks.check_run(loaded)
    findings += checks.check_data(loaded, workers, max_files, progress)
    return _sorted(findings)


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: LEVELS.index(f.level))
