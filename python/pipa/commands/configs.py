"""`pipa configs`: list the shipped configs, show one, or write it as one file to edit.

The command line reads this file for every command, so what it needs is imported where it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("name", nargs="?", help="show this config as one complete text instead of the list")
    parser.add_argument("--write", metavar="FILE", help="write the config NAME to a file of your own")
    parser.add_argument("--overwrite", action="store_true", help="--write: replace FILE where it is there already")


def run(a: argparse.Namespace) -> int:
    """The subcommand."""
    if a.overwrite and a.write is None:
        raise ValueError("--overwrite belongs to --write FILE")
    if a.name is None:
        if a.write is not None:
            raise ValueError("--write: expected the NAME of a config too (`pipa configs` lists all)")
        show()
        return 0
    from pipa.configs import path_of
    from pipa.mmseg.run.flat_config import flat

    text = flat(path_of(a.name))
    if a.write is None:
        print(text, end="")
        return 0
    from pipa.files.atomic import write_text

    file = Path(a.write)
    if file.suffix != ".py":
        raise ValueError(f"--write {file}: expected a file that ends in .py")
    if file.exists() and not a.overwrite:
        raise ValueError(f"{file}: is there already; choose another file, or --overwrite replaces it")
    print(f"written: {write_text(file, text)}")
    return 0


def show() -> None:
    """All configs by method, with published figures."""
    from pipa.configs import figures, groups

    for method, configs in groups().items():
        print(f"\n{method}")
        for name, text in configs:
            print(f"{name:<42} {figures().get(name, '-'):<22} {text}")
    print("\nThe figures are published mIoU, of the method on the pair (SYNTHIA: 16 / 13 classes).")
