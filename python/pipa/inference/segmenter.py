"""`Segmenter`: a trained network that takes pictures as people have them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, logsigmoid, pad

from pipa.files.images import rgb_of
from pipa.inference.decision import NotFiniteError, decide
from pipa.inference.export.folder import WEIGHTS, write_folder
from pipa.inference.memory import give_back
from pipa.inference.network import Network, Prepared
from pipa.inference.prediction import Prediction
from pipa.inference.sources import list_images
from pipa.inference.tiling import Window, bands

Source: TypeAlias = str | Path | Image.Image | npt.NDArray[Any]
# A picture smaller than this may be too small for an encoder's strides; it is then extended to this many pixels.
_LEAST = 128
# Values of an input from which on freed memory is returned to the system between its bands.
_LARGE = 3 << 22
# What a picture can fail with: reading, decoding, the network, memory.
TROUBLES = (ValueError, OSError, RuntimeError, MemoryError)


class Segmenter:
    """A trained network, its preprocessing and its classes. Made by :func:`pipa.load`.

    >>> segmenter = pipa.load("work/pipa/iter_60000.pth")  # doctest: +SKIP
    >>> prediction = segmenter.predict("photo.jpg")  # doctest: +SKIP
    >>> prediction.label_hw.shape, prediction.classes[prediction.label_hw[0, 0]]  # doctest: +SKIP

    Attributes:
        network: the network (:class:`pipa.inference.network.Network`).
        classes, palette: names and RGB colours in the order of the label ids.
        opener: opens a checkpoint as :func:`pipa.load` does; :mod:`pipa.loading`, which stands above, sets it.
    """

    opener: ClassVar[Callable[..., Segmenter]]

    def __init__(self, network: Network) -> None:
        self.network = network

    @property
    def classes(self) -> tuple[str, ...]:
        return self.network.classes

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return self.network.palette

    def predict(
        self,
        source: Source | Sequence[Source],
        *,
        batch_size: int = 1,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        window: Window | None = None,
    ) -> Any:
        """Segment one picture, several, or all of a folder.

        Args:
            source: a file, a folder (searched through; hidden files are passed over), a PIL image, an array uint8
                ``(H, W, 3)`` RGB, ``(H, W)`` grey or ``(H, W, 4)`` with alpha (which is dropped), or several of these.
            batch_size: pictures in one pass, where neighbours have one size.
            flip: also look at the mirrored picture; the probabilities are averaged.
            scales: also look at resized inputs; 1 is the preprocessing's own size. Averaged as `flip`.
            window: slide with this window instead of the network's own way; bounds the memory of large pictures.

        Returns:
            A :class:`Prediction` for one picture, a list of them for a sequence or a folder.

        Raises:
            ValueError, OSError: no picture, or a file that cannot be read; the message names it.
        """
        options: dict[str, Any] = {"flip": flip, "scales": scales, "window": window}
        if isinstance(source, (str, Path)) and Path(source).is_dir():
            return list(self.stream(list_images(Path(source)), batch_size=batch_size, **options))
        if isinstance(source, Sequence) and not isinstance(source, str):
            return list(self.stream(source, batch_size=batch_size, **options))
        return next(self.stream([source], **options))

    @torch.inference_mode()
    def stream(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int = 1,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        window: Window | None = None,
        on_error: Callable[[Source, Exception], None] | None = None,
    ) -> Iterator[Prediction]:
        """As :meth:`predict`, one picture after the other, for folders and videos that do not fit into memory.

        Args:
            on_error: told of each source that failed, and why; the others go on. None: the first failure is raised.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        if len(scales) == 0 or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales: expected positive factors, got {tuple(scales)}")
        if window is not None and not isinstance(window, Window):
            raise TypeError(
                f"window: expected pipa.inference.Window(crop=(height, width), stride=(height, width)), got {window!r}"
            )
        waiting: list[tuple[Source, Prepared]] = []

        def done() -> Iterator[Prediction]:
            batches = [waiting] if len(waiting) == 1 or on_error is None else [waiting, *([one] for one in waiting)]
            for batch in batches:
                try:
                    yield from list(self._decide([item for _, item in batch], flip, scales, window))
                except TROUBLES as error:
                    if on_error is None:
                        raise
                    if len(batch) == 1:
                        on_error(batch[0][0], error)
                else:
                    if len(batch) == len(waiting):
                        break  # else one picture has failed its batch: each by itself
            waiting.clear()

        for source in sources:
            try:
                prepared = self.prepare(source)
            except TROUBLES as error:
                if on_error is None:
                    raise
                on_error(source, error)
                continue
            if waiting and not _alike(waiting[0][1], prepared):
                yield from done()
            waiting.append((source, prepared))
            if len(waiting) == batch_size:
                yield from done()
        if waiting:
            yield from done()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``model.safetensors``, ``config.json`` and a model card ``README.md`` into a folder, which is made.

        Raises:
            ImportError: the package safetensors is missing. FileExistsError: another README.md is there.
        """
        write_folder(Path(folder), self.network.state_dict(), self.network.description())
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device | None = None) -> Segmenter:
        """What :meth:`save_pretrained` wrote; the same as ``pipa.load(folder)``."""
        if not (Path(folder) / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder}: expected a folder with {WEIGHTS}, as save_pretrained writes one")
        return cls.opener(folder, device=device)

    def prepare(self, source: Source) -> Prepared:
        """What the network sees of a picture, and the picture."""
        if isinstance(source, (str, Path)):
            return self.network.prepare(Path(source))
        return self.network.prepare(pixels_of(source))

    @torch.inference_mode()
    def logits(self, source: Source, window: Window | None = None) -> Tensor:
        """Logits ``(C, h, w)`` on the host, at the size of the network's input and without its padding."""
        prepared = self.prepare(source)
        rows = [band for _, band in self._bands([prepared], prepared.inputs, window or self.network.window)]
        return unpadded(torch.cat(rows, 2)[0], prepared)

    @torch.inference_mode()
    def pieces(self, prepared: Prepared) -> Iterator[tuple[Tensor, npt.NDArray[Any]]]:
        """What a prediction decides on, from top to bottom: logits ``(C, h, w)`` at the input's size and the labels of
        those rows, at the picture's size. One piece where the two sizes differ."""
        parts = self._bands([prepared], prepared.inputs, self.network.window)
        if _direct(prepared):
            for _, band in parts:
                yield band[0], self._one(prepared, band[0], tuple(band.shape[2:]))[0]
        else:
            whole = torch.cat([band for _, band in parts], 2)[0]
            yield unpadded(whole, prepared), self._one(prepared, whole)[0]

    def _decide(
        self, items: list[Prepared], flip: bool, scales: Sequence[float], window: Window | None
    ) -> Iterator[Prediction]:
        window = window or self.network.window
        inputs = torch.cat([item.inputs for item in items]) if len(items) > 1 else items[0].inputs
        if inputs.numel() > _LARGE:
            give_back()  # what preparing it took
        if flip or tuple(scales) != (1.0,):
            whole = self._averaged(items, inputs, flip, scales, window)
            results = [self._one(item, whole[i]) for i, item in enumerate(items)]
        elif all(_direct(item) for item in items):
            results = self._by_bands(items, self._bands(items, inputs, window))
        else:
            whole = torch.cat([band for _, band in self._bands(items, inputs, window)], 2)
            results = [self._one(item, whole[i]) for i, item in enumerate(items)]
        for item, (label, confidence) in zip(items, results, strict=True):
            yield Prediction(label, confidence, self.classes, self.palette, item.image_hwc, item.path)

    def _bands(self, items: list[Prepared], inputs: Tensor, window: Window | None) -> Iterator[tuple[int, Tensor]]:
        meta = [item.meta for item in items]
        if window is None:
            yield 0, self.one_pass(inputs, meta, whole=True)
            return
        yield from bands(inputs, window, lambda crop: self.one_pass(crop, meta, whole=False))

    def one_pass(self, inputs: Tensor, meta: list[dict[str, Any]], whole: bool) -> Tensor:
        """One pass; a picture too small for the encoder is extended by its border."""
        height, width = inputs.shape[2:]
        if not whole:
            meta = [{**meta[0], "img_shape": inputs.shape[2:]}] * inputs.shape[0]
        try:
            return self.network.logits(inputs, meta)
        except (RuntimeError, ValueError, ZeroDivisionError):
            if min(height, width) >= _LEAST:
                raise
        padded = pad(inputs, (0, max(_LEAST - width, 0), 0, max(_LEAST - height, 0)), mode="replicate")
        meta = [{**meta[0], "img_shape": padded.shape[2:]}] * padded.shape[0]
        return self.network.logits(padded, meta)[:, :, :height, :width]

    def _by_bands(
        self, items: list[Prepared], parts: Iterator[tuple[int, Tensor]]
    ) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.float32]]]:
        """Labels of pictures that are as large as the input: each band is decided as soon as it is there."""
        rows: list[list[tuple[Any, Any]]] = [[] for _ in items]
        for _, band in parts:
            for i, item in enumerate(items):
                rows[i].append(self._one(item, band[i], tuple(band.shape[2:])))
            if items[0].inputs.numel() > _LARGE:
                del band
                give_back()
        return [(np.concatenate([r[0] for r in some]), np.concatenate([r[1] for r in some])) for some in rows]

    def _one(
        self, item: Prepared, logits_chw: Tensor, size: tuple[int, ...] | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        if size is None:
            logits_chw, size = unpadded(logits_chw, item), item.extended or item.image_hwc.shape[:2]
        try:
            label, confidence = decide(logits_chw, size, self.network.align_corners, self.network.threshold)
        except NotFiniteError as error:
            raise NotFiniteError(f"{item.path}: {error}" if item.path else str(error)) from None
        if item.extended is not None:
            height, width = item.image_hwc.shape[:2]
            label, confidence = label[:height, :width], confidence[:height, :width]
        return label.cpu().numpy(), confidence.cpu().numpy()

    def _averaged(
        self, items: list[Prepared], inputs: Tensor, flip: bool, scales: Sequence[float], window: Window | None
    ) -> Tensor:
        """Logarithms of the probabilities averaged over views, ``(B, C, h, w)`` at the input's size, on the host."""
        height, width = inputs.shape[2:]
        # Summed as logarithms: a network that is sure has probabilities of exactly 0 and 1, whose own are infinite.
        chosen: Tensor | None = None
        others: Tensor | None = None  # of a single logit, the probability that it is not so
        for scale in scales:
            size = (max(round(height * scale), 1), max(round(width * scale), 1))
            view = inputs if size == (height, width) else interpolate(inputs, size, mode="bilinear")
            for mirrored in (False, True) if flip else (False,):
                seen = view.flip(3) if mirrored else view
                sized = [Prepared(i.inputs, i.image_hwc, meta={**i.meta, "img_shape": seen.shape[2:]}) for i in items]
                logits = torch.cat([band.cpu() for _, band in self._bands(sized, seen, window)], 2)
                if logits.shape[2:] != (height, width):
                    logits = interpolate(
                        logits, (height, width), mode="bilinear", align_corners=self.network.align_corners
                    )
                logits = logits.flip(3) if mirrored else logits
                if logits.shape[1] > 1:
                    chosen = _added(chosen, logits.log_softmax(1))
                else:
                    chosen, others = _added(chosen, logsigmoid(logits)), _added(others, logsigmoid(-logits))
        assert chosen is not None  # there is at least one scale
        # A single logit is the difference of two logarithms; of the mean, the count of the views falls out of it.
        return chosen - math.log(len(scales) * (2 if flip else 1)) if others is None else chosen - others


def _added(total: Tensor | None, logarithm: Tensor) -> Tensor:
    """Logarithm of a sum of probabilities and one more."""
    return logarithm if total is None else torch.logaddexp(total, logarithm)


def pixels_of(image: Any) -> npt.NDArray[np.uint8]:
    """uint8 RGB ``(H, W, 3)`` of a PIL image, by the rules for files, or of an array."""
    if isinstance(image, Image.Image):
        try:
            image.load()  # opened, it may be unread
        except OSError as error:
            raise ValueError(f"image: truncated or corrupt ({error})") from None
        return np.array(rgb_of(image, "image"))
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: expected a path, a PIL image or an array, got {type(image).__name__}")
    if image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 values 0..255, got {image.dtype}")
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise ValueError(f"image: expected shape (H, W), (H, W, 3) RGB or (H, W, 4), got {image.shape}")
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3])


def _alike(one: Prepared, other: Prepared) -> bool:
    return one.inputs.shape == other.inputs.shape


def _direct(item: Prepared) -> bool:
    """Is the network's input pixel for pixel the picture?"""
    return not any(item.padding) and item.flip is None and item.inputs.shape[2:] == item.image_hwc.shape[:2]


def unpadded(logits_chw: Tensor, item: Prepared) -> Tensor:
    """Logits of the prepared picture without padding, not mirrored."""
    left, right, top, bottom = item.padding
    height, width = logits_chw.shape[1:]
    inner = logits_chw[:, top : height - bottom, left : width - right]
    if item.flip is not None:
        inner = inner.flip(2 if item.flip == "horizontal" else 1)
    return inner
