"""A checkpoint, whoever wrote it, as a :class:`pipa.inference.Segmenter`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import pipa.mmseg  # noqa: F401  (registers)
from pipa.inference.segmenter import Segmenter
from pipa.mmseg.checkpoints import description as described
from pipa.mmseg.checkpoints.safe_load import load
from pipa.mmseg.checkpoints.weights import Weights, choose
from pipa.mmseg.run.network import build
from pipa.mmseg.run.train import load_config


def open_segmenter(
    checkpoint: str | Path,
    config: Any = None,
    weights: Weights = "auto",
    device: str | torch.device | None = None,
) -> Segmenter:
    """See :func:`pipa.load`."""
    content = load(checkpoint, map_location="cpu")
    where = str(checkpoint)
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: expected a dictionary, got {type(content).__name__}")
    meta = content.get("meta") or {}
    if config is not None:
        config = load_config(config) if isinstance(config, (str, Path)) else config
        description = described.describe(config, meta.get("dataset_meta"))
    elif described.KEY in meta:
        description = described.check(meta[described.KEY], where)
    else:
        raise ValueError(f"{where}: does not say how its network is built; give the config it was trained with")
    return Segmenter(build(description, choose(content, where, weights), where, device))
