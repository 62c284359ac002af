"""`pipa study`: train a grid over seeds and say what differs by more than chance.

The command line reads this file for every command, so what the study needs is imported where it runs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipa.commands.shared import check_counts

TABLES, RUNS = "tables.md", "runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("study", nargs="?", help="name of a shipped study, or a YAML file")
    parser.add_argument("--list", action="store_true", help="list the shipped studies")
    parser.add_argument(
        "--tables",
        nargs="+",
        metavar="PAGE",
        help="put the numbers of the JSON files into these Markdown pages and draw the plots they show; trains nothing",
    )
    parser.add_argument(
        "--studies", default="docs/studies", help="--tables: folder of NAME.json or NAME/results.json (docs/studies)"
    )
    parser.add_argument("--out", help="folder for unfinished runs, tables and plots (default: studies/NAME)")
    parser.add_argument("--results", help="file of the finished runs' numbers (default: results.json in --out)")
    parser.add_argument("--data-root", help="folder of the data sets")
    parser.add_argument("--jobs", type=int, help="trainings side by side (default: one per GPU, or per core)")
    parser.add_argument("--methods", nargs="+", help="only these methods, and those they start from")
    parser.add_argument("--seeds", type=int, nargs="+", help="these seeds instead of the study's")
    parser.add_argument(
        "--iterations",
        type=int,
        help="another length of each training, where the study has one length for all; schedules scale with it",
    )
    parser.add_argument("--keep-checkpoints", action="store_true", help="keep the last checkpoint of every run")


def run(a: argparse.Namespace) -> int:
    """The subcommand: list, renew pages, or train."""
    if a.list:
        from pipa.study.definition import shipped

        for name, title in shipped():
            print(f"{name:<24} {title}")
        return 0
    if a.tables:
        for page in map(Path, a.tables):
            renew(page, Path(a.studies))
            print(f"numbers renewed: {page}")
        return 0
    if a.study is None:
        raise ValueError(
            "study: expected the name of a study or a YAML file (`pipa study --list` shows the shipped ones)"
        )
    check_counts(a, "jobs", "iterations")
    if any(seed < 0 for seed in a.seeds or ()):
        raise ValueError(f"--seeds: expected 0 or more, got {a.seeds}")
    from pipa.study.definition import find
    from pipa.study.runner import run_study

    study = find(a.study).only(a.methods, a.seeds, a.iterations)
    out = Path(a.out or f"studies/{study.name}")
    refuse_others(out)
    root = a.data_root or (os.environ.get("PIPA_DATA") if study.data is None else None)
    results = run_study(
        study,
        out,
        results=Path(a.results) if a.results else None,
        jobs=a.jobs,
        data_root=Path(root) if root else None,
        keep_checkpoints=a.keep_checkpoints,
    )
    show(results, out)
    print(f"numbers: {results}; tables and plots: {out}")
    return 0


def refuse_others(out: Path) -> None:
    """Refuse a folder where tables and plots would replace files that no study has written.

    Raises:
        FileExistsError: names one.
    """
    from pipa.files.atomic import refuse_other
    from pipa.study.plots import PLOTS

    for name in (TABLES, *(f"{plot}.svg" for plot in PLOTS)):
        refuse_other(out / name, lambda _: is_study(out), "table or plot of a study")


def is_study(out: Path) -> bool:
    """Whether a study wrote a folder's tables and plots: its runs are there, or, if they were removed, its tables."""
    tables = out / TABLES
    made = tables.is_file() and "; the score of a run is " in tables.read_text(encoding="utf-8", errors="replace")
    return made or (out / RUNS).is_dir()


def show(results: Path, out: Path) -> None:
    """Tables on the screen and in ``out``, plots in ``out``."""
    from rich.console import Console

    from pipa.files.atomic import write_text
    from pipa.study.inside import inside
    from pipa.study.plots import PLOTS
    from pipa.study.results import read_results
    from pipa.study.tables import markdown

    content = read_results(results)
    page = markdown(content)
    if looks := inside(content):
        page += f"\n## Inside\n\n{looks}\n"
    Console(soft_wrap=True).print(page, markup=False, highlight=False)
    (out / RUNS).mkdir(parents=True, exist_ok=True)  # the sign of a study's folder, where nothing was left to train too
    write_text(out / TABLES, page)
    for name, plot in PLOTS.items():
        plot(content, out / f"{name}.svg")


def renew(page: Path, folder: Path) -> None:
    """Numbers of a page, and those plots of its studies that it shows, beside their JSON files."""
    from pipa.files.atomic import write_text
    from pipa.study.page import file_of, fill, shows, studies_of
    from pipa.study.plots import PLOTS
    from pipa.study.results import read_results

    text = page.read_text(encoding="utf-8")
    filled = fill(text, folder)
    for name in studies_of(text):
        content = read_results(file_of(name, folder))
        for kind, plot in PLOTS.items():
            if shows(text, f"{name}_{kind}.svg"):
                plot(content, folder / f"{name}_{kind}.svg")
    write_text(page, filled)
