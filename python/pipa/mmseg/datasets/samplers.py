"""Samplers of draws, whose randomness is a pure function of (seed, stream, draw number); see draw.py.

Why: a loader whose randomness lives in worker processes cannot be resumed exactly, because nobody can save the state of
a worker that has prefetched two batches ahead. Here nothing needs saving. `DrawSampler` counts; the number of a draw
decides which image is taken (a new permutation per epoch) and seeds every generator a transform may use (Python, NumPy,
torch) around that one sample. So iteration k gives the same batch in an uninterrupted run, after a resume, with 0 or 8
workers, and under fork or spawn; `skip` is O(1).

    train_dataloader  = dict(sampler=dict(type="DrawSampler"), dataset=dict(type="RareClassSampling", ...), ...)
    target_dataloader = dict(sampler=dict(type="DrawSampler", stream=1), dataset=dict(type="FolderDataset", ...), ...)

The data sets of this package understand draws. For any other mmseg data set the order is reproducible anyway (a `Draw`
is the int index of its image); wrap it in `SeededDataset` to make its augmentations reproducible too.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sized
from functools import lru_cache
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from mmseg.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Sampler

from pipa.functional.numbers import whole
from pipa.mmseg.datasets.draw import ORDER, Draw, seeded


@lru_cache(maxsize=4)
def _order(size: int, seed: int, stream: int, epoch: int) -> np.ndarray:
    keys = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream, epoch, ORDER)))).random(size)
    return np.argsort(keys, kind="stable")


@DATA_SAMPLERS.register_module()
class DrawSampler(Sampler):
    """Infinite sampler of draws: rank r of R takes the numbers r, r + R, r + 2R, ...

    So iteration i of R processes with batch b uses the same draws as iteration i of one process with batch R * b.

    Args:
        dataset: gives the number of images; must not be empty.
        seed: the run's seed (mmengine passes it). None asks for one that all ranks share.
        stream: keeps loaders of one run independent; 0 for the source, 1 for the target.
        shuffle: a fresh permutation per epoch, or the files in order.
        threads, ahead: deprecated, without effect; num_workers of the loader gives the same samples.

    >>> from itertools import islice
    >>> import pipa.mmseg
    >>> sampler = pipa.mmseg.DrawSampler(["a", "b", "c"], seed=0)
    >>> draws = list(islice(sampler, 6))
    >>> sorted(draws[:3]), sorted(draws[3:])  # each epoch in an order of its own
    ([0, 1, 2], [0, 1, 2])
    >>> sampler.skip(4)  # a resume
    >>> list(islice(sampler, 2)) == draws[4:]
    True
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int | None = None,
        stream: int = 0,
        shuffle: bool = True,
        start: int = 0,
        threads: int = 0,
        ahead: int | None = None,
    ) -> None:
        if threads or ahead is not None:
            text = "DrawSampler: threads and ahead do nothing; set num_workers of the loader for the same samples"
            warnings.warn(f"{text}; the next minor version refuses them", DeprecationWarning, stacklevel=2)
            print_log(text, logger="current", level=logging.WARNING)  # Python hides a DeprecationWarning of a library
        self.rank, self.world_size = get_dist_info()
        self.size = len(dataset)
        if self.size == 0:
            raise ValueError("DrawSampler: the data set is empty; expected at least one image")
        # The seed is an attribute so that a resumed run can set the one of its checkpoint before the first batch.
        self.seed = whole(sync_random_seed() if seed is None else seed, "DrawSampler: seed")
        self.stream = whole(stream, "DrawSampler: stream")
        self.shuffle = shuffle
        self.start = whole(start, "DrawSampler: start")

    def draw(self, number: int) -> Draw:
        """The draw with this number, whoever asks."""
        epoch, place = divmod(number, self.size)
        index = int(_order(self.size, self.seed, self.stream, epoch)[place]) if self.shuffle else place
        return Draw(index, self.seed, self.stream, number)

    def __iter__(self) -> Iterator[Draw]:
        number = self.rank + self.start * self.world_size
        while True:
            yield self.draw(number)
            number += self.world_size

    def skip(self, num_samples: int) -> None:
        """Start after the first `num_samples` draws of this rank (iterations done x batch size); absolute, O(1).

        mmengine calls this for the train loader when it resumes. Call it before the loader's iterator is made.
        """
        num_samples = whole(num_samples, "DrawSampler.skip: num_samples")
        if num_samples < 0:
            raise ValueError(f"DrawSampler.skip: expected a number of samples >= 0, got {num_samples}")
        self.start = num_samples

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the draw number decides everything."""


@DATASETS.register_module()
class SeededDataset:
    """Makes the random transforms of any mmseg data set a function of the draw.

    Args:
        dataset: the data set, or its config.

    >>> import random
    >>> import pipa.mmseg
    >>> class Noisy:
    ...     def __len__(self):
    ...         return 3
    ...
    ...     def __getitem__(self, index):
    ...         return random.random()
    >>> dataset = pipa.mmseg.SeededDataset(Noisy())
    >>> draw = pipa.mmseg.DrawSampler(dataset, seed=0).draw(7)
    >>> dataset[draw] == dataset[draw]
    True
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    def full_init(self) -> None:
        self.dataset.full_init()

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(int(index))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        with seeded(index):
            return self.dataset[index]
