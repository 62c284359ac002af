"""One training of a study, and what is kept of it."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.runner import Runner
from torch import Tensor

from pipa._core import __version__
from pipa.files.atomic import write_text
from pipa.files.numbered import numbered
from pipa.mmseg.datasets.samplers import DrawSampler
from pipa.mmseg.engine.pipa_hook import PipaHook
from pipa.mmseg.engine.repeatable import read_lines, read_progress, seed_all
from pipa.mmseg.engine.whole_start import WholeStart
from pipa.mmseg.engine.work_folder import EVALUATIONS, LOG
from pipa.mmseg.evaluation.embeddings import ClassMeans, class_means, layout
from pipa.mmseg.evaluation.groups import areas_by_group
from pipa.mmseg.models.segmentors.step_adapter import backbone_features, core_model
from pipa.mmseg.run.study_config import configure, digest, threshold_of
from pipa.mmseg.run.train import train

CONFIG = "config.sha256"
"""In a run's folder: digest of the config that its checkpoints were trained with."""


def run_once(
    run: Mapping[str, Any],
    folder: Path,
    test: bool = False,
    weights: str | None = None,
    data_root: str | None = None,
    like: str | None = None,
) -> dict[str, Any] | None:
    """Train from the newest checkpoint in ``folder``, or from the start.

    Args:
        run: as for :func:`configure`.
        test: at the end, and only then, look at ``test_dataloader`` too, with student and teacher.
        weights: checkpoint that the start takes its weights from; those of the config if None.
        data_root: as for :func:`configure`.
        like: digest of the config of the method's finished runs, where the config is a file of one's own.

    Returns:
        Evaluations, log, areas on the test data and versions; None where a signal ended the training before its last
        iteration.

    Raises:
        ValueError: the config file has changed since the folder's checkpoints, or since the method's finished runs.
    """
    config = configure(run, folder, data_root)
    resume = bool(numbered(folder))
    made = digest(config)
    check_config(run, folder, made, like, resume)
    config.resume = resume  # whatever the config says
    if weights is not None:
        config.load_from = weights
    if resume:  # else mmengine would resume from the file that the training only starts from
        config.load_from = None
    if config.get("load_from") is not None:
        config.custom_hooks = [*config.custom_hooks, {"type": WholeStart.__name__}]
    runner = train(config, resume=resume, threads=1 if not torch.cuda.is_available() else None)
    if runner.iter < runner.max_iters:
        return None
    return {
        "config": made,
        "threshold": threshold_of(config),
        "embedding": embedding(runner),
        "evaluations": read_lines(folder / EVALUATIONS),
        "log": read_lines(folder / LOG),
        "test": final_test(runner) if test else None,
        "classes": list(runner.val_dataloader.dataset.metainfo["classes"]),
        "seconds": read_progress(folder)["seconds"],
        "versions": versions(),
    }


def check_config(run: Mapping[str, Any], folder: Path, made: str, like: str | None, resume: bool) -> None:
    """Refuse to go on from, or to average with, trainings of a file of one's own that said something else.

    Shipped configs change with the version of the package alone, which results.json names.
    """
    if Path(run["config"]).suffix:
        written = folder / CONFIG
        before = written.read_text().strip() if resume and written.is_file() else made
        for other, what in ((before, f"the checkpoints in {folder}"), (like, f"finished runs of {run['method']!r}")):
            if other not in (None, made):
                raise ValueError(
                    f"{run['config']}: expected the config that {what} were trained with, got another; undo the "
                    "change, or give it a name and a method of its own"
                )
    write_text(folder / CONFIG, made + "\n")


@torch.no_grad()
def embedding(runner: Runner, batches: int = 16) -> dict[str, float]:
    """Layout of classes and domains in the student's encoder: on training crops of the source, and on validation data.

    A training on target labels has the target on both sides.

    Args:
        batches: of training crops; validation images are taken whole, all of them.
    """
    core = core_model(runner)
    training = core.training
    core.eval()

    def pairs(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            data = core.data_preprocessor(batch, False)
            yield data["inputs"], torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data["data_samples"]])

    def means(loader: Iterable[Any]) -> ClassMeans:
        return class_means(pairs(loader), partial(backbone_features, core), classes)

    classes = len(runner.val_dataloader.dataset.metainfo["classes"])
    seed_all(runner.seed, 0, runner.max_iters)
    sampler = runner.train_dataloader.sampler
    if isinstance(sampler, DrawSampler):
        sampler.skip(0)  # the first draws, wherever this process began
    try:
        source = means(itertools.islice(runner.train_dataloader, batches))
        return layout(source, means(runner.val_dataloader))
    finally:
        core.train(training)


def final_test(runner: Runner) -> dict[str, Any]:
    """Areas by drive on the test data, of the student and of the teacher where there is one."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, PipaHook)), None)
    models = {"student": runner.model}
    if hook is not None and hook.pipa is not None:
        models["teacher"] = hook.pipa.teacher
    return {name: areas_by_group(model, runner.test_loop) for name, model in models.items()}


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    own = {"pipa": __version__, "torch": torch.__version__, "numpy": np.__version__}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {**own, "python": platform.python_version(), "device": device}
