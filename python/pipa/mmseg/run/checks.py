"""What a run needs of its config and of the files that the config names.

One module of checks: `pipa doctor` reports what they find.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.utils import register_all_modules
from rich.progress import Progress, TaskID

from pipa.environment import ERROR, GIB, NOTE, WARNING, Finding, free_space
from pipa.mmseg.datasets import check
from pipa.mmseg.run import pipeline_steps, values
from pipa.mmseg.run.config import read_config
from pipa.mmseg.run.places import line_of


def load(config: str | Path | Mapping) -> Mapping:
    """A config as plain data, from its file or as it is."""
    if isinstance(config, Config):  # not a Mapping
        return config.to_dict()
    if isinstance(config, Mapping):
        return config
    if not Path(config).is_file():
        raise FileNotFoundError("no such file")
    return read_config(config).to_dict()


def check_run(config: Mapping) -> list[Finding]:
    """Settings and places that a run needs: single values, disk, seed, loader workers, checkpoint files."""
    findings = [Finding(ERROR, place, text, "correct the value") for place, text in values.refusals(config)]
    work_dir = Path(config.get("work_dir") or "work_dirs")
    existing = next((p for p in (work_dir, *work_dir.absolute().parents) if p.exists()), Path("."))
    if not os.access(existing, os.W_OK):
        findings.append(Finding(ERROR, "work_dir", f"{existing}: cannot be written", "choose another --work-dir"))
    free = free_space(existing)
    if free is not None and free < 10 * GIB:
        level = ERROR if free < GIB else WARNING
        text = f"{existing}: {free / GIB:.1f} GiB free; a checkpoint with teacher and optimiser takes up to 1.5 GiB"
        findings.append(Finding(level, "work_dir", text, "free some space or choose another --work-dir"))
    if (config.get("randomness") or {}).get("seed") is None:
        text = "no seed: every start draws another one"
        findings.append(Finding(WARNING, "randomness", text, "set randomness=dict(seed=0)"))
    workers = {p: v.get("num_workers", 0) for p, v in check.used_loaders(config) if not p.startswith(("val", "test"))}
    workers = {p: count for p, count in workers.items() if isinstance(count, int)}  # others are told above
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
    register_all_modules(init_default_scope=True)
    findings = check.check_pairing(config)
    for name in ("val_dataloader", "test_dataloader"):
        refused = pipeline_steps.evaluated(config, name)
        findings += [Finding(ERROR, where, text, "correct the pipeline") for where, text in refused]
    places = list(check.used_loaders(config))
    if not places:
        findings.append(Finding(ERROR, "config", "no dataloader with a dataset in the config", "add train_dataloader"))
    with Progress(disable=not progress) as bar:
        for place, loader in places:
            task = bar.add_task(place, total=None)

            def advance(done: int, total: int, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total)

            findings += check.check_loader(place, loader, workers, max_files, advance)
    return findings


def check_start(config: Mapping, iteration: bool = True) -> list[Finding]:
    """What the training's own start says, and one iteration of it; the last findings say what was not looked at."""
    from pipa.mmseg.run.dry_run import UNSEEN, dry_run

    if any(values.refusals(config)):
        return [Finding(NOTE, UNSEEN, "the training's start and one iteration (because of the values above)")]
    return dry_run(config, iteration)


def with_lines(findings: Sequence[Finding], file: str | Path | None, options: Sequence[str] = ()) -> list[Finding]:
    """The findings with the line of the config that they are about, each one once."""
    placed: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        told = finding.level == NOTE or file is None
        line = None if told else line_of(file or "", finding.where, options)
        # Several checks may meet one error; one that knows its place says more.
        if finding.where != "training" or finding.found not in {found for found, _ in placed}:
            placed.setdefault((finding.found, finding.where), replace(finding, line=line or ""))
    return list(placed.values())


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
