"""`SafeCheckpointHook`: checkpoints that survive kills, full disks and signals.

    default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook", by_epoch=False, interval=2000, max_keep_ckpts=2))

A checkpoint is written beside its place, synced, read back against its checksums, then renamed; only then are
``last_checkpoint`` and the number of kept checkpoints brought up to date. ``resume=True`` takes the one that
``last_checkpoint`` names, or the newest whole one before it. SIGTERM and SIGINT save after the running iteration and
end the training.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pipa.files.atomic import DamagedFile, remove_parts, verify, write
from pipa.files.numbered import numbered
from pipa.files.torch_file import CheckpointError, plain
from pipa.mmseg.checkpoints.description import describe_in
from pipa.mmseg.checkpoints.resume import RECORD, check_fit, compare, follow_config, own_settings, record
from pipa.mmseg.checkpoints.safe_load import allowed
from pipa.mmseg.engine.safe_backend import BACKEND, SafeBackend
from pipa.mmseg.engine.stop_signals import StopSignals, isolate
from pipa.mmseg.engine.work_folder import POINTER, FolderLock, claim, to_resume
from pipa.mmseg.mmengine_compat import is_resuming, is_training, start_file, start_from


def _bare(model: Any) -> Any:
    return model.module if is_model_wrapper(model) else model


def _heads(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Weights of the projection heads, which PipaHook keeps apart from the network's."""
    own = checkpoint.get("pipa")
    heads = own.get("heads") if isinstance(own, dict) else None
    return {f"pipa_heads.{key}": value for key, value in (heads or {}).items()}


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook for local folders, with nothing left to chance.

    Args:
        handle_signals: save and stop on SIGTERM and SIGINT; a second signal ends the process at once.
        overwrite: a start from nothing removes the checkpoints that an earlier training left in the folder, and what
            :class:`pipa.mmseg.RepeatableHook` wrote; without it a folder with checkpoints is refused.
        everything else: as mmengine's CheckpointHook; ``by_epoch`` is False by default.

    Raises:
        CheckpointError: a checkpoint could not be saved (disk full, no permission), or none of the saved ones is whole.

    >>> from mmseg.registry import HOOKS
    >>> import pipa.mmseg
    >>> hook = HOOKS.build(dict(type="SafeCheckpointHook", interval=2000, max_keep_ckpts=2, save_best="mIoU"))
    >>> hook.by_epoch  # in a config: default_hooks=dict(checkpoint=dict(...))
    False
    """

    def __init__(
        self,
        *args: Any,
        by_epoch: bool = False,
        handle_signals: bool = True,
        overwrite: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("backend_args", {"backend": BACKEND})
        super().__init__(*args, by_epoch=by_epoch, **kwargs)
        self.signals = StopSignals() if handle_signals else None
        self.overwrite = overwrite
        self._saved_step: int | None = None
        self._lock: FolderLock | None = None
        self._settings: list[dict[str, Any]] | None = None

    # -- resuming ----------------------------------------------------------------------------------------------------

    def before_run(self, runner: Runner) -> None:
        if not is_training(runner):
            return
        answer: list[Any] = [None, None]
        if is_main_process():
            try:
                answer[0] = self._begin(runner)
            except CheckpointError as error:
                answer[1] = str(error)
        broadcast_object_list(answer)
        if answer[1] is not None:
            raise CheckpointError(answer[1])
        if not is_resuming(runner):
            return
        start_from(runner, answer[0])
        if answer[0] is None:
            runner.logger.warning(f"resume: no checkpoint in {self._folder(runner)}, starting from iteration 0")

    def _begin(self, runner: Runner) -> str | None:
        """Take the folder; the checkpoint to resume."""
        folder = self._folder(runner)
        try:
            self._lock = FolderLock(folder)
            self._lock.take()
        except OSError as error:
            raise CheckpointError(f"{folder}: checkpoints cannot be saved here ({error.strerror})") from None
        if is_resuming(runner):
            return self._checkpoint_to_resume(runner)
        claim(folder, self.filename_tmpl, self.overwrite, Path(runner.work_dir))
        return None

    def _folder(self, runner: Runner) -> Path:
        # mmengine puts checkpoints in work_dir, or in out_dir/NAME_OF_WORK_DIR.
        if self.out_dir is None or Path(self.out_dir) == Path(runner.work_dir):
            return Path(runner.work_dir)
        return Path(self.out_dir) / Path(runner.work_dir).name

    def _checkpoint_to_resume(self, runner: Runner) -> str | None:
        given = start_file(runner)
        if given is not None:
            if "://" not in given:
                try:
                    verify(given, allowed())
                except (DamagedFile, OSError) as error:
                    raise CheckpointError(f"resume: {error}; resume=True without load_from finds a whole one") from None
            return given
        damaged = []
        paths, remark = to_resume(self._folder(runner), self.filename_tmpl, Path(runner.work_dir))
        if remark:
            runner.logger.warning(f"resume: {remark}")
        for path in paths:
            try:
                verify(path, allowed())
            except (DamagedFile, OSError) as error:
                damaged.append(str(error))
                runner.logger.warning(f"resume: passed over {error}")
                continue
            return str(path)
        if damaged or remark:
            raise CheckpointError(f"resume: no checkpoint is whole: {'; '.join(damaged) or remark}")
        return None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        name = str(start_file(runner))
        state = checkpoint.get("state_dict", checkpoint)
        if not isinstance(state, dict):
            raise CheckpointError(
                f"{name}: expected a dictionary of weights under state_dict, got {type(state).__name__}"
            )
        training = is_training(runner)
        if training and is_resuming(runner):
            changed = compare(runner, checkpoint, name)
            self._settings = own_settings(runner.optim_wrapper) if changed else None
        if isinstance(checkpoint.get("meta"), dict):
            checkpoint["meta"].pop("config", None)  # mmengine would run it as a program
        if training:
            check_fit(_bare(runner.model), {**state, **_heads(checkpoint)}, name, runner.logger, is_resuming(runner))
        hub = checkpoint.get("message_hub")
        if hub is not None:
            hub["log_scalars"] = {
                name: HistoryBuffer(*value) if isinstance(value, (list, tuple)) else value
                for name, value in hub["log_scalars"].items()
            }

    # -- saving ------------------------------------------------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if self._settings is not None:
            follow_config(runner, self._settings)
            self._settings = None
        if not isinstance(self.file_backend, SafeBackend):
            raise ValueError(f"SafeCheckpointHook: {self.out_dir}: only local folders can be written safely")
        if is_main_process():
            remove_parts(self.out_dir, self.filename_tmpl.format("*"))
            self._check_writable(Path(self.out_dir))
        if self.signals is not None:
            self.signals.listen()
            for loader in (runner.train_dataloader, getattr(runner.val_loop, "dataloader", None)):
                isolate(loader)

    def _check_writable(self, folder: Path) -> None:
        probe = folder / ".writable"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(probe, lambda file: file.write(b"ok"))
            probe.unlink()
        except OSError as error:
            raise CheckpointError(f"{folder}: checkpoints cannot be saved here ({error.strerror})") from None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Plain values instead of mmengine's objects, so that nothing of the file asks for code; and what a prediction
        needs beside the weights."""
        describe_in(checkpoint, runner)
        hub = checkpoint["message_hub"]
        hub["log_scalars"] = {
            name: [part.tolist() for part in value.data] if isinstance(value, HistoryBuffer) else value
            for name, value in hub["log_scalars"].items()
        }
        checkpoint["meta"][RECORD] = record(runner.cfg.to_dict())
        for key in ("message_hub", "meta", "param_schedulers"):
            if key in checkpoint:
                checkpoint[key] = plain(checkpoint[key])

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        for hook in runner.hooks:  # states that differ between processes come to the one that saves
            if hasattr(hook, "gather_state"):
                hook.gather_state(runner)
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                old = self.keep_ckpt_ids.popleft()
                self.file_backend.remove(Path(self.out_dir) / self.filename_tmpl.format(old))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        self.last_ckpt = str(path)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        self._guarded(
            path,
            lambda: runner.save_checkpoint(
                self.out_dir,
                path.name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            ),
        )
        self._saved_step = step
        if is_main_process():
            pointer = Path(runner.work_dir) / POINTER
            self._guarded(pointer, lambda: write(pointer, lambda file: file.write(self.last_ckpt.encode())))
            self.file_backend.flush(keep=path)

    def _guarded(self, path: Path, action: Any) -> None:
        try:
            action()
        except (OSError, DamagedFile) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else error.reason
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            others = [p for p in numbered(path.parent, self.filename_tmpl) if p != path]
            good = f"the last good checkpoint is {others[0]}" if others else "there is no earlier checkpoint"
            hint = "free some space and resume" if full else "correct this and resume"
            raise CheckpointError(f"{path}: could not be saved ({reason}); {good}; {hint}") from error

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if not self.save_best or not is_training(runner):
            return  # nothing to keep, or a validation of its own
        folder = Path(self.out_dir)
        self._guarded(folder / "best", lambda: super(SafeCheckpointHook, self)._save_best_checkpoint(runner, metrics))
        best = [self.best_ckpt_path] if hasattr(self, "best_ckpt_path") else []
        best += list(getattr(self, "best_ckpt_path_dict", {}).values())
        if is_main_process() and any(best):
            self.file_backend.flush(keep=Path(next(path for path in best if path)))

    # -- signals -----------------------------------------------------------------------------------------------------

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        super().after_train_iter(runner, batch_idx, *args, **kwargs)
        self._stop_if_asked(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """A validation may take longer than a scheduler waits: save at once, then let it end."""
        if self.signals is not None and not self.by_epoch and self.signals.alone() and self._saved_step != runner.iter:
            self._save_checkpoint_with_step(runner, runner.iter, {"epoch": runner.epoch, "iter": runner.iter})

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any]) -> None:
        super().after_val_epoch(runner, metrics)
        self._stop_if_asked(runner, runner.iter)

    def _stop_if_asked(self, runner: Runner, done: int) -> None:
        if self.signals is None or not self.signals.agreed():
            return
        if self.by_epoch:
            runner.logger.warning("stopped by a signal in the middle of an epoch; the last epoch's checkpoint stays")
        elif self._saved_step != done:
            self._save_checkpoint_with_step(runner, done, {"epoch": runner.epoch, "iter": done})
        if done < runner.max_iters:
            runner.logger.warning(f"{self.signals.name}: saved {self.last_ckpt}; resume=True continues there")
        runner.train_loop.stop_training = True

    def after_train(self, runner: Runner) -> None:
        super().after_train(runner)
        if self._lock is not None:
            self._lock.release()
        if self.signals is not None:
            self.signals.ignore()
