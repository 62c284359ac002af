"""`pipa test CONFIG CHECKPOINT`, and `pipa test [CONFIG] CHECKPOINT|WORKFOLDER --unlabelled IMAGES`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipa.commands.shared import add_cfg_options, optional_config, tell_problems


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "paths",
        nargs="+",
        metavar="CONFIG CHECKPOINT",
        help="file of a config or the name of a shipped one, and a checkpoint of a training, an exported or converted "
        "one; with --unlabelled the config may be left out and the checkpoint be a work folder, or a folder of these",
    )
    add_cfg_options(command)
    command.add_argument("--teacher", action="store_true", help="use the teacher's weights instead of the student's")
    command.add_argument("--work-dir", help="folder for logs (default: work_dirs/CONFIG)")
    command.add_argument(
        "--unlabelled",
        metavar="IMAGES",
        help="score every checkpoint on this folder without labels: entropy, soft neighbourhood density, agreement of "
        "student and teacher",
    )
    command.add_argument(
        "--labels", metavar="FOLDER", help="--unlabelled: labels of the images, to see how well the scores rank"
    )
    command.add_argument(
        "--suffixes",
        nargs=2,
        metavar=("IMAGE", "LABEL"),
        help="--labels: ends of the names, e.g. _leftImg8bit.png _gtFine_labelTrainIds.png (default: any, and .png)",
    )
    command.add_argument("--out", help="--unlabelled: folder for the page (default: label_free)")
    command.add_argument("--device", help="--unlabelled: where to run (default: the accelerator if there is one)")


def run(a: argparse.Namespace) -> int:
    """Exit code 1 where --unlabelled met a file that cannot be read; the others count."""
    if a.unlabelled is not None:
        return run_unlabelled(a)
    for name in ("labels", "suffixes", "out", "device"):
        if getattr(a, name) is not None:
            raise ValueError(f"--{name} belongs to --unlabelled IMAGES")
    if len(a.paths) != 2:
        raise ValueError(
            f"expected CONFIG CHECKPOINT, got {len(a.paths)} argument(s): {' '.join(a.paths)} (a checkpoint alone can "
            "be scored with --unlabelled IMAGES)"
        )
    from pipa.mmseg.run.train import evaluate_checkpoint, load_config

    config, checkpoint = a.paths
    metrics = evaluate_checkpoint(load_config(config, a.cfg_options, a.work_dir), checkpoint, teacher=a.teacher)
    for name, value in metrics.items():
        print(f"{name:<24} {value:8.2f}")
    return 0


def run_unlabelled(a: argparse.Namespace) -> int:
    """Table, page, plot and JSON."""
    if len(a.paths) not in (1, 2):
        raise ValueError(f"expected [CONFIG] CHECKPOINT, got {len(a.paths)} argument(s): {' '.join(a.paths)}")
    if a.teacher:
        raise ValueError("--unlabelled scores student and teacher: leave out --teacher")
    if a.suffixes is not None and a.labels is None:
        raise ValueError("--suffixes are those of --labels FOLDER")
    *config, place = a.paths
    a.out = a.out or "label_free"
    from pipa.commands.label_free import print_table, refuse_other_scores, write
    from pipa.inference.choosing import labels_beside
    from pipa.inference.run import find, progress
    from pipa.mmseg.run.choosing import checkpoints_of, compare
    from pipa.mmseg.run.train import hush

    hush()
    refuse_other_scores(Path(a.out))
    loaded = optional_config(a, config)
    root, files = find(Path(a.unlabelled), Path(a.out))
    pictures: dict[Path, Path | None] = dict.fromkeys(files)
    if a.labels is not None:
        suffixes = None if a.suffixes is None else (a.suffixes[0], a.suffixes[1])
        pictures = labels_beside(files, root, Path(a.labels), suffixes)
    with progress() as bar:
        task = bar.add_task("scoring", total=len(files) * len(checkpoints_of(Path(place))))
        result = compare(place, pictures, loaded, a.device, lambda: bar.advance(task))
    print_table(result)
    page = write(result, Path(a.out), len(files))
    print(f"page: {page} (scores.json and scores.svg beside it)")
    return tell_problems("test", result.problems, "used")
