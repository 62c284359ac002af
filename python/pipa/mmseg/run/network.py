"""A segmentor of mmsegmentation that takes pictures: the config's own test pipeline, the model's own preprocessor.

What `pipa test` does to an image is done here by the same objects, so that a prediction is what was tested.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.utils import register_all_modules
from torch import Tensor, nn
from torch.nn.functional import pad

from pipa import viz
from pipa.files.images import DataError
from pipa.inference.network import Prepared
from pipa.inference.tiling import Window
from pipa.mmseg.checkpoints.adapters import without_adapters
from pipa.mmseg.checkpoints.description import Description, allowed_imports
from pipa.mmseg.checkpoints.weights import fill
from pipa.mmseg.datasets.transforms import run
from pipa.mmseg.mmengine_compat import normalised_by
from pipa.mmseg.run.pipeline_steps import IMAGE_LOADERS, LABEL_LOADERS, check_pipeline, name_of, reads_grey

# A picture longer than so many times its width is extended where it cannot be resized as it is.
_NARROW = 32
# Pixels that are normalised at a time.
_STRIP = 1 << 20


class SegmentorNetwork:
    """A model and its preparation of pictures (:class:`pipa.inference.network.Network`).

    Args:
        model: an ``EncoderDecoder`` with its weights.
        description: what it was built from; its ``test_pipeline`` reads the pictures.

    Raises:
        ValueError: a test pipeline that loads no image, or after which a prediction would not lie on the picture.
    """

    def __init__(self, model: Any, description: Description) -> None:
        if not hasattr(model, "encode_decode"):
            raise TypeError(f"{type(model).__name__} is not an mmsegmentation EncoderDecoder: it cannot predict here")
        self.model, self._description = model, description
        check_pipeline(description["test_pipeline"], "test_pipeline", labels=False)
        steps = [step for step in description["test_pipeline"] if name_of(step) not in LABEL_LOADERS]
        at = [i for i, step in enumerate(steps) if name_of(step) in IMAGE_LOADERS]
        if not at:
            raise ValueError(f"test_pipeline: no step loads an image; expected one of {', '.join(IMAGE_LOADERS)}")
        self._grey = name_of(steps[at[0]]) if reads_grey(steps[at[0]]) else None
        self._loads_floats = bool(steps[at[0]].get("to_float32", False))
        built = [_build(step) for step in steps]
        self._load, self._after = built[: at[0] + 1], built[at[0] + 1 :]
        head: Any = model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head
        self.align_corners = bool(model.align_corners)
        self.threshold = getattr(head, "threshold", None) if head.out_channels == 1 else None
        count = max(int(head.num_classes), 2) if head.out_channels == 1 else int(head.out_channels)
        self.classes, self.palette = _names(description, count)
        self.window = _window(model)

    # -- pictures ----------------------------------------------------------------------------------------------------

    def prepare(self, source: Path | npt.NDArray[np.uint8]) -> Prepared:
        """Run the test pipeline and the model's preprocessor on a file or on RGB pixels.

        Raises:
            ValueError: no picture, or pixels where the pipeline's loader makes files grey.
        """
        path = source if isinstance(source, Path) else None
        results: dict[str, Any] = {"seg_fields": [], "reduce_zero_label": False}
        if isinstance(source, Path):
            results = run(self._load, {**results, "img_path": str(source)})
            if results.get("img") is None:
                raise DataError(f"{source}: expected an image, found nothing that can be read")
        elif self._grey is not None:
            # Decoders weigh the colours each in their own way: a grey made here would be another than the loader's.
            raise ValueError(f"image: expected a file, because the test pipeline's {self._grey} reads it as grey")
        else:
            pixels: npt.NDArray[Any] = np.ascontiguousarray(source[..., ::-1])  # pipelines work on BGR
            size = pixels.shape[:2]
            results.update(img=pixels.astype(np.float32) if self._loads_floats else pixels)
            results.update(img_shape=size, ori_shape=size)
        picture = _picture(results["img"])
        packed, extended = self._packed(results)
        ready = self._preprocessed(packed)
        meta: dict[str, Any] = dict(ready["data_samples"][0].metainfo)
        padding: Any = meta.get("img_padding_size", meta.get("padding_size")) or (0, 0, 0, 0)
        left, right, top, bottom = padding
        flip = meta.get("flip_direction", "horizontal") if meta.get("flip") else None
        return Prepared(
            ready["inputs"], picture, (int(left), int(right), int(top), int(bottom)), flip, meta, extended, path
        )

    def _packed(self, results: dict[str, Any]) -> tuple[dict[str, Any], tuple[int, int] | None]:
        """What the steps after the loader make of a picture, and the size that it was extended to for that.

        As a test does it wherever a test can: a narrow picture is extended only where its resizing leaves less than a
        pixel of the short side, which is an error there.
        """
        height, width = results["img"].shape[:2]
        if max(height, width) <= _NARROW * min(height, width):
            return run(self._after, results), None
        try:
            return run(self._after, {**results, "seg_fields": list(results["seg_fields"])}), None
        except Exception:  # OpenCV has an error type of its own
            extended = (max(height, -(-width // _NARROW)), max(width, -(-height // _NARROW)))
        margin = ((0, extended[0] - height), (0, extended[1] - width), (0, 0))[: results["img"].ndim]
        results["img"] = np.pad(results["img"], margin, mode="edge")
        results["img_shape"] = results["ori_shape"] = extended
        return run(self._after, results), extended

    def _preprocessed(self, packed: dict[str, Any]) -> Any:
        """What the model's preprocessor makes of one picture.

        In strips where it works pixel by pixel: in one piece it holds three more copies of a large photo in floats.
        """
        pre, inputs, sample = self.model.data_preprocessor, packed["inputs"], packed["data_samples"]

        def of(part: Tensor) -> Any:
            return pre({"inputs": [part], "data_samples": [sample]}, False)

        height, step = inputs.shape[1], max(1, _STRIP // max(inputs.shape[2], 1))
        if type(pre) is not SegDataPreProcessor or pre.test_cfg or height <= step:
            return of(inputs)
        ready = of(inputs[:, :step])
        whole = ready["inputs"].new_empty((1, *inputs.shape))
        whole[:, :, :step] = ready["inputs"]
        for top in range(step, height, step):
            whole[:, :, top : top + step] = of(inputs[:, top : top + step])["inputs"]
        return {**ready, "inputs": whole}

    def logits(self, inputs: Tensor, meta: list[dict[str, Any]]) -> Tensor:
        """One pass; ``(B, C, h, w)`` at the size of the inputs."""
        return self.model.encode_decode(inputs, meta)

    def normalised(self, image_bchw: Tensor) -> Tensor:
        """The network's input from RGB values 0 to 255, ``(B, 3, H, W)``, without the pipeline's resizing.

        Written out, where :meth:`prepare` calls the preprocessor, because an exporter has to follow it.
        """
        pre: Any = self.model.data_preprocessor
        inputs = normalised_by(pre, image_bchw)
        options = pre.test_cfg or {}
        height, width = inputs.shape[2:]
        least = options.get("size") or (height, width)
        if options.get("size_divisor"):
            step = int(options["size_divisor"])
            least = (-(-height // step) * step, -(-width // step) * step)
        right, bottom = max(int(least[1]) - width, 0), max(int(least[0]) - height, 0)
        return pad(inputs, (0, right, 0, bottom), value=float(pre.pad_val)) if right or bottom else inputs

    # -- what a file holds ---------------------------------------------------------------------------------------------

    def description(self) -> Description:
        """As :func:`pipa.mmseg.run.description.describe` gives it."""
        return {**self._description, "classes": list(self.classes), "palette": [list(c) for c in self.palette]}

    def parameters_module(self) -> nn.Module:
        return self.model

    def state_dict(self) -> dict[str, Tensor]:
        return {key: value.detach().cpu() for key, value in self.model.state_dict().items()}


def build(
    description: Description, state: dict[str, Tensor], where: str, device: str | torch.device | None = None
) -> SegmentorNetwork:
    """The described model with its weights, ready to predict.

    Raises:
        ValueError: a component that is not registered, or weights that do not fit; the message names `where`. A device
            that torch does not know or does not have.
    """
    chosen = _usable(device)
    description, state = without_adapters(description, state)
    register_all_modules(init_default_scope=True)
    for name in allowed_imports(description):
        importlib.import_module(name)
    try:
        model = MODELS.build(ConfigDict(description["model"]))
    except KeyError as error:
        raise ValueError(
            f"{where}: {str(error.args[0]).splitlines()[0]}; import the module that registers it, or give the config"
        ) from None
    fill(model, state, where)
    return SegmentorNetwork(model.to(chosen).eval(), description)


def _usable(device: str | torch.device | None) -> torch.device:
    try:
        found = torch.device(get_device() if device is None else device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected cpu, cuda, cuda:1 or another of torch's, got {device!r}") from None
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"device: {str(found)!r} cannot be used here: {first}") from None
    return found


def _build(step: Any) -> Any:
    if not isinstance(step, dict):
        return step
    if name_of(step) == "LoadImage":
        step = {**step, "convert": True}  # grey, alpha and 16 bits: a picture need not be as uniform as a data set
    return TRANSFORMS.build(ConfigDict(step))


def _picture(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The loaded image as RGB bytes."""
    pixels = image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, 2::-1])


def _names(description: Description, count: int) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours, made up where the description has none that fit."""
    names, colors = description.get("classes"), description.get("palette")
    if not names or len(names) != count:
        names, colors = [f"class {i}" for i in range(count)], None
    if not colors or len(colors) != count:
        colors = viz.palette_of(None, count)
    return tuple(str(n) for n in names), tuple((int(r), int(g), int(b)) for r, g, b in colors)


def _window(model: Any) -> Window | None:
    cfg = model.test_cfg or {}
    if cfg.get("mode", "whole") != "slide":
        return None
    crop, stride = cfg["crop_size"], cfg["stride"]
    batch = getattr(model, "slide_batch", 1)
    return Window((int(crop[0]), int(crop[1])), (int(stride[0]), int(stride[1])), batch)
