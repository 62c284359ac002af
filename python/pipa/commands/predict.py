"""`pipa predict [CONFIG] CHECKPOINT IMAGES`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipa.commands.shared import add_cfg_options, check_counts, optional_config, tell_problems
from pipa.commands.weights import add_weights, weights_of


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "paths",
        nargs="+",
        metavar="[CONFIG] CHECKPOINT IMAGES",
        help="a config where the checkpoint does not carry its network; a checkpoint; an image, a folder of images "
        "(searched through), a video file, or the number of a camera (0, or camera:0), which Ctrl-C or --frames ends",
    )
    add_cfg_options(command)
    add_weights(command)
    command.add_argument("--out", default="predictions", help="folder for the results (default: predictions)")
    command.add_argument("--confidence", action="store_true", help="also write the probability of each pixel's class")
    command.add_argument("--report", action="store_true", help="also write index.html with all pictures beside theirs")
    command.add_argument("--batch-size", type=int, default=1, help="pictures in one pass (default: 1)")
    command.add_argument("--flip", action="store_true", help="average with the prediction of the mirrored picture")
    command.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], help="average over resized inputs, e.g. 0.75 1 1.25"
    )
    command.add_argument(
        "--window",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="slide with this window (half overlapping) instead of the config's way; bounds the memory",
    )
    command.add_argument("--frames", type=int, help="videos and cameras: stop after so many frames")
    command.add_argument("--device", help="where to run, e.g. cpu or cuda:1 (default: the accelerator if there is one)")


def run(a: argparse.Namespace) -> int:
    """Exit code 1 where a file could not be segmented; the others are written."""
    check_counts(a, "batch_size", "frames")
    if len(a.paths) not in (2, 3):
        raise ValueError(f"expected [CONFIG] CHECKPOINT IMAGES, got {len(a.paths)} argument(s): {' '.join(a.paths)}")
    from pipa.inference.run import Options, predict_any
    from pipa.inference.tiling import Window
    from pipa.loading import load

    *config, checkpoint, images = a.paths
    loaded = optional_config(a, config)
    window = None
    if a.window is not None:
        height, width = a.window
        window = Window((height, width), (max(height // 2, 1), max(width // 2, 1)))
    options = Options(a.batch_size, a.flip, tuple(a.scales), window)
    segmenter = load(checkpoint, config=loaded, weights=weights_of(a), device=a.device)
    outcome = predict_any(segmenter, images, Path(a.out), options, a.confidence, a.report, a.frames)
    print(f"{len(outcome.written)} image(s) segmented: overlays and labels are in {a.out}")
    if outcome.report is not None:
        print(f"report: {outcome.report}")
    return tell_problems("predict", outcome.problems, "segmented")
