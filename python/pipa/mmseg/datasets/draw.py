"""A draw: the index of an image that carries what every random decision about the sample is derived from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Tags that keep the draws of different users of one (seed, stream, number) independent.
ORDER, TRANSFORMS, RARE_CLASS, REPLACEMENT = range(4)


class Draw(int):
    """Index of an image that also knows which draw of the training it is.

    Attributes:
        seed, stream, number: what every random decision about this sample is derived from.
    """

    seed: int
    stream: int
    number: int

    def __new__(cls, index: int, seed: int = 0, stream: int = 0, number: int = 0) -> Draw:
        draw = super().__new__(cls, index)
        draw.seed, draw.stream, draw.number = seed, stream, number
        return draw

    def __reduce__(self) -> tuple:  # draws travel to worker processes
        return (Draw, (int(self), self.seed, self.stream, self.number))

    def at(self, index: int) -> Draw:
        """The same draw, applied to another image."""
        return Draw(index, self.seed, self.stream, self.number)

    # A wrapper of data sets shifts or wraps the index (ConcatDataset, RepeatDataset): it stays the same draw.
    def __add__(self, other: int) -> Draw:
        return self.at(int(self) + other)

    def __sub__(self, other: int) -> Draw:
        return self.at(int(self) - other)

    def __mod__(self, other: int) -> Draw:
        return self.at(int(self) % other)

    __radd__ = __add__

    def entropy(self, tag: int, attempt: int = 0) -> np.random.SeedSequence:
        return np.random.SeedSequence((self.seed, self.stream, self.number, tag, attempt))

    def generator(self, tag: int, attempt: int = 0) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(self.entropy(tag, attempt)))

    def words(self, attempt: int = 0) -> np.ndarray:
        """Seeds of the transforms: words 0 and 1 are Python's, 2 to 5 NumPy's, 6 and 7 torch's."""
        return self.entropy(TRANSFORMS, attempt).generate_state(8)


@contextmanager
def seeded(index: int, attempt: int = 0) -> Iterator[None]:
    """Seed Python, NumPy and torch (CPU) from a draw and put their states back afterwards.

    Putting them back matters with num_workers=0, where the training's own dropout draws from the same generators. A
    plain int index leaves everything alone.
    """
    if not isinstance(index, Draw):
        yield
        return
    words = index.words(attempt)
    python_state, torch_state = random.getstate(), torch.random.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2:6])  # noqa: NPY002  (mmcv's transforms draw from the global generator)
    # default_generator, not torch.manual_seed: the latter also touches CUDA, which a forked worker must not.
    torch.random.default_generator.manual_seed(int(words[6]) << 31 | int(words[7]) >> 1)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.random.set_rng_state(torch_state)
