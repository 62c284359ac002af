"""`pipa doctor CONFIG`: what would go wrong hours later, found in minutes.

findings = doctor.check("config.py")
print(doctor.report(findings))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipa.environment import ERROR, LEVELS, NOTE, WARNING, Finding, check_environment, report

__all__ = ["ERROR", "NOTE", "WARNING", "Finding", "check", "report"]


def check(
    config: Any,
    workers: int | None = None,
    max_files: int | None = None,
    progress: bool = True,
    iteration: bool = True,
    options: Sequence[str] = (),
) -> list[Finding]:
    """Everything below, errors first.

    Args:
        config: path of a config, an mmengine Config, or a mapping.
        workers: threads that decode files; None takes one per core.
        max_files: look at so many files of each data set instead of all.
        iteration: also run one iteration of the training, at its real size.
        options: `KEY=VALUE` of the command line, for the places of settings.
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
    findings += checks.check_start(loaded, iteration)
    file = getattr(config, "filename", None) or (config if isinstance(config, (str, Path)) else None)
    return _sorted(checks.with_lines(findings, file, options))


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: LEVELS.index(f.level))
