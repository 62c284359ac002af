"""Evaluation of a second model (the teacher) with the runner's own validation loop."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.runner import Runner
from mmengine.runner.amp import autocast


@torch.no_grad()
def evaluate(runner: Runner, model: Any) -> dict[str, float]:
    """Metrics of ``model`` on the validation data, by the configured evaluator. Its training mode is restored."""
    loop = runner.val_loop
    training = model.training
    model.eval()
    try:
        for batch in loop.dataloader:
            with autocast(enabled=getattr(loop, "fp16", False)):
                outputs = model.val_step(batch)
            loop.evaluator.process(data_samples=outputs, data_batch=batch)
        return loop.evaluator.evaluate(len(loop.dataloader.dataset))
    finally:
        model.train(training)
