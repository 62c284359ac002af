"""The index page of a prediction: every picture beside its overlay, in one HTML file without outside links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipa.files.atomic import write_text
from pipa.viz.report.data import Panel, Section
from pipa.viz.report.page import class_key, page_of, refuse_foreign, section_of

# Pictures are shown at most this wide.
_WIDTH = 480


class Result(Protocol):
    """What a prediction offers (:class:`pipa.inference.Prediction`)."""

    image_hwc: npt.NDArray[np.uint8]
    confidence_hw: npt.NDArray[np.float32]

    def overlay(self) -> npt.NDArray[np.uint8]: ...

    def shares(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Entry:
    """One picture of the page, already small: the panels and the largest classes."""

    name: str
    panels: Sequence[Panel]
    shares: Mapping[str, float]


def entry_of(name: str, prediction: Any, confidence: bool = False) -> Entry:
    """The panels of one prediction."""
    result: Result = prediction
    panels = [Panel("Picture", _small(result.image_hwc)), Panel("Prediction", _small(result.overlay()))]
    if confidence:
        grey = np.rint(result.confidence_hw * 255).astype(np.uint8)
        mean = f"mean {100 * float(result.confidence_hw.mean()):.1f} %"
        panels.append(Panel("Confidence", _small(np.repeat(grey[:, :, None], 3, axis=2)), mean))
    return Entry(name, panels, result.shares())


def write_gallery(
    path: Path,
    title: str,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    entries: Sequence[Entry],
    problems: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write the page (atomically) and return its path. problems: (file, reason) of what is missing on it.

    Raises:
        FileExistsError: another page of that name is there.
    """
    refuse_foreign(path)
    sections = []
    for entry in entries:
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(entry.shares.items())[:4])
        sections.append(section_of(Section(entry.name, entry.panels, text=shares, columns=len(entry.panels))))
    failed = "".join(f"<dt>{escape(file)}</dt><dd>{escape(reason)}</dd>" for file, reason in problems)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{len(entries)} picture(s), {len(problems)} problem(s)</p>',
        class_key(classes, palette),
        *sections,
        f"<h2>Could not be segmented</h2><dl>{failed}</dl>" if problems else "",
    ]
    return write_text(path, page_of(title, parts))


def _small(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = picture.shape[:2]
    if width <= _WIDTH:
        return picture
    size = (_WIDTH, max(round(height * _WIDTH / width), 1))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
