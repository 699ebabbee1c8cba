"""Mixtures and buckets: every batch of one shape, every clip in its turn, the same from any point on."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wan_alpha.data.buckets import Bucket, BucketOrder, BucketSampler, assign
from wan_alpha.data.order import MIX_ROUND, SampleOrder, locate
from wan_alpha.data.source import Clip


def test_one_set_keeps_the_order_it_had() -> None:
    order = SampleOrder([7], 3)
    assert [order.locate(n) for n in range(30)] == [locate(n, 7, 3) for n in range(30)]


def test_weights_are_exact_in_every_round_and_each_set_runs_through_its_own_epochs() -> None:
    sizes, weights = [50, 7, 300], [3.0, 1.0, 0.5]
    order = SampleOrder(sizes, 5, weights)
    for turn in (0, 3):
        numbers = range(turn * MIX_ROUND, (turn + 1) * MIX_ROUND)
        assert Counter(order.part_of(n)[0] for n in numbers) == {0: 667, 1: 222, 2: 111}
    clips: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for n in range(3 * MIX_ROUND):
        clips[order.part_of(n)[0]].append(order.locate(n)[1])
    for part, (start, size) in enumerate(zip((0, 50, 57), sizes, strict=True)):
        found, whole = clips[part], len(clips[part]) // size * size
        epochs = [found[first : first + size] for first in range(0, whole, size)]
        assert all(sorted(epoch) == list(range(start, start + size)) for epoch in epochs)
        assert len(epochs) < 2 or epochs[0] != epochs[1]


def test_the_mixture_is_random_within_a_round() -> None:
    """Counts of a set in windows of 50 numbers scatter as in drawing without replacement, neither less nor more."""
    order = SampleOrder([10, 10], 0, [1, 1])
    parts = np.array([order.part_of(n)[0] for n in range(100 * MIX_ROUND)])
    variance = parts.reshape(-1, 50).sum(1).var()
    expected = 50 * 0.25 * (MIX_ROUND - 50) / (MIX_ROUND - 1)
    assert abs(variance / expected - 1) < 4 * np.sqrt(2 / 2000)
    other = [SampleOrder([10, 10], 1, [1, 1]).part_of(n)[0] for n in range(100)]
    assert other != parts[:100].tolist()


@pytest.mark.parametrize(
    ("sizes", "weights"), [([], None), ([3, 0], None), ([3], [0.0]), ([3, 3], [1.0]), ([3, 3], [1.0, float("nan")])]
)
def test_sets_and_weights_are_checked(sizes: list[int], weights: list[float] | None) -> None:
    with pytest.raises(ValueError, match="expected sets with clips and positive weights"):
        SampleOrder(sizes, 0, weights)


def test_a_vanishing_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a share below 0.001 cannot be mixed"):
        SampleOrder([3, 3], 0, [1e6, 1])


def clip(num_frames: int, height: int, width: int) -> Clip:
    return Clip("", num_frames, 24.0, height, width, "", "train")


BUCKETS = [Bucket(t, size) for t in (1, 17, 33) for size in ((32, 32), (32, 64), (64, 128))]


@pytest.mark.parametrize(
    ("frames", "height", "width", "bucket"),
    [
        (40, 480, 832, Bucket(33, (64, 128))),  # wide, long, large
        (32, 480, 832, Bucket(17, (64, 128))),  # not long enough for 33
        (16, 512, 500, Bucket(1, (32, 32))),  # too short for 17
        (17, 40, 90, Bucket(17, (32, 64))),  # too small for 64x128
        (17, 64, 100, Bucket(17, (32, 64))),  # high enough, but not as wide
        (17, 8, 16, Bucket(17, (32, 64))),  # smaller than all: the smallest
        (1, 512, 512, Bucket(33, (32, 32))),  # a still becomes as long as one likes
        (99, 900, 300, Bucket(33, (32, 32))),  # tall: the least wide
    ],
)
def test_clips_go_where_they_fit(frames: int, height: int, width: int, bucket: Bucket) -> None:
    assert BUCKETS[assign([clip(frames, height, width)], BUCKETS)[0]] == bucket


def test_strides_and_static_stills_count() -> None:
    assert BUCKETS[assign([clip(34, 32, 32)], BUCKETS, frame_stride=2)[0]].num_frames == 17
    assert BUCKETS[assign([clip(1, 32, 32)], BUCKETS, endless=False)[0]].num_frames == 1


orders = st.builds(
    lambda sizes, weights, seed: SampleOrder(sizes, seed, weights[: len(sizes)]),
    st.lists(st.integers(1, 60), min_size=1, max_size=3),
    st.lists(st.floats(0.2, 5), min_size=3, max_size=3),
    st.integers(0, 99),
)


@settings(max_examples=30)
@given(order=orders, batch=st.integers(1, 7), buckets=st.integers(1, 4), seed=st.integers(0, 99))
def test_batches_are_of_one_bucket_and_lose_nothing(order: SampleOrder, batch: int, buckets: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(buckets, size=len(order))
    delivered: list[int] = []
    for numbers in islice(BucketOrder(order, labels, batch).batches(), 60):
        assert len(numbers) == batch
        assert len({labels[order.locate(n)[1]] for n in numbers}) == 1
        delivered += numbers
    assert len(set(delivered)) == len(delivered)
    missing = sorted(set(range(max(delivered) + 1)) - set(delivered))
    waiting = Counter(labels[order.locate(n)[1]] for n in missing)
    assert all(count < batch for count in waiting.values())  # each bucket holds less than a batch


@settings(max_examples=30)
@given(order=orders, batch=st.integers(1, 7), buckets=st.integers(1, 4), first=st.integers(0, 5000))
def test_batches_are_the_same_from_any_point_on(order: SampleOrder, batch: int, buckets: int, first: int) -> None:
    labels = np.arange(len(order)) % buckets
    near = first % 50
    whole = list(islice(BucketOrder(order, labels, batch).batches(), near + 10))
    assert list(islice(BucketOrder(order, labels, batch).batches(near), 10)) == whole[near:]
    later = list(islice(BucketOrder(order, labels, batch).batches(first), 12))
    assert list(islice(BucketOrder(order, labels, batch).batches(first + 7), 5)) == later[7:]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_each_batch(world: int) -> None:
    order, labels = SampleOrder([31, 9], 1, [2, 1]), np.arange(40) % 3
    whole = list(islice(BucketOrder(order, labels, 8).batches(5), 6))
    ranks = [list(islice(BucketSampler(BucketOrder(order, labels, 8), 5, r, world), 6)) for r in range(world)]
    assert [[n for rank in ranks for n in rank[step]] for step in range(6)] == whole


def test_one_bucket_is_the_plain_order() -> None:
    order = SampleOrder([13], 0)
    batches = BucketOrder(order, np.zeros(13, int), 4).batches(3)
    assert list(islice(batches, 3)) == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]


def test_arguments_are_checked() -> None:
    order = SampleOrder([4], 0)
    with pytest.raises(ValueError, match="expected a label for each of 4 clips"):
        BucketOrder(order, np.zeros(3, int), 2)
    with pytest.raises(ValueError, match="a global batch that world_size divides"):
        BucketSampler(BucketOrder(order, np.zeros(4, int), 3), 0, 0, 2)
