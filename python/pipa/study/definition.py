"""What a study is: a grid of methods, settings and seeds over configs, and the rule of its score, fixed beforehand.

    title: PiPa's terms on the embedded pair
    config: toy_pipa                     # name of a shipped config, or a file beside this one
    data: toy                            # drawn by the package; left out, the data come from --data-root
    seeds: [0, 1, 2]
    baseline: self-training              # what the others are compared with, seed by seed
    score: {evaluations: 4}              # mean of the last four evaluations
    settings: {train_cfg.val_interval: 50, pipa.gradient_interval: 100}
    methods:
      source-only: {adapt: false}        # without PipaHook
      self-training: {settings: {pipa.pixel_weight: 0, pipa.patch_weight: 0}}
      warm start: {start: source-only}   # from the last weights of that method's run of the same seed
      longer: {iterations: 2000}         # a length of its own
    grid: {pipa.patch_temperature: [0.05, 0.1, 0.2]}      # further methods, one for each combination

``like: toy_terms`` (a shipped study, or a file beside this one) takes over config, data, score, test, iterations and
settings of that study; what this file says itself wins, setting by setting.

A setting is a dotted path into the config, as for ``--cfg-options``; ``pipa.NAME`` is a setting of the iteration,
wherever the config gives it. ``test: true`` looks at the config's test data at the end of each run, never before.
``iterations: N`` shortens or lengthens every training with its schedules and warm-ups.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipa.study.content import SHIPPED, check, content_of, known, natural, place_of

# Of a config, what belongs to the study.
DECIDED = ("work_dir", "log_level", "visualizer", "resume", "launcher", "experiment_name")
METHOD_KEYS = ("config", "adapt", "settings", "iterations", "start")


@dataclass(frozen=True, eq=False)
class Run:
    """One training of a study.

    start: the method from whose last weights, of the same seed, it starts.
    """

    method: str
    seed: int
    config: str
    adapt: bool
    settings: Mapping[str, Any]
    iterations: int | None = None
    start: str | None = None

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"{re.sub(r'[^A-Za-z0-9.]+', '_', self.method).strip('_')}_seed{self.seed}"

    def recorded(self) -> dict[str, Any]:
        """What decides the run's numbers, as results.json keeps it."""
        own = {"config": Path(self.config).name, "adapt": self.adapt, "iterations": self.iterations}
        return {**own, **({} if self.start is None else {"start": self.start}), **self.settings}


@dataclass(frozen=True)
class Study:
    """A whole study, or a part of it.

    evaluations: the score of a run is the mean of its last so many evaluations.
    methods: all of the whole study, in its order. starts: of those that start from another's weights, that one's name.
    test: look at the test data at the end of each run.
    whole: a run of every method of the whole study.
    """

    name: str
    title: str
    runs: tuple[Run, ...]
    baseline: str
    evaluations: int
    methods: tuple[str, ...]
    data: str | None = None
    test: bool = False
    starts: Mapping[str, str] = field(default_factory=dict)
    whole: tuple[Run, ...] = ()

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    def only(
        self,
        methods: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        iterations: int | None = None,
    ) -> Study:
        """A part of the study with the methods that it starts from, or the study with trainings of another length."""
        for method in methods or ():
            if method not in self.methods:
                raise ValueError(f"--methods: {self.name} has no {method!r}, only {', '.join(map(repr, self.methods))}")
        if seeds is not None and len(set(seeds)) < len(seeds):
            raise ValueError(f"--seeds: expected different seeds, got {list(seeds)}")
        every = {run.method: run for run in self.whole}
        wanted = dict.fromkeys(m for name in methods or self.methods for m in reversed(lineage(every, name)))
        by_method = [every[m] for m in wanted]
        chosen = [replace(r, seed=s) for s in (self.seeds if seeds is None else seeds) for r in by_method]
        if iterations is not None:
            lengths = {run.iterations for run in chosen}
            if len(lengths) > 1:
                raise ValueError(f"--iterations: {self.name} has methods with a length of their own; change the file")
            chosen = [replace(run, iterations=iterations) for run in chosen]
            every = {method: replace(run, iterations=iterations) for method, run in every.items()}
        return replace(self, runs=tuple(chosen), whole=tuple(every.values()))


def lineage(runs: Mapping[str, Run], method: str) -> list[str]:
    """A method, the one whose weights it starts from, and so on."""
    start = runs[method].start
    return [method] if start is None else [method, *lineage(runs, start)]


def shipped() -> list[tuple[str, str]]:
    """Name and title of every study that comes with the package."""
    return [(path.stem, read_study(path).title) for path in sorted(SHIPPED.glob("*.yaml"))]


def find(study: str | Path) -> Study:
    """A study by its file, or by the name of a shipped one."""
    return read_study(place_of(study))


