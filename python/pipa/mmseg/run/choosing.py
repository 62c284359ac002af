"""The checkpoints of a work folder, scored without labels: the work of `pipa test --unlabelled`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipa.files.torch_file import CheckpointError
from pipa.inference.choosing import Scores, measure
from pipa.inference.export.folder import WEIGHTS
from pipa.inference.memory import give_back
from pipa.inference.segmenter import Segmenter
from pipa.mmseg.checkpoints.description import KEY
from pipa.mmseg.checkpoints.read import read_checkpoint
from pipa.mmseg.checkpoints.weights import Weights, choose
from pipa.mmseg.run.open import segmenter_of
from pipa.mmseg.run.train import load_config

SUFFIXES = (".pth", ".safetensors")
TEACHER = "teacher"


@dataclass
class Candidate:
    """One checkpoint.

    Attributes:
        networks: scores by "student" and "teacher", as far as the file holds them.
        agreement: share of pixels on whose label the two agree.
        name: its path below the folder that was asked for.
    """

    file: Path
    iteration: int | None
    networks: dict[str, Scores]
    agreement: float | None
    name: str

    def miou(self, name: str) -> float | None:
        """mIoU of a network in per cent, where it is there and known."""
        return self.networks[name].miou if name in self.networks else None


@dataclass
class Comparison:
    """The candidates by training and iteration, pictures that failed, and where the mIoU is from ("labels", "log" or
    None)."""

    candidates: list[Candidate] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    truth: str | None = None

    @property
    def several(self) -> bool:
        """Whether the candidates are of several trainings."""
        return len({candidate.file.parent for candidate in self.candidates}) > 1


def compare(
    place: str | Path,
    pictures: Mapping[Path, Path | None],
    config: Any = None,
    device: str | torch.device | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Comparison:
    """Score every checkpoint of a work folder, or of the work folders in a folder, or one, on the same pictures.

    A file that is no checkpoint, and a picture that cannot be read, are noted; the others count. Where the pictures
    have no labels, the mIoU is what the log in the folder says of that iteration's validation.

    Raises:
        ValueError: no checkpoint there, or not one that can be used.
    """
    place = Path(place)
    files = checkpoints_of(place)
    config = load_config(config) if isinstance(config, (str, Path)) else config
    result = Comparison()
    noted: set[tuple[str, str]] = set()

    def note(file: Path, error: Exception) -> None:
        entry = (str(file), (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix(f"{file}: "))
        if entry not in noted:  # a broken picture is broken for every checkpoint
            noted.add(entry)
            result.problems.append(entry)

    for file in files:
        try:
            networks, iteration = networks_of(file, config, device)
        except (CheckpointError, ValueError, OSError) as error:
            if len(files) == 1:
                raise
            note(file, error)
            for _ in pictures:
                tick()
            continue
        scores, agreement = measure(networks, pictures, note, tick)
        name = file.relative_to(place).as_posix() if file != place else file.name
        result.candidates.append(Candidate(file, iteration, scores, agreement, name))
        del networks
        give_back()
    if not result.candidates:
        raise ValueError(f"{place}: not one of its {len(files)} files is a checkpoint that can be used here")
    result.candidates.sort(key=lambda c: (c.file.parent, c.iteration is None, c.iteration or 0, c.name))
    if any(pictures.values()):
        result.truth = "labels"
    elif _from_log(result.candidates):
        result.truth = "log"
    return result


def checkpoints_of(place: Path) -> list[Path]:
    """The checkpoint that a path names, those of a work folder, or those of all work folders in a folder.

    Raises:
        ValueError: there is none.
    """
    if not place.is_dir() or (place / WEIGHTS).is_file():
        return [place]

    def directly_in(folder: Path) -> list[Path]:
        files = (p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
        return sorted(p for p in files if p.is_file())

    found = directly_in(place)
    if not found:
        folders = sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
        found = [file for folder in folders for file in directly_in(folder)]
    if not found:
        raise ValueError(f"{place}: expected checkpoints ({', '.join('*' + s for s in SUFFIXES)}), found none")
    return found


def networks_of(
    file: Path, config: Any = None, device: str | torch.device | None = None
) -> tuple[dict[str, Segmenter], int | None]:
    """Student and teacher, as far as a file holds them, and the iteration it was saved after."""
    content = read_checkpoint(file)
    networks: dict[str, Segmenter] = {}
    wanted: Sequence[Weights] = ("student", "teacher")
    for which in wanted:
        try:
            choose(content, str(file), which)
        except ValueError:  # a file with one network
            continue
        networks[which] = segmenter_of(content, str(file), config, which, device)
    meta = content.get("meta") or {}
    done = ((meta.get(KEY) or {}).get("training") or {}).get("iteration", meta.get("iter"))
    number = re.search(r"(\d+)\D*$", file.stem)
    return networks, int(done) if done is not None else int(number[1]) if number else None


def logged_scores(folder: Path) -> dict[int, dict[str, float]]:
    """mIoU of the validations that the logs of a work folder hold, by iteration."""
    found: dict[int, dict[str, float]] = {}
    for log in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a training that was killed
            if "mIoU" in entry and "step" in entry:
                found[int(entry["step"])] = {k: float(v) for k, v in entry.items() if "mIoU" in k}
    return found


def _from_log(candidates: Sequence[Candidate]) -> bool:
    there = False
    logs = {folder: logged_scores(folder) for folder in {candidate.file.parent for candidate in candidates}}
    for candidate in candidates:
        scores = logs[candidate.file.parent].get(candidate.iteration or -1, {})
        for name, network in candidate.networks.items():
            network.miou = scores.get("teacher/mIoU" if name == TEACHER else "mIoU")
            there = there or network.miou is not None
    return there
