"""The `pipa` command: one subcommand per job, each importing only what it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipa.commands import configs as listing
from pipa.commands import export as exporting
from pipa.commands import predict as predicting
from pipa.commands import soft_labels, study
from pipa.commands import test as testing
from pipa.commands.shared import add_cfg_options, check_counts
from pipa.environment import describe_environment, hide_remarks


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit code: 0, 1 for an error (one sentence on stderr), 130 for Ctrl-C."""
    arguments = parse(argv)
    hide_remarks()
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("pipa: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if arguments.debug:
            raise
        print(f"pipa {arguments.command}: {sentence(error)}", file=sys.stderr)
        print("(--debug shows the traceback)", file=sys.stderr)
        return 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; a list of `paths` may have options between its parts."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if rest and (not hasattr(arguments, "paths") or any(part.startswith("-") for part in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.paths.extend(rest)
    return arguments


def sentence(error: Exception) -> str:
    """What to tell about an error."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str() would quote it
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:  # from a loader worker, with its traceback as text
        name, _, said = text.strip().splitlines()[-1].partition(": ")
        return said or name
    return text or type(error).__name__


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="pipa", description="PiPa: domain-adaptive semantic segmentation.")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    def with_config(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
        command.add_argument(
            "config", nargs=nargs, help="file of a config, or the name of a shipped one (see `pipa configs`)"
        )
        add_cfg_options(command, ", e.g. train_cfg.max_iters=1000 custom_hooks.0.pixel_weight=0.2")

    train = add("train", run_train, "Train from a config.")
    with_config(train)
    train.add_argument("--work-dir", help="folder for checkpoints and logs (default: work_dirs/CONFIG)")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the work folder")
    train.add_argument(
        "--overwrite", action="store_true", help="remove the checkpoints of an earlier training in the work folder"
    )
    train.add_argument("--launcher", choices=("none", "pytorch"), default="none", help="pytorch: started by torchrun")
    train.add_argument("--threads", type=int, help="CPU threads of PyTorch")

    text = "Evaluate a checkpoint on the config's test data, or score checkpoints without labels."
    testing.add_arguments(add("test", testing.run, text))

    predicting.add_arguments(add("predict", predicting.run, "Segment images; writes colour overlays and label PNGs."))

    convert = add("convert", run_convert, "Convert labels of a data set to train ids, or a released checkpoint.")
    convert.add_argument("what", choices=("gta", "synthia", "cityscapes", "checkpoint"))
    convert.add_argument("path", help="root of the data set, or the checkpoint file")
    convert.add_argument("--out", help="where to write (default: beside the input)")
    convert.add_argument("--workers", type=int, help="threads (default: one per core)")
    convert.add_argument("--teacher", action="store_true", help="checkpoint: take the teacher's weights")
    convert.add_argument("--verbose", action="store_true", help="checkpoint: list every key")

    stats = add("stats", run_stats, "Count the pixels of each class in a folder of label images.")
    stats.add_argument("folder")
    stats.add_argument("--suffix", default=".png", help="end of the label files' names (default: .png)")
    stats.add_argument("--classes", help="class file (YAML or JSON) with the id map or the colours of the labels")
    stats.add_argument(
        "--label-format", choices=("ids", "colors"), default="ids", help="colors: labels painted with the class colours"
    )
    stats.add_argument(
        "--ignore-index", type=int, help="id that does not count (default: as in the class file, or 255)"
    )
    stats.add_argument("--out", help="folder for sample_class_stats.json and its companions")
    stats.add_argument("--workers", type=int, help="threads (default: one per core)")

    text = "Write only the weights, for inference: .pth, safetensors with a model card, ONNX."
    exporting.add_arguments(add("export", exporting.run, text))

    text = "Store a network's soft labels of the target, for a training that corrects them (ProDA)."
    soft_labels.add_arguments(add("soft-labels", soft_labels.run, text))

    text = "Check the environment, every file of a config's data and the training's start, before a training."
    doctor = add("doctor", run_doctor, text)
    with_config(doctor, nargs="?")
    doctor.add_argument("--environment", action="store_true", help="print versions, build and devices, for a report")
    doctor.add_argument("--no-iteration", action="store_true", help="leave out the one iteration at its real size")
    doctor.add_argument("--workers", type=int, help="threads (default: one per core)")
    doctor.add_argument("--max-files", type=int, help="look at so many files of each data set instead of all")

    listing.add_arguments(add("configs", listing.run, "List the shipped configs, or write one as a file to edit."))

    demo = add("demo", run_demo, "Adapt a small network on the embedded domain pair and write a report.")
    demo.add_argument("--out", default="demo", help="folder for data, checkpoints and report.html (default: demo)")
    demo.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run per seed (default: 0)")
    demo.add_argument("--iterations", type=int, help="iterations of each training (default: the config's)")
    demo.add_argument("--oracle", action="store_true", help="also train on target labels, the upper bound")

    study.add_arguments(
        add("study", study.run, "Train a grid of methods and seeds; tables of paired differences, plots.")
    )
    return top


def run_train(a: argparse.Namespace) -> int:
    check_counts(a, "threads")
    from pipa.mmseg.run.train import load_config, train

    config = load_config(a.config, a.cfg_options, a.work_dir)
    train(config, resume=a.resume, launcher=a.launcher, threads=a.threads, overwrite=a.overwrite)
    return 0


def run_convert(a: argparse.Namespace) -> int:
    check_counts(a, "workers")
    of_checkpoints = {"--teacher": a.teacher, "--verbose": a.verbose}
    unread = {"--workers": a.workers is not None} if a.what == "checkpoint" else of_checkpoints
    for name, given in unread.items():
        if given:
            raise ValueError(f"{name}: `pipa convert {a.what}` does not read it")
    if a.what == "checkpoint":
        from pipa.mmseg.checkpoints.convert import convert_checkpoint

        path = Path(a.path)
        out = a.out or path.with_name(f"{path.stem}_pipa.pth")
        print(convert_checkpoint(path, out, use_teacher=a.teacher).format(verbose=a.verbose))
        print(f"written: {out}")
        return 0
    from pipa.files.convert import convert_labels

    report = convert_labels(a.what, a.path, a.out, workers=a.workers)
    print(f"converted {report.converted}, finished before {report.kept}")
    for path in report.written:
        print(f"written: {path}")
    for note in report.notes:
        print(f"pipa convert: {note}", file=sys.stderr)
    return 0


def run_stats(a: argparse.Namespace) -> int:
    check_counts(a, "workers")
    from rich.console import Console
    from rich.table import Table

    from pipa.files.classes import load_classes
    from pipa.files.images import DataError
    from pipa.files.labels import LabelReading
    from pipa.files.statistics import class_totals, folder_stats

    classes = None if a.classes is None else load_classes(a.classes)
    ignore = a.ignore_index
    if ignore is None:
        ignore = 255 if classes is None or classes.ignore_index is None else classes.ignore_index
    reading = LabelReading(None, ignore)
    if classes is not None:
        reading = LabelReading.of({"id_map": classes.id_map, "num_classes": len(classes.names)}, ignore=ignore)
    if a.label_format == "colors":
        if classes is None or not classes.colors:
            raise DataError("--label-format colors needs --classes FILE with a colour for each class")
        reading = LabelReading(len(classes.names), ignore, None, classes.colors)

    def tell(text: str) -> None:
        print(f"pipa stats: {text}", file=sys.stderr)

    totals = class_totals(folder_stats(a.folder, a.suffix, a.out, workers=a.workers, reading=reading, tell=tell))
    table = Table("class", "pixels", "share", "images")
    for class_id, (pixels, share, images) in totals.items():
        name = f"{class_id}" if classes is None else f"{class_id} {classes.names[class_id]}"
        table.add_row(name, f"{pixels:,}", f"{100 * share:.3f} %", str(images))
    Console().print(table)
    return 0


def run_doctor(a: argparse.Namespace) -> int:
    check_counts(a, "workers", "max_files")
    if a.environment:
        print(describe_environment())
        if a.config is None:
            return 0
    if a.config is None:
        raise ValueError("expected a config, or --environment")
    from pipa.commands.doctor import check, report
    from pipa.mmseg.run.train import load_config

    config = load_config(a.config, a.cfg_options)
    findings = check(config, a.workers, a.max_files, iteration=not a.no_iteration, options=a.cfg_options)
    print(report(findings))
    return int(any(finding.level == "error" for finding in findings))


def run_demo(a: argparse.Namespace) -> int:
    from pipa.commands.demo import demo

    report = demo(Path(a.out), seeds=a.seeds, iterations=a.iterations, oracle=a.oracle)
    print(f"report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
