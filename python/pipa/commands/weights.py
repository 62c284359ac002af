"""The options that choose between student and teacher."""

from __future__ import annotations

import argparse
from typing import Literal


def add_weights(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument("--teacher", action="store_true", help="use the teacher's weights instead of the student's")
    which.add_argument("--student", action="store_true", help="use the student's weights (the default)")


def weights_of(a: argparse.Namespace) -> Literal["auto", "student", "teacher"]:
    """Without either option: the main weights of the file."""
    return "teacher" if a.teacher else "student" if a.student else "auto"
