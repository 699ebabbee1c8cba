"""In which order clips are seen: a pure function of (seed, global sample number).

Number n of a run is clip n mod N of epoch n // N, and each epoch is a permutation of its own.  Neither the number of
ranks nor of workers enters, so a run continues exactly where it stopped, on as many devices as there are then.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

# Keeps the stream of the order apart from the streams (seed, n) of the samples' own random numbers.
_ORDER_STREAM = 1


@lru_cache(maxsize=4)
def sample_order(num_clips: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The permutation of range(num_clips) in which an epoch visits the clips; int64 (num_clips,), read-only."""
    order = np.random.default_rng((seed, epoch, _ORDER_STREAM)).permutation(num_clips)
    order.flags.writeable = False  # it is cached and shared
    return order


def locate(n: int, num_clips: int, seed: int) -> tuple[int, int]:
    """(epoch, clip index) of global sample number `n` >= 0."""
    epoch, position = divmod(n, num_clips)
    return epoch, int(sample_order(num_clips, seed, epoch)[position])


class GlobalOrderSampler(Sampler[list[int]]):
    """Endless batch sampler over global sample numbers.

    Step s of rank r yields start + s*G + r*B .. start + s*G + r*B + B - 1, where B is the batch size of a rank and
    G = world_size * B the global batch.

    Args:
        start: global samples already delivered by all ranks together (0 for a new run).
        batch_size: samples per rank and step.
        rank, world_size: this process among all.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, start: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if start < 0 or batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                "expected start >= 0, batch_size >= 1 and 0 <= rank < world_size, "
                f"got start={start}, batch_size={batch_size}, rank={rank}, world_size={world_size}"
            )
        self.start, self.batch_size, self.rank, self.world_size = start, batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start + self.rank * self.batch_size
        while True:
            yield list(range(first, first + self.batch_size))
            first += self.world_size * self.batch_size
