"""`DataCheckHook`: the data sets of a training without `PipaHook` fit its network and each other."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pipa.environment import Finding
from pipa.mmseg.engine.start_checks import check_built, classes_of, refuse
from pipa.mmseg.mmengine_compat import is_training
from pipa.mmseg.models.segmentors.step_adapter import core_model, main_head


def data_findings(runner: Runner) -> list[Finding]:
    """What is wrong between the network and the data of training and validation; networks without a decode head too."""
    core = core_model(runner)
    head = main_head(core) if hasattr(core, "decode_head") else None
    return list(check_built(runner, core, head, classes_of(head)))


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Refuses data of another number or order of classes, or with another ignored id; `pipa train` adds it."""

    # Before hooks that change something.
    priority = "HIGHEST"

    def before_run(self, runner: Runner) -> None:
        """Compare.

        Raises:
            StartError: a ValueError that names the loader and what differs.
        """
        if is_training(runner):
            refuse(data_findings(runner))
