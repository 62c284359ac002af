"""Random numbers of an iteration as a function of (seed, rank, iteration): a resume needs no saved generator."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.dist import get_rank

from pipa.step import PipaStep

# Words of random numbers one iteration may use. Iteration t starts at word t * WORDS of its stream, so a resumed run
# draws what the uninterrupted one would have drawn, and no state needs to be saved.
WORDS = 2**32


def seed_iteration(step: PipaStep, seed: int, iteration: int) -> int:
    """Seed every generator from (seed, rank, iteration): dropout and the iteration's own draws.

    So a resumed run needs no saved generator state, and ranks draw other noise on purpose. The iteration's own draws
    are the same on all ranks where they share a joined batch.

    Returns:
        The seed that rank 0 gives to torch.
    """
    rank = get_rank()
    words = np.random.SeedSequence((seed, rank, iteration)).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  (third-party layers draw from the global generator)
    torch.manual_seed(torch_seed(words))
    position = iteration * WORDS
    stream = rank if step.group is None else 0
    step._native.rng_state = [seed, stream, position & (2**64 - 1), position >> 64]
    return torch_seed(np.random.SeedSequence((seed, 0, iteration)).generate_state(4))


def torch_seed(words: np.ndarray) -> int:
    """63 bits out of the last two of four 32-bit words."""
    return int(words[2]) << 31 | int(words[3]) >> 1
