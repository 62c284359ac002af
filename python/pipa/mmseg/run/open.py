"""A checkpoint, whoever wrote it, as a :class:`pipa.inference.Segmenter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import pipa.mmseg  # noqa: F401  (registers)
from pipa.inference.export.earlier import WHICH
from pipa.inference.memory import give_back
from pipa.inference.segmenter import Segmenter
from pipa.mmseg.checkpoints import description as described
from pipa.mmseg.checkpoints.config_text import read_config_text
from pipa.mmseg.checkpoints.weights import Weights, choose, held
from pipa.mmseg.run.checkpoint_file import read_named
from pipa.mmseg.run.network import build
from pipa.mmseg.run.train import load_config


def open_segmenter(
    checkpoint: str | Path,
    config: Any = None,
    weights: Weights = "auto",
    device: str | torch.device | None = None,
) -> Segmenter:
    """See :func:`pipa.load`."""
    content = read_named(checkpoint)
    segmenter = segmenter_of(content, str(checkpoint), config, weights, device)
    del content  # holds every weight, and those of the other network, once more
    give_back()
    return segmenter


def segmenter_of(
    content: dict[str, Any],
    where: str,
    config: Any = None,
    weights: Weights = "auto",
    device: str | torch.device | None = None,
) -> Segmenter:
    """The student or the teacher of a checkpoint that was read already."""
    description = {**description_of(content, where, config), WHICH: held(content, weights)}
    return Segmenter(build(description, choose(content, where, weights), where, device))


def description_of(content: dict[str, Any], where: str, config: Any = None) -> described.Description:
    """How the network of a checkpoint is built: as the config says, else as the file says."""
    meta = content.get("meta") or {}
    if config is not None:
        config = load_config(config) if isinstance(config, (str, Path)) else config
        return described.describe(config, meta.get("dataset_meta"))
    if described.KEY in meta:
        return described.check(meta[described.KEY], where)
    # A training without our checkpoint hook: mmengine's own file keeps the config as text.
    settings = read_config_text(str(meta.get("cfg", "")))
    if settings and settings.get("model"):
        return described.check(described.describe(settings, meta.get("dataset_meta")), where)
    raise ValueError(f"{where}: does not say how its network is built; give the config it was trained with")
