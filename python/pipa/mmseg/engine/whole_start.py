"""`WholeStart`: a training starts from a checkpoint of the whole network, or not at all."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pipa.mmseg.checkpoints.resume import lacking
from pipa.mmseg.engine.pipa_state import HEADS
from pipa.mmseg.mmengine_compat import is_resuming, is_training, start_file
from pipa.mmseg.models.segmentors.step_adapter import core_model


@HOOKS.register_module()
class WholeStart(Hook):
    """Refuses a ``load_from`` that lacks a weight of the network, which without this keeps its first value.

    Projection heads need not be there: a training without PipaHook has none.

    >>> from mmseg.registry import HOOKS
    >>> import pipa.mmseg
    >>> HOOKS.build(dict(type="WholeStart")).priority  # in a config: custom_hooks=[dict(...)]
    'NORMAL'
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare names and shapes.

        Raises:
            ValueError: names the file and the first weight that it lacks.
        """
        if not is_training(runner) or is_resuming(runner):
            return
        state = checkpoint.get("state_dict", checkpoint)
        missing, count = lacking(core_model(runner), state, but=(f"{HEADS}.",))
        if missing:
            raise ValueError(
                f"{start_file(runner)}: expected all {count} weights of the network to start from, got "
                f"{count - len(missing)}; the first that is missing or has another shape is {missing[0]}"
            )
