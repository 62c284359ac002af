"""`pipa soft-labels`: what a network thinks of the target, stored for a training that corrects it (ProDA)."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipa.commands.weights import add_weights, weights_of


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", help="checkpoint of the network that the training starts from")
    command.add_argument(
        "paths", nargs="+", metavar="IMAGES", help="target images: files, and folders to search through"
    )
    command.add_argument("--out", required=True, help="folder for the soft labels: pipa.initial_labels of the training")
    command.add_argument("--config", help="config of the checkpoint, where it does not carry its network")
    command.add_argument("--stride", type=int, default=4, help="keep every so many rows and columns (default: 4)")
    command.add_argument("--device", help="where to run (default: the accelerator if there is one)")
    add_weights(command)


def run(a: argparse.Namespace) -> int:
    from pipa.inference.sources import list_images
    from pipa.mmseg.run.soft_labels import write_soft_labels

    given = [Path(path) for path in a.paths]
    images = [image for path in given for image in (list_images(path) if path.is_dir() else [path])]
    options = dict(config=a.config, weights=weights_of(a), stride=a.stride, device=a.device)
    done = write_soft_labels(a.checkpoint, images, Path(a.out), **options)
    print(f"{done} soft labels written to {a.out}, {len(images) - done} were there")
    return 0
