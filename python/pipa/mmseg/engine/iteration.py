"""One iteration of `PipaHook`'s training: both batches, the step, gradients of all processes, the optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from pipa._core import NonFiniteError
from pipa.gradient_exchange import average
from pipa.group import Group, PeerNonFiniteError
from pipa.mmseg.datasets.soft_labels import log_probabilities
from pipa.mmseg.engine.network_options import Tuning
from pipa.mmseg.engine.nonfinite_guard import NonFiniteGuard
from pipa.mmseg.engine.seeding import seed_iteration
from pipa.mmseg.engine.start_checks import need_labels
from pipa.mmseg.engine.valid_mask import valid_mask
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks
from pipa.step import PipaStep


class Iteration:
    """What stands in for the model's ``train_step``.

    Args:
        pipa: the step; its losses come back through :meth:`backward`.
        target: iterator of the target's batches.
        guard: what becomes of an iteration that is not finite.
        tuning: how images are laid out in memory.
        crops: generator of draws that all processes share, seeded anew for each iteration.
        group: the processes of the training, None for one.
        gradient_interval, check_interval: see PipaHook.

    Attributes:
        ran: an iteration has run since the hook last looked.
    """

    def __init__(
        self,
        pipa: PipaStep,
        target: Iterator[Any],
        guard: NonFiniteGuard,
        tuning: Tuning,
        crops: torch.Generator,
        group: Group | None,
        *,
        gradient_interval: int,
        check_interval: int,
    ) -> None:
        self.pipa, self.target, self.guard, self.tuning = pipa, target, guard, tuning
        self._crops, self._group = crops, group
        self.gradient_interval, self.check_interval = gradient_interval, check_interval
        self.ran = False

    def backward(self, loss: Tensor) -> None:
        self._wrapper.backward(loss)
        # A gradient scaler makes infinities on purpose, and handles them.
        if self._check and not hasattr(self._wrapper, "loss_scaler"):
            self.guard.after_backward(self._core, self._number)

    def run(self, runner: Runner, core: Any, data: dict[str, Any], optim_wrapper: Any) -> dict[str, Tensor]:
        """One iteration with the optimiser's step; returns the scalars for mmengine's log."""
        self._wrapper, self._core, self._number, self.ran = optim_wrapper, core, runner.iter, True
        target = next(self.target)
        # After both loaders: making a loader's iterator draws from torch's generator, and a resume makes a new one.
        self._crops.manual_seed(seed_iteration(self.pipa, runner.seed, runner.iter))
        source = core.data_preprocessor(data, True)
        target = core.data_preprocessor(target, True)
        gradients = self.gradient_interval > 0 and (runner.iter + 1) % self.gradient_interval == 0
        due = self.check_interval > 0 and (runner.iter + 1) % self.check_interval == 0
        self._check = due or source["inputs"].device.type == "cpu"
        need_labels(source["data_samples"])
        batch = {
            "source": self.tuning.image(source["inputs"]),
            "source_label": torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in source["data_samples"]]),
            "target": self.tuning.image(target["inputs"]),
            "valid_mask": valid_mask(target["data_samples"], target["inputs"].device),
            "initial_logits": log_probabilities(target["data_samples"], target["inputs"].device),
        }
        networks = self.pipa.networks
        assert isinstance(networks, SegmentorNetworks)
        networks.samples = source["data_samples"]
        self.guard.begin(core, self.pipa)
        group, error, failed = self.pipa.group, None, False
        log: dict[str, Tensor] = {}
        try:
            with optim_wrapper.optim_context(core):
                log = self.pipa(**batch, log_gradients=gradients, check_finite=self._check)
        except PeerNonFiniteError:
            failed = True
        except NonFiniteError as found:
            failed = True
            files = [str(s.metainfo.get("img_path")) for s in (*source["data_samples"], *target["data_samples"])]
            error = self.guard.failed(runner, self.pipa, found, batch, files)
        if group is None:
            failures = average(core, self.pipa.teacher, failed, self._group)
            # Reading the count waits for the device; a process can only have failed where it has looked.
            failed = failed or (self._check and failures is not None and bool(failures > 0))
        elif failed:
            group.meet("barrier")  # all know; the one that failed has kept its batch before another ends the run
        else:
            average(core, self.pipa.teacher, False, group)
        if failed:
            optim_wrapper.zero_grad()
            self.guard.drop(runner, self.pipa, error)
            return {"skipped_iterations": torch.tensor(float(self.guard.skipped))}
        self.guard.good()
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return log
