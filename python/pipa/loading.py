"""`pipa.load`: from a file to a network that predicts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipa.inference import Segmenter

if TYPE_CHECKING:
    import torch

__all__ = ["load"]


def load(
    checkpoint: str | Path,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    weights: Literal["auto", "student", "teacher"] = "auto",
    device: str | torch.device | None = None,
) -> Segmenter:
    """A trained network, ready to predict. Files are read as tensors and plain values, never as code.

    Args:
        checkpoint: a checkpoint of a training, an exported ``.pth`` or ``.safetensors``, a converted or released
            checkpoint of DAFormer, HRDA, MIC or PiPa.
        config: for a checkpoint that does not carry its network: a config's file, a shipped config's name, or a config
            as mmengine reads it.
        weights: ``"student"``, ``"teacher"`` (the moving average, usually the better one), or ``"auto"``: what the
            file holds as its main weights, the student in a checkpoint of a training. `pipa test` does the same.
        device: where the network runs; None: the accelerator, where there is one.

    Returns:
        A :class:`pipa.inference.Segmenter`.

    Raises:
        ValueError: the file is no checkpoint, does not fit, or holds no such weights. FileNotFoundError: no such file.
        ImportError: the extra ``pipa-rs[mmseg]`` is not installed.

    >>> segmenter = pipa.load("work/pipa/iter_60000.pth", weights="teacher")  # doctest: +SKIP
    >>> segmenter.predict("photo.jpg").overlay()  # doctest: +SKIP
    """
    # The networks are those of the optional extra, which stands above this module.
    opened = importlib.import_module("pipa.mmseg.run.open")
    return opened.open_segmenter(checkpoint, config, weights, device)


Segmenter.opener = load
