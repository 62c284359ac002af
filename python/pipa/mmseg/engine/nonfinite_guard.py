"""NaN guard: finds the pass that made a NaN or an infinity, keeps its batch, and stops the training or skips it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner
from torch import Tensor, nn

from pipa._core import NonFiniteError
from pipa.files.atomic import save
from pipa.gradient_exchange import restore, snapshot
from pipa.settings import NonFinite
from pipa.step import MEMORIES, PipaStep

# Batches kept per run: a diverged training fails at every iteration, and must not fill the disk with the same news.
MAX_DUMPS = 5


class NonFiniteGuard:
    """Policy for iterations whose losses or gradients are not finite.

    Args:
        policy: ``"stop"``: raise NonFiniteError on every process; no parameter has been changed by the iteration.
            ``"skip"``: drop the iteration's gradients on every process and go on.
        limit: with ``"skip"``, so many iterations in a row stop the training all the same.

    Attributes:
        skipped: iterations dropped so far. in_a_row: of these, the last ones without a good one between.
    """

    def __init__(self, policy: NonFinite, limit: int) -> None:
        if policy not in get_args(NonFinite):
            raise ValueError(f"nonfinite: expected 'stop' or 'skip', got {policy!r}")
        if limit < 1:
            raise ValueError(f"nonfinite_limit: expected 1 or more, got {limit}")
        self.policy, self.limit = policy, limit
        self.skipped = self.in_a_row = self.dumps = 0
        self._saved: list[tuple[Tensor, Tensor]] = []
        self._memories: dict[str, Any] = {}
        self._passes: list[str] = []

    def begin(self, core: nn.Module, step: PipaStep) -> None:
        """Before an iteration: remember what a bad batch would spoil although its gradients are dropped."""
        self._passes = _passes(step)
        if self.policy == "skip":
            # Running statistics of norms and the memories are written during the forward pass.
            self._saved = snapshot([*core.buffers(), *step.teacher.buffers()])
            self._memories = {name: copied(getattr(step._native, name)) for name in MEMORIES}

    def after_backward(self, core: nn.Module, iteration: int) -> None:
        """After each backward pass: refuse gradients that are not finite.

        Raises:
            NonFiniteError: names the pass and the first parameters.
        """
        name = self._passes.pop(0) if self._passes else "last"
        named = [(n, p.grad) for n, p in core.named_parameters() if p.grad is not None]
        if not named:
            return
        grads = [g for _, g in named]
        # On the CPU a maximum takes ten times as long as a sum of squares, which is only wrong about huge gradients.
        if bool(torch.stack(torch._foreach_norm(grads, 2)).isfinite().all()):
            return
        largest = torch.stack(torch._foreach_norm(grads, float("inf")))
        if bool(largest.isfinite().all()):
            return
        bad = [n for (n, _), value in zip(named, largest.tolist(), strict=True) if not abs(value) < float("inf")]
        raise NonFiniteError(
            f"iteration {iteration}: the backward pass of {name} gave gradients that are not finite, in {len(bad)} of "
            f"{len(named)} parameters, e.g. {', '.join(bad[:3])}; no parameter was changed by it"
        )

    def failed(
        self, runner: Runner, step: PipaStep, error: NonFiniteError, batch: dict[str, Tensor | None], files: list[str]
    ) -> NonFiniteError:
        """Keep the batch and make an error that says which images it held."""
        text = f"{error}; images: {', '.join(files)}"
        if self.dumps < MAX_DUMPS:
            self.dumps += 1
            rank = f"_rank{get_rank()}" if get_rank() else ""
            path = Path(runner.work_dir) / f"nonfinite_iter_{runner.iter}{rank}.pt"
            content = {
                **{name: None if value is None else value.detach().cpu() for name, value in batch.items()},
                "files": files,
                "message": str(error),
                "iteration": runner.iter,
                "seed": runner.seed,
                "rank": get_rank(),
                "world_size": get_world_size(),
                "settings": json.dumps(step.settings),
            }
            try:
                save(content, path)
                text += f"; the batch is kept in {path}"
            except OSError as problem:  # the error itself matters more than its dump
                text += f"; the batch could not be kept ({problem})"
        return NonFiniteError(text)

    def good(self) -> None:
        """After a good iteration."""
        self.in_a_row = 0
        self._saved, self._memories = [], {}

    def drop(self, runner: Runner, step: PipaStep, error: NonFiniteError | None) -> None:
        """End an iteration that failed on this process (error) or on another one (None).

        Raises:
            NonFiniteError: policy ``"stop"``, or too many in a row.
        """
        error = error or NonFiniteError(f"iteration {runner.iter}: not finite on another process, see its message")
        if self.policy == "stop":
            raise error
        self.skipped += 1
        self.in_a_row += 1
        restore(self._saved)
        for name, memory in self._memories.items():
            setattr(step._native, name, memory)
        # The iteration counts: the teacher's decay, the warm-up and the draws go on as on every other process.
        step._native.iteration = runner.iter + 1
        if self.in_a_row >= self.limit:
            raise NonFiniteError(f"{self.in_a_row} iterations in a row were skipped, the last one because of: {error}")
        runner.logger.warning(f"skipped an iteration ({self.skipped} so far): {error}")


def copied(memory: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    """The tensors of a memory in storage of their own."""
    return None if memory is None else tuple(tensor.clone() for tensor in memory)


def _passes(step: PipaStep) -> list[str]:
    """Names of the backward passes of the coming iteration, in order."""
    s = step.settings
    source = ["source", *(n for n in ("pixel", "distribution", "feature_distance") if s[f"{n}_weight"] > 0)]
    names = [" + ".join(source)]
    on = {
        "mix": s["mix_weight"] > 0,
        "patch": s["patch_weight"] > 0 and step.iteration >= s["patch_warmup"],
        "mask": s["mask_weight"] > 0,
        "target": any(s[f"{n}_weight"] > 0 for n in ("target", "structure", "regularizer", "distillation")),
    }
    return names + [name for name, used in on.items() if used]
