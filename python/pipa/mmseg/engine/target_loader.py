"""The loader of the target's images, beside the runner's own of the source."""

from __future__ import annotations

import copy
import logging
from typing import Any

from mmengine.runner import Runner

from pipa.mmseg.datasets.soft_labels import add_soft_labels
from pipa.mmseg.datasets.target_pipeline import as_target
from pipa.mmseg.engine.stop_signals import isolate


def build_target_loader(config: dict[str, Any], seed: int, soft_labels: str | None) -> Any:
    """A loader that never opens a label; with `soft_labels`, a folder, each image brings its stored ones."""
    config = copy.deepcopy(config)
    if soft_labels is not None:
        add_soft_labels(config, str(soft_labels))
    loader = Runner.build_dataloader(config, seed=seed, diff_rank_seed=False)
    as_target(loader.dataset)
    isolate(loader)
    return loader


def check_loaders(source: Any, target: Any, logger: logging.Logger) -> None:
    """Refuse batches of different size; warn of a sampler that cannot go on where it was.

    Raises:
        ValueError: the batch sizes.
    """
    if source.batch_size != target.batch_size:
        raise ValueError(
            "PipaHook: train_dataloader and target_dataloader must have one batch_size, "
            f"got {source.batch_size} and {target.batch_size}"
        )
    if not hasattr(target.sampler, "skip"):
        logger.warning(
            "PipaHook: target_dataloader's sampler cannot skip, so a resumed run repeats its data slowly; "
            "use sampler=dict(type='DrawSampler', stream=1)"
        )
