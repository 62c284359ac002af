"""Pictures of what a training sees and predicts, and the report that gathers them.

Pictures (all return uint8 RGB arrays of shape (H, W, 3); labels are integers (H, W), ``ignore_index`` is drawn black;
arrays may be NumPy arrays or tensors on any device):

* :func:`colorize` a label map, :func:`overlay` it on its image, :func:`with_legend` names the classes that occur
* :func:`heat` of pixel weights, :func:`outline` of boxes, :func:`denormalize` a network input
* :func:`step_panels`, :func:`prediction_panels`: ready-made sections for the report
* :func:`save_prediction`: the files that ``pipa predict`` writes

The report, one HTML file without any outside link, is described by four dataclasses of plain values
(:mod:`pipa.viz.report.data`) and written by :func:`write_report`::

    Run(name, iou, miou_curve=[(iteration, miou)], losses={"loss_ce": [(iteration, value)]}, seconds=None, note="")
        one training: `iou` holds percent per class in the order of the classes, None where a class never occurs
    Panel(title, image, caption="", labels=False)
        one picture; `labels` keeps its pixels sharp when the page enlarges it
    Section(title, panels, text="", columns=None)
        a row or grid of panels
    SeedTable(names, miou)
        `miou` maps a run's name to its mIoU for each seed; `names` are the seeds

    write_report("report.html", title="...", classes=CLASSES, palette=PALETTE, runs=[Run(...), ...],
                 settings={"iterations": 1000}, sections=[Section(...)], seeds=SeedTable(...), notes=["..."])

The first run is what the others are compared with (source-only), the second the run of interest (PiPa).
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipa.files.atomic import write
from pipa.toy import PALETTE as TOY_PALETTE
from pipa.viz.report import Panel, Run, Section, SeedTable, write_report

__all__ = [
    "Panel",
    "Run",
    "Section",
    "SeedTable",
    "colorize",
    "denormalize",
    "heat",
    "outline",
    "overlay",
    "palette_of",
    "prediction_panels",
    "save_prediction",
    "step_panels",
    "with_legend",
    "write_report",
]

Picture = npt.NDArray[np.uint8]
Color = tuple[int, int, int]
Palette = Sequence[Sequence[int]]
#: Half-open (top, left, bottom, right) in pixels.
Box = tuple[int, int, int, int]

# The colours by which Cityscapes, and with it GTA5, SYNTHIA, ACDC and Dark Zurich, show the 19 training classes.
CITYSCAPES: tuple[Color, ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
_NAMED: dict[str, tuple[Color, ...]] = {
    "cityscapes": CITYSCAPES, "gta": CITYSCAPES, "synthia": CITYSCAPES, "acdc": CITYSCAPES, "darkzurich": CITYSCAPES,
    "toy": TOY_PALETTE,
}  # fmt: skip
# Dark violet to pale yellow; brightness rises evenly, so the map also reads in grey.
_HEAT = np.array([[20, 11, 53], [93, 18, 110], [174, 48, 91], [232, 105, 37], [250, 180, 21], [252, 255, 190]], float)
# Pixels that are blended at a time.
_PIXELS = 1 << 20
_BOX_COLORS: tuple[Color, ...] = ((255, 176, 0), (0, 200, 255))


def palette_of(dataset: str | None, num_classes: int) -> tuple[Color, ...]:
    """Colours of a dataset by name, or distinct made-up ones for `num_classes` where `dataset` is None.

    Raises:
        ValueError: An unknown name, or a dataset with fewer colours than `num_classes`.

    >>> from pipa import viz
    >>> viz.palette_of("cityscapes", 19)[0], len(viz.palette_of(None, 5))
    ((128, 64, 128), 5)
    """
    if dataset is None:
        # Golden-ratio steps keep neighbours apart; brightness alternates for those who see hues alike.
        hues = [(0.61803399 * i) % 1.0 for i in range(num_classes)]
        colors = [colorsys.hsv_to_rgb(h, 0.75, (0.95, 0.6)[i % 2]) for i, h in enumerate(hues)]
        return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colors)
    colors_of = _NAMED.get(dataset.lower().replace("_", "").replace("-", ""))
    if colors_of is None:
        raise ValueError(f"dataset: expected one of {', '.join(sorted(_NAMED))} or None, got {dataset!r}")
    if len(colors_of) < num_classes:
        raise ValueError(f"num_classes: {dataset} has {len(colors_of)} colours, but {num_classes} are needed")
    return colors_of[:num_classes]


def colorize(label_hw: Any, palette: Palette, ignore_index: int = 255) -> Picture:
    """Label ids as colours. Raises ValueError for an id that has no colour and is not `ignore_index`.

    >>> import numpy as np
    >>> from pipa import viz
    >>> viz.colorize(np.array([[1, 255]]), [(1, 1, 1), (9, 8, 7)]).tolist()
    [[[9, 8, 7], [0, 0, 0]]]
    """
    label = _array(label_hw)
    if label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"label_hw: expected integers of shape (H, W), got {label.dtype} {label.shape}")
    wrong = (label != ignore_index) & ((label < 0) | (label >= len(palette)))
    if wrong.any():
        raise ValueError(f"label_hw: id {int(label[wrong][0])} has no colour among {len(palette)} classes")
    colors = np.zeros((len(palette) + 1, 3), np.uint8)
    colors[:-1] = np.asarray(palette, np.uint8).reshape(-1, 3)
    picture: Picture = colors[np.where(label == ignore_index, len(palette), label)]
    return picture


def overlay(image_hwc: Any, label_hw: Any, palette: Palette, opacity: float = 0.55, ignore_index: int = 255) -> Picture:
    """The image under its label's colours; ignored pixels stay as they are.

    >>> import pipa
    >>> image, label = pipa.toy.draw("target", 0)
    >>> pipa.viz.overlay(image, label, pipa.toy.PALETTE, opacity=0.5).shape == image.shape
    True
    """
    image, label = _image(image_hwc), _array(label_hw)
    if image.shape[:2] != label.shape:
        raise ValueError(f"label_hw: expected the image's size {image.shape[:2]}, got {label.shape}")
    picture = np.empty_like(image)
    step = max(1, _PIXELS // max(image.shape[1], 1))
    for top in range(0, image.shape[0], step):  # in floats a large photo would take many times its own memory
        rows = slice(top, top + step)
        share = np.where(label[rows] == ignore_index, 0.0, opacity)[..., None]
        picture[rows] = _bytes(image[rows] * (1 - share) + colorize(label[rows], palette, ignore_index) * share)
    return picture


def with_legend(picture: Picture, label_hw: Any, classes: Sequence[str], palette: Palette) -> Picture:
    """`picture` above a strip that names the classes occurring in `label_hw`.

    >>> import pipa
    >>> image, label = pipa.toy.draw("target", 0)
    >>> pipa.viz.with_legend(image, label, pipa.toy.CLASSES, pipa.toy.PALETTE).shape[0] > image.shape[0]
    True
    """
    present = [c for c in range(len(classes)) if (_array(label_hw) == c).any()]
    width = picture.shape[1]
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    size = min(18, max(11, width // 50))
    places: list[tuple[int, int, int]] = []
    x, row = 6, 0
    for c in present:
        reach = size + 5 + int(probe.textlength(classes[c], font_size=size)) + 12
        if x + reach > width and x > 6:
            x, row = 6, row + 1
        places.append((c, x, row))
        x += reach
    line = size + 8
    strip = Image.new("RGB", (width, (row + 1) * line + 6), (250, 250, 250))
    draw = ImageDraw.Draw(strip)
    for c, left, at in places:
        top = at * line + 6
        r, g, b = palette[c]
        draw.rectangle((left, top, left + size, top + size), fill=(r, g, b), outline=(90, 90, 90))
        draw.text((left + size + 5, top + size / 2), classes[c], fill=(20, 20, 20), font_size=size, anchor="lm")
    return np.concatenate([picture, np.asarray(strip, np.uint8)])


def heat(weight_hw: Any, low: float = 0.0, high: float = 1.0) -> Picture:
    """Weights as a heat map: `low` dark violet, `high` pale yellow, values beyond are clipped, NaN is grey.

    >>> import numpy as np
    >>> from pipa import viz
    >>> viz.heat(np.array([[0.0, 1.0]])).shape
    (1, 2, 3)
    """
    weight = _array(weight_hw).astype(float)
    if weight.ndim != 2:
        raise ValueError(f"weight_hw: expected shape (H, W), got {weight.shape}")
    at = np.clip((weight - low) / max(high - low, 1e-12), 0, 1) * (len(_HEAT) - 1)
    steps = np.arange(len(_HEAT))
    picture = np.stack([np.interp(at, steps, _HEAT[:, c]) for c in range(3)], -1)
    return _bytes(np.where(np.isnan(weight)[..., None], 128.0, picture))


def outline(image_hwc: Any, boxes: Sequence[Box], colors: Sequence[Color] = _BOX_COLORS) -> Picture:
    """Boxes drawn on the image; where the first two overlap, the overlap is brightened and outlined in white.

    >>> import pipa
    >>> image, _ = pipa.toy.draw("target", 0)
    >>> pipa.viz.outline(image, [(0, 0, 64, 64), (32, 32, 96, 96)]).shape == image.shape
    True
    """
    image = _image(image_hwc)
    if len(boxes) >= 2:
        (t1, l1, b1, r1), (t2, l2, b2, r2) = boxes[0], boxes[1]
        top, left, bottom, right = max(t1, t2), max(l1, l2), min(b1, b2), min(r1, r2)
        if top < bottom and left < right:
            shade = np.full(image.shape[:2], 0.6)
            for t, l, b, r in boxes:  # noqa: E741
                shade[t:b, l:r] = 0.85
            shade[top:bottom, left:right] = 1.0
            image = _bytes(image * shade[..., None])
            boxes = [*boxes, (top, left, bottom, right)]
            colors = [*(colors[i % len(colors)] for i in range(len(boxes) - 1)), (255, 255, 255)]
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    stroke = max(1, image.shape[0] // 96)
    for i, (top, left, bottom, right) in enumerate(boxes):
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colors[i % len(colors)], width=stroke)
    return np.asarray(canvas, np.uint8)


def denormalize(image_chw: Any, mean: Sequence[float], std: Sequence[float]) -> Picture:
    """A network input (C, H, W), normalised by `mean` and `std` of RGB in 0..255, as a picture.

    >>> import torch
    >>> from pipa import viz
    >>> viz.denormalize(torch.zeros(3, 1, 1), mean=[10, 20, 30], std=[1, 1, 1]).tolist()
    [[[10, 20, 30]]]
    """
    image = _array(image_chw).astype(float)
    if image.ndim != 3 or image.shape[0] != 3 or len(mean) != 3 or len(std) != 3:
        raise ValueError(f"image_chw: expected shape (3, H, W) and three means and stds, got {image.shape}")
    return _bytes(image.transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean))


def step_panels(step: Mapping[str, Any], palette: Palette, title: str = "One training step") -> Section:
    """What one iteration saw, from the arrays that are given (a missing key leaves its panel out).

    Keys: ``source_image``, ``source_label``, ``target_image``, ``pseudo_label``, ``pseudo_weight``, ``mixed_image``,
    ``mixed_label``, ``mixed_weight``, ``patch_image`` (the image the patches are cut from; default ``mixed_image``) and
    ``patch_boxes`` (two boxes). Images are uint8 (H, W, 3). Raises ValueError for any other key.

    >>> import pipa
    >>> image, label = pipa.toy.draw("source", 0)
    >>> section = pipa.viz.step_panels({"source_image": image, "source_label": label}, pipa.toy.PALETTE)
    >>> len(section.panels)
    2
    """
    makers: dict[str, tuple[str, str]] = {
        "source_image": ("Source", "labelled"),
        "source_label": ("Source label", "ground truth"),
        "target_image": ("Target", "no labels"),
        "pseudo_label": ("Pseudo-label", "the teacher's prediction for the target"),
        "pseudo_weight": ("Pseudo-label weight", "share of confident pixels; pale is 1"),
        "mixed_image": ("Mixed", "source classes pasted onto the target, then colour jitter and blur"),
        "mixed_label": ("Mixed label", "true where pasted, pseudo elsewhere"),
        "mixed_weight": ("Pixel weights", "1 (pale) where pasted, the pseudo-label's weight elsewhere"),
    }
    unknown = set(step) - set(makers) - {"patch_image", "patch_boxes"}
    if unknown:
        raise ValueError(
            f"step: unknown key {sorted(unknown)[0]!r}; known: {', '.join(makers)}, patch_image, patch_boxes"
        )
    panels = []
    for key, (name, caption) in makers.items():
        if key not in step:
            continue
        if key.endswith("_label"):
            panels.append(Panel(name, colorize(step[key], palette), caption, labels=True))
        elif key.endswith("_weight"):
            panels.append(Panel(name, heat(step[key]), caption, labels=True))
        else:
            panels.append(Panel(name, _image(step[key]), caption))
    if "patch_boxes" in step:
        picture = outline(step.get("patch_image", step.get("mixed_image")), step["patch_boxes"])
        panels.append(Panel("Patch pair", picture, "two crops; features must agree in the white overlap"))
    return Section(title, panels)


def prediction_panels(
    samples: Sequence[Mapping[str, Any]], palette: Palette, title: str = "Predictions on the target", text: str = ""
) -> Section:
    """Rows of image, truth and predictions. Each sample maps ``image`` to a picture and every other name to a label.

    >>> import pipa
    >>> image, label = pipa.toy.draw("target", 0)
    >>> section = pipa.viz.prediction_panels([{"image": image, "truth": label}], pipa.toy.PALETTE)
    >>> [panel.title for panel in section.panels]
    ['Target image', 'truth']
    """
    panels = []
    columns = 1
    for sample in samples:
        columns = len(sample)
        panels.append(Panel("Target image", _image(sample["image"])))
        for name, label in sample.items():
            if name != "image":
                panels.append(Panel(name, colorize(label, palette), labels=True))
    return Section(title, panels, text=text, columns=columns)


def save_prediction(
    folder: str | Path,
    name: str,
    image_hwc: Any,
    label_hw: Any,
    palette: Palette,
    classes: Sequence[str] | None = None,
    opacity: float = 0.55,
) -> tuple[Path, Path]:
    """Write ``FOLDER/NAME_overlay.png`` and ``FOLDER/NAME_label.png`` (class ids, one channel; 16 bit above 256 ids).

    With `classes` the overlay carries a legend. Returns both paths.

    >>> import pipa
    >>> image, label = pipa.toy.draw("target", 0)
    >>> overlay, ids = pipa.viz.save_prediction("out", "street", image, label, pipa.toy.PALETTE)
    >>> overlay.name, ids.name
    ('street_overlay.png', 'street_label.png')
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    label = _array(label_hw)
    picture = overlay(image_hwc, label, palette, opacity)
    if classes is not None:
        picture = with_legend(picture, label, classes, palette)
    overlay_path, label_path = folder / f"{name}_overlay.png", folder / f"{name}_label.png"
    ids = label.astype(np.uint8 if label.max(initial=0) < 256 else np.uint16)
    for path, pixels in ((overlay_path, picture), (label_path, ids)):
        write(path, lambda file, pixels=pixels: Image.fromarray(pixels).save(file, "PNG"))  # type: ignore[misc]
    return overlay_path, label_path


def _array(value: Any) -> npt.NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    return np.asarray(value)


def _image(image_hwc: Any) -> Picture:
    image = _array(image_hwc)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image_hwc: expected uint8 of shape (H, W, 3), got {image.dtype} {image.shape}")
    return image


def _bytes(values: npt.NDArray[Any]) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
