"""Segment what a user points at, file by file, and account for every problem: the work of `pipa predict`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipa.inference.results import names, save
from pipa.inference.segmenter import Segmenter
from pipa.inference.sources import is_result, list_images
from pipa.inference.tiling import Window
from pipa.inference.video import Video, Writer, is_video, name_of
from pipa.viz.report.gallery import Entry, entry_of, write_gallery
from pipa.viz.report.page import refuse_foreign


@dataclass
class Outcome:
    """What a run left: result files (the labels), and (file, reason) of what could not be segmented."""

    written: list[Path] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    report: Path | None = None


@dataclass(frozen=True)
class Options:
    """How pictures are segmented; see :meth:`Segmenter.predict`."""

    batch_size: int = 1
    flip: bool = False
    scales: Sequence[float] = (1.0,)
    window: Window | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "flip": self.flip, "scales": self.scales, "window": self.window}


def find(source: Path, out: Path) -> tuple[Path, list[Path]]:
    """The folder that results are named from, and the pictures. ValueError: none there."""
    if source.is_file():
        if is_result(source):
            raise ValueError(f"{source}: is the result of an earlier prediction, not a picture to segment")
        return source.parent, [source]
    if not source.is_dir():
        raise ValueError(f"{source}: expected an image or a folder of images, found nothing there")
    return source, list_images(source, leave_out=out)


def predict_files(
    segmenter: Segmenter,
    source: Path,
    out: Path,
    options: Options = Options(),
    confidence: bool = False,
    report: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Segment a picture or a folder of them into `out`, which mirrors the folder's subfolders.

    A file that cannot be read or segmented is noted, the others are written. With `report`, ``out/index.html`` shows
    them all.
    """
    root, files = find(source, out)
    bases = names(files, root)
    make_folder(out)
    page = out / "index.html"
    if report:
        refuse_foreign(page)
    outcome, entries = Outcome(), []

    def note(file: Any, error: Exception) -> None:
        outcome.problems.append((str(file), _reason(str(file), error)))

    with progress(console) as bar:
        task = bar.add_task("segmenting", total=len(files))
        for prediction in segmenter.stream(_ticking(files, bar, task), on_error=note, **options.as_dict()):
            assert prediction.path is not None  # files were given
            target = out / bases[prediction.path]
            try:
                outcome.written.append(save(prediction, target, confidence)[0])
            except OSError as error:  # of the result, not of the picture
                note(prediction.path, ValueError(f"cannot be written to {target.parent}: {error.strerror or error}"))
                continue
            if report:
                entries.append(entry_of(str(prediction.path.relative_to(root)), prediction, confidence))
        bar.update(task, completed=len(files))
    if report:
        outcome.report = _gallery(page, segmenter, entries, outcome.problems)
    return outcome


def make_folder(out: Path) -> None:
    """Make the folder of the results, before the first picture is segmented.

    Raises:
        ValueError: it cannot be made, or nothing can be written to it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"--out {out}: expected a folder to write to, got: {error.strerror or error}") from None


def predict_video(
    segmenter: Segmenter,
    source: str,
    out: Path,
    options: Options = Options(),
    limit: int | None = None,
    console: Console | None = None,
) -> Outcome:
    """Segment the frames of a video or camera into ``out/NAME_overlay.mp4``.

    Frames that the file promises and that cannot be decoded are a problem; those before them are kept.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--frames: expected 1 or more, got {limit}")
    make_folder(out)
    video = Video(source)
    path = out / f"{name_of(source)}_overlay.mp4"
    if path.resolve() == Path(source).resolve():
        raise ValueError(f"{source}: the result would replace it, choose another --out")
    if path.exists():
        raise FileExistsError(f"{path}: is there already; remove it or choose another --out")
    writer = Writer(path, video.fps)
    total = limit if video.count == 0 else min(video.count, limit or video.count)
    outcome, done = Outcome(), 0
    try:
        with progress(console) as bar:
            task = bar.add_task("segmenting", total=total)
            try:
                for prediction in segmenter.stream(video.frames(limit), **options.as_dict()):
                    writer.add(prediction.overlay())
                    done += 1
                    bar.advance(task)
            except KeyboardInterrupt:  # the way to end a camera; what was seen is kept
                if video.count:
                    raise
    except BaseException:
        writer.drop()
        raise
    writer.close()
    if done:
        outcome.written.append(path)
    if video.count and total is not None and done < total:
        outcome.problems.append((source, f"expected {total} frames, as the file says, but {done} can be decoded"))
    return outcome


def predict_any(
    segmenter: Segmenter, source: str, out: Path, options: Options, confidence: bool, report: bool, limit: int | None
) -> Outcome:
    """A picture, a folder, a video, or a camera (``camera:0`` or ``0``)."""
    if is_video(source):
        if confidence or report:
            raise ValueError(f"{source}: --confidence and --report are for pictures, not for videos")
        return predict_video(segmenter, source, out, options, limit)
    if limit is not None:
        raise ValueError(f"--frames: is for videos and cameras, and {source} is neither")
    return predict_files(segmenter, Path(source), out, options, confidence, report)


def progress(console: Console | None = None) -> Progress:
    """A bar with the time left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), console=console,
    )  # fmt: skip


def _ticking(files: Sequence[Path], bar: Progress, task: Any) -> Iterator[Path]:
    for number, file in enumerate(files):
        bar.update(task, completed=number)
        yield file


def _gallery(page: Path, segmenter: Segmenter, entries: Sequence[Entry], problems: Sequence[tuple[str, str]]) -> Path:
    return write_gallery(page, "Predictions", segmenter.classes, segmenter.palette, entries, problems)


def _reason(file: str, error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    return first.removeprefix(f"{file}: ")
