"""In which order clips are seen: a pure function of (seed, global sample number).

Number n of a run is clip n mod N of epoch n // N, and each epoch is a permutation of its own.  Several sets are mixed
in rounds: every round of `MIX_ROUND` numbers holds each set in its exact share, shuffled, and each set runs through
epochs of its own.  Neither the number of ranks nor of workers enters, so a run continues exactly where it stopped, on
as many devices as there are then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Integers = npt.NDArray[np.int64]

# Keep the streams of the order and of the mixture apart from the streams (seed, n) of the samples' own random numbers.
_ORDER_STREAM = 1
_MIX_STREAM = 5
MIX_ROUND = 1000
"""Sample numbers of one round of a mixture; shares are exact to its reciprocal."""


@lru_cache(maxsize=16)
def sample_order(num_clips: int, seed: int, epoch: int, part: int = 0) -> Integers:
    """The permutation of range(num_clips) in which an epoch visits the clips; int64 (num_clips,), read-only.

    `part` tells the sets of a mixture apart: they are shuffled independently.
    """
    order = np.random.default_rng((seed, epoch, _ORDER_STREAM, part)).permutation(num_clips)
    order.flags.writeable = False  # it is cached and shared
    return order


def locate(n: int, num_clips: int, seed: int) -> tuple[int, int]:
    """(epoch, clip index) of global sample number `n` >= 0."""
    epoch, position = divmod(n, num_clips)
    return epoch, int(sample_order(num_clips, seed, epoch)[position])


class SampleOrder:
    """Which clip is sample number n, for one set or a mixture of several.

    Args:
        sizes: clips of each set; clip indices count through the sets one after the other.
        seed: of all shuffling.
        weights: positive, one per set: the share of samples that come from it.

    Raises:
        ValueError: a set is empty, or a weight is not positive or vanishes beside the others.
    """

    def __init__(self, sizes: Sequence[int], seed: int, weights: Sequence[float] | None = None) -> None:
        weights = [1.0] * len(sizes) if weights is None else list(weights)
        if not sizes or min(sizes) < 1 or len(weights) != len(sizes) or not all(weight > 0 for weight in weights):
            raise ValueError(f"expected sets with clips and positive weights, got sizes {sizes}, weights {weights}")
        self.sizes, self.seed = tuple(sizes), seed
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.quotas = _quotas(weights, MIX_ROUND)
        if min(self.quotas) < 1:
            raise ValueError(f"weights {weights}: a share below {1 / MIX_ROUND:g} cannot be mixed; leave that set out")

    def __len__(self) -> int:
        """Number of clips."""
        return int(self.offsets[-1])

    def locate(self, n: int) -> tuple[int, int]:
        """(epoch of its set, clip index) of global sample number `n` >= 0."""
        part, m = self.part_of(n)
        epoch, position = divmod(m, self.sizes[part])
        order = sample_order(self.sizes[part], self.seed, epoch, part)
        return epoch, int(self.offsets[part] + order[position])

    def part_of(self, n: int) -> tuple[int, int]:
        """(set, number within that set's own endless order) of global sample number `n`."""
        if len(self.sizes) == 1:
            return 0, n
        turn, position = divmod(n, MIX_ROUND)
        parts, ranks = mix_round(self.quotas, self.seed, turn)
        part = int(parts[position])
        return part, turn * self.quotas[part] + int(ranks[position])

    def taken(self, n: int) -> list[int]:
        """How many of the first `n` samples come from each set."""
        if len(self.sizes) == 1:
            return [n]
        turn, position = divmod(n, MIX_ROUND)
        begun = np.bincount(mix_round(self.quotas, self.seed, turn)[0][:position], minlength=len(self.sizes))
        return [turn * quota + int(count) for quota, count in zip(self.quotas, begun, strict=True)]


def _quotas(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers that sum to `total`, as near to the shares of `weights` as can be (largest remainder)."""
    shares = np.asarray(weights, float) / sum(weights) * total
    quotas = np.floor(shares).astype(int)
    for part in np.argsort(quotas - shares, kind="stable")[: total - quotas.sum()]:
        quotas[part] += 1
    return tuple(int(quota) for quota in quotas)


@lru_cache(maxsize=8)
def mix_round(quotas: tuple[int, ...], seed: int, turn: int) -> tuple[Integers, Integers]:
    """(set, rank among the samples of that set) of each number of a round; int64 (MIX_ROUND,), read-only."""
    parts = np.repeat(np.arange(len(quotas)), quotas)
    parts = np.random.default_rng((seed, turn, _MIX_STREAM)).permutation(parts)
    ranks = np.empty_like(parts)
    for part, quota in enumerate(quotas):
        ranks[parts == part] = np.arange(quota)
    parts.flags.writeable = ranks.flags.writeable = False
    return parts, ranks


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
