"""What several commands do alike: a config before a checkpoint, and the files that could not be used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


def add_cfg_options(command: argparse.ArgumentParser, example: str = " of the config") -> None:
    """``--cfg-options``; ``example`` goes on with "override settings"."""
    command.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help=f"override settings{example}"
    )


def check_counts(a: argparse.Namespace, *names: str) -> None:
    """Refuse a number below 1 of these options. ValueError names the option."""
    for name in names:
        value = getattr(a, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected 1 or more, got {value}")


def optional_config(a: argparse.Namespace, config: Sequence[str]) -> Any:
    """The config that stands before a checkpoint; None where none does, and then nothing can be overridden."""
    if not config:
        if a.cfg_options:
            raise ValueError("--cfg-options overrides settings of a config: name the config before the checkpoint")
        return None
    from pipa.mmseg.run.train import load_config

    return load_config(config[0], a.cfg_options)


def tell_problems(command: str, problems: Sequence[tuple[str, str]], done: str) -> int:
    """List files and reasons on stderr; the exit code."""
    if problems:
        print(f"pipa {command}: {len(problems)} file(s) could not be {done}:", file=sys.stderr)
        for file, reason in problems:
            print(f"  {file}: {reason}", file=sys.stderr)
    return 1 if problems else 0
