"""Batches of one shape from clips of many: buckets by aspect ratio, number of frames and size.

Samples keep their global numbers.  They go through the order one by one, each into its bucket, and whenever a bucket
holds a global batch, that is the next batch.  So every epoch still shows every clip once, buckets take turns in their
natural share, and nothing is dropped: what an epoch leaves in a bucket is the beginning of that bucket's next batch.

How many samples of each bucket are among the first n is known without walking through them, and so a run continues at
batch b by finding the n at which b batches are complete: the order of batches is a pure function of (seed, b).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np
from torch.utils.data import Sampler

from wan_alpha.data.order import Integers, SampleOrder, sample_order
from wan_alpha.data.source import Clip


@dataclass(frozen=True)
class Bucket:
    """The shape of a batch: frames, and (height, width) in pixels."""

    num_frames: int
    size: tuple[int, int]


def assign(clips: Sequence[Clip], buckets: Sequence[Bucket], frame_stride: int = 1, endless: bool = True) -> Integers:
    """The bucket of each clip; int64 (number of clips,).

    The nearest aspect ratio decides; then the most frames that the clip has (else the fewest); then the largest
    picture that needs no enlarging (else the smallest).

    Args:
        clips: what there is to distribute.
        buckets: the shapes.
        frame_stride: only every so-manyth frame of a clip counts.
        endless: stills become clips of any length (else they are clips of one frame).
    """

    def preference(clip: Clip, bucket: Bucket) -> tuple[float, bool, int, bool, int]:
        stretch = log(clip.width / clip.height) - log(bucket.size[1] / bucket.size[0])
        short = (bucket.num_frames - 1) * frame_stride >= clip.num_frames and not (endless and clip.num_frames == 1)
        small = bucket.size[0] > clip.height or bucket.size[1] > clip.width
        area = bucket.size[0] * bucket.size[1]
        frames = bucket.num_frames
        return round(abs(stretch), 6), short, frames if short else -frames, small, area if small else -area

    chosen: dict[tuple[int, int, int], int] = {}
    for clip in clips:
        shape = (clip.num_frames, clip.height, clip.width)
        if shape not in chosen:
            chosen[shape] = min(range(len(buckets)), key=lambda k, clip=clip: preference(clip, buckets[k]))  # type: ignore[misc]
    return np.array([chosen[clip.num_frames, clip.height, clip.width] for clip in clips], dtype=np.int64)


class BucketOrder:
    """The endless global sequence of batches.

    Args:
        order: of the samples.
        labels: int64 (number of clips,): the bucket of each clip.
        global_batch: samples per batch, all ranks together.
    """

    def __init__(self, order: SampleOrder, labels: Integers, global_batch: int) -> None:
        if len(labels) != len(order) or global_batch < 1:
            raise ValueError(
                f"expected a label for each of {len(order)} clips and a batch of at least 1, "
                f"got {len(labels)} labels and global_batch={global_batch}"
            )
        self.order, self.labels, self.global_batch = order, labels, global_batch
        self.count = int(labels.max()) + 1
        parts = [labels[start:stop] for start, stop in zip(order.offsets[:-1], order.offsets[1:], strict=True)]
        self._totals = [np.bincount(part, minlength=self.count) for part in parts]
        self._places = lru_cache(maxsize=4 * len(parts))(
            lambda part, epoch: self._find_places(parts[part], part, epoch)
        )

    def seen(self, n: int) -> Integers:
        """How many of the first `n` samples belong to each bucket; int64 (buckets,)."""
        counts = np.zeros(self.count, dtype=np.int64)
        for part, taken in enumerate(self.order.taken(n)):
            epoch, position = divmod(taken, self.order.sizes[part])
            counts += epoch * self._totals[part]
            counts += [np.searchsorted(places, position) for places in self._places(part, epoch)]
        return counts

    def complete(self, n: int) -> int:
        """How many batches are complete when `n` samples have gone into their buckets."""
        return int((self.seen(n) // self.global_batch).sum())

    def batches(self, first: int = 0) -> Iterator[list[int]]:
        """Sample numbers of batch `first`, `first` + 1, ..., each `global_batch` numbers of one bucket."""
        g = self.global_batch
        # b batches need b*g samples, and the other buckets hold at most g-1 each.
        numbers = range(first * g, first * g + self.count * (g - 1) + 1)
        n = numbers[bisect_left(numbers, first, key=self.complete)]
        waiting = self._waiting(n)
        while True:
            bucket = int(self.labels[self.order.locate(n)[1]])
            waiting[bucket].append(n)
            n += 1
            if len(waiting[bucket]) == g:
                yield waiting[bucket]
                waiting[bucket] = []

    def _waiting(self, n: int) -> list[list[int]]:
        """What each bucket holds after `n` samples: the numbers of those that are in no batch yet."""
        waiting: list[list[int]] = []
        for bucket, seen in enumerate(self.seen(n)):
            delivered = int(seen - seen % self.global_batch)
            low, step = n, self.global_batch
            while low > 0 and self.seen(low)[bucket] > delivered:  # not far back, whatever the epoch
                low, step = max(0, low - step), 2 * step
            numbers = range(low, n + 1)

            def after(m: int, bucket: int = bucket) -> int:
                return int(self.seen(m)[bucket])

            places = (bisect_left(numbers, place + 1, key=after) for place in range(delivered, int(seen)))
            waiting.append([numbers[place] - 1 for place in places])
        return waiting

    def _find_places(self, labels: Integers, part: int, epoch: int) -> list[Integers]:
        """For each bucket, at which positions of an epoch of one set its clips come."""
        ordered = labels[sample_order(len(labels), self.order.seed, epoch, part)]
        return [np.flatnonzero(ordered == bucket) for bucket in range(self.count)]


class BucketSampler(Sampler[list[int]]):
    """This rank's share of each batch of a `BucketOrder`, without end.

    Args:
        order: the global sequence.
        first: batches already delivered (0 for a new run).
        rank, world_size: this process among all.

    Raises:
        ValueError: the global batch cannot be split evenly, or a number is out of its range.
    """

    def __init__(self, order: BucketOrder, first: int, rank: int = 0, world_size: int = 1) -> None:
        if first < 0 or not 0 <= rank < world_size or order.global_batch % world_size:
            raise ValueError(
                "expected first >= 0, 0 <= rank < world_size and a global batch that world_size divides, "
                f"got first={first}, rank={rank}, world_size={world_size}, global_batch={order.global_batch}"
            )
        self.order, self.first, self.rank, self.world_size = order, first, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        size = self.order.global_batch // self.world_size
        for batch in self.order.batches(self.first):
            yield batch[self.rank * size : (self.rank + 1) * size]
