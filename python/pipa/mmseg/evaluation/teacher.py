"""Evaluation of a second model (the teacher) with the runner's own validation loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.runner import Runner
from mmengine.runner.amp import autocast


def evaluate(runner: Runner, model: Any) -> dict[str, float]:
    """Metrics of ``model`` on the validation data, by the configured evaluator. Its training mode is restored."""
    loop = runner.val_loop
    for _ in processed(model, loop):
        pass
    return loop.evaluator.evaluate(len(loop.dataloader.dataset))


def processed(model: Any, loop: Any) -> Iterator[Any]:
    """Predictions of each batch of a loop, which its evaluator has seen. The model's training mode is restored."""
    training = model.training
    model.eval()
    try:
        for batch in loop.dataloader:
            with torch.no_grad(), autocast(enabled=getattr(loop, "fp16", False)):
                outputs = model.val_step(batch)
            loop.evaluator.process(data_samples=outputs, data_batch=batch)
            yield outputs
    finally:
        model.train(training)
