"""`pipa export CHECKPOINT --out FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipa.commands.weights import add_weights, weights_of


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint")
    command.add_argument("--out", required=True, help="the file; with safetensors also a folder")
    command.add_argument(
        "--format",
        choices=("pth", "safetensors", "onnx"),
        help="default: what the end of --out says, else pth",
    )
    command.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="ONNX: the input's size (default: the window's)"
    )
    command.add_argument("--config", help="a config, where the checkpoint does not carry its network")
    add_weights(command)


def run(a: argparse.Namespace) -> int:
    from pipa.mmseg.run.export import ENDS, export

    form: Any = a.format or ENDS.get(Path(a.out).suffix.lower(), "pth")
    size = None if a.size is None else (a.size[0], a.size[1])
    done = export(a.checkpoint, a.out, form, weights_of(a), size, a.config)
    for file in done.files:
        print(f"written: {file}")
    for note in done.notes:
        print(note)
    return 0