def read_study(path: Path) -> Study:
    """A study from its YAML or JSON file. A ValueError names the file, the key, what was expected and what came."""
    content: Any = content_of(path)
    config = content.get("config")
    methods, grid, common = (or_empty(content.get(key)) for key in ("methods", "grid", "settings"))
    seeds = content.get("seeds", [0])
    iterations = content.get("iterations")
    score = content.get("score")
    for key, value in (("methods", methods), ("grid", grid), ("settings", common), ("score", score)):
        check(isinstance(value, Mapping), f"{path}: {key}", "a mapping", value)
    check(bool(methods or grid), path, "methods or a grid", "neither")
    whole = isinstance(seeds, list) and bool(seeds) and all(natural(seed) for seed in seeds)
    check(whole and len(set(seeds)) == len(seeds), f"{path}: seeds", "a list of different whole numbers", seeds)
    known(score, ("evaluations",), f"{path}: score")
    last = score.get("evaluations")
    check(natural(last) and last > 0, f"{path}: score.evaluations", "a whole number of 1 or more", last)
    check(
        iterations is None or (natural(iterations) and iterations > 0), f"{path}: iterations", "1 or more", iterations
    )
    check(content.get("data") in (None, "toy"), f"{path}: data", "toy, or nothing", content.get("data"))
    test = content.get("test", False)
    check(isinstance(test, bool), f"{path}: test", "true or false", test)
    entries = [(str(name), or_empty(entry)) for name, entry in methods.items()]
    entries += [(named(point), {"settings": point}) for point in combinations(grid, path)]
    made: list[Run] = []
    for name, entry in entries:
        place = f"{path}: methods.{name}"
        check(isinstance(entry, Mapping), place, "a mapping of " + ", ".join(METHOD_KEYS), entry)
        known(entry, METHOD_KEYS, place)
        own = entry.get("config", config)
        check(isinstance(own, str), f"{place}: config", "the name or file of a config, here or for the study", own)
        if Path(own).suffix:
            own = str(path.parent / own)
        adapt, settings = entry.get("adapt", True), or_empty(entry.get("settings"))
        check(isinstance(adapt, bool), f"{place}: adapt", "true or false", adapt)
        check(isinstance(settings, Mapping), f"{place}: settings", "a mapping", settings)
        check_settings({**common, **settings}, f"{place}: settings")
        length, start = entry.get("iterations", iterations), entry.get("start")
        start = None if start is None else str(start)
        check(length is None or (natural(length) and length > 0), f"{place}: iterations", "1 or more", length)
        above = [run.method for run in made]
        check(start is None or start in above, f"{place}: start", f"a method above it ({', '.join(above)})", start)
        idle = next((key for key in settings if key.startswith("pipa.") and not adapt), None)
        if idle is not None:
            raise ValueError(f"{place}: {idle} is a setting of PipaHook, and adapt is false; take one of them out")
        every = {key: value for key, value in {**common, **settings}.items() if adapt or not key.startswith("pipa.")}
        if start is not None and every.get("load_from") is not None:
            raise ValueError(f"{place}: expected start or a setting load_from, got both")
        made.append(Run(name, 0, own, adapt, every, length, start))
    names = [run.method for run in made]
    check(len({run.folder for run in made}) == len(made), f"{path}: methods", "names that differ in letters", names)
    baseline = content.get("baseline", names[0])
    check(baseline in names, f"{path}: baseline", "one of " + ", ".join(names), baseline)
    # Seed by seed, so that whole seeds exist early: a comparison is between runs of one seed.
    runs = tuple(replace(run, seed=seed) for seed in seeds for run in made)
    title = str(content.get("title") or path.stem)
    starts = {run.method: run.start for run in made if run.start is not None}
    return Study(path.stem, title, runs, baseline, last, tuple(names), content.get("data"), test, starts, tuple(made))


def or_empty(value: Any) -> Any:
    """A key without a value is an empty mapping; `false` and `[]` are mistakes."""
    return {} if value is None else value


def check_settings(settings: Mapping[Any, Any], place: str) -> None:
    """Refuse keys that are no paths, and what the study decides by itself."""
    for key in settings:
        check(isinstance(key, str), place, "dotted paths such as train_cfg.val_interval", key)
        if key == "randomness.seed" or key.partition(".")[0] in DECIDED:
            other = "seeds, above," if key == "randomness.seed" else "the study"
            raise ValueError(f"{place}: {key} has no effect, {other} decides it; take it out")


def combinations(grid: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Every point of the grid, the first setting slowest."""
    if not grid:
        return []
    for key, values in grid.items():
        check(isinstance(values, list) and bool(values), f"{path}: grid.{key}", "a list of values", values)
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def named(point: Mapping[str, Any]) -> str:
    """Name of a point of the grid, `pixel_weight 0.1, patch_weight 0.3`."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {shown(value)}" for key, value in point.items())


def shown(value: Any) -> str:
    """A value as a name shows it: a size is 64x64."""
    return "x".join(map(str, value)) if isinstance(value, list) else f"{value}"
