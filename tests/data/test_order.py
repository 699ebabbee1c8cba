"""The order of samples: permutations, independent of ranks, exact on resume."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_alpha.data import dataset, order
from wan_alpha.data.order import GlobalOrderSampler, locate, mix_round, sample_order
from wan_alpha.losses import draws

SEEDS = st.integers(0, 2**31)


@given(num_clips=st.integers(1, 200), seed=SEEDS, epoch=st.integers(0, 1000))
def test_every_epoch_is_a_permutation(num_clips: int, seed: int, epoch: int) -> None:
    first = epoch * num_clips
    located = [locate(n, num_clips, seed) for n in range(first, first + num_clips)]
    assert {found for found, _ in located} == {epoch}
    assert sorted(index for _, index in located) == list(range(num_clips))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(sample_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_is_pinned() -> None:
    """A change of this order would change every run that is continued."""
    assert sample_order(8, 0, 0).tolist() == [4, 1, 5, 3, 6, 7, 2, 0]
    assert [part.tolist() for part in mix_round((3, 5), 0, 0)] == [[1, 1, 0, 1, 1, 0, 1, 0], [0, 1, 0, 2, 3, 1, 4, 2]]


def test_no_two_kinds_of_random_numbers_share_a_stream() -> None:
    """numpy takes (seed, n, 0) for (seed, n), so 0 is taken, too."""
    streams = [order._ORDER_STREAM, order._MIX_STREAM, dataset._STILL_STREAM, dataset._CAPTION_STREAM, draws._STREAM, 0]
    assert len(set(streams)) == len(streams)


@given(start=st.integers(0, 500), batch=st.sampled_from([1, 2, 3]), world=st.sampled_from([1, 2, 4]))
def test_ranks_together_deliver_every_number_once(start: int, batch: int, world: int) -> None:
    steps = 4
    ranks = [list(islice(GlobalOrderSampler(start, batch, rank, world), steps)) for rank in range(world)]
    delivered = [n for step in range(steps) for rank in range(world) for n in ranks[rank][step]]
    assert delivered == list(range(start, start + steps * batch * world))


@given(batch=st.integers(1, 5), steps=st.integers(0, 20), world=st.sampled_from([1, 2, 3]))
def test_resuming_equals_not_stopping(batch: int, steps: int, world: int) -> None:
    """Also on another number of devices: what counts is how many samples were delivered."""
    rest = list(islice(GlobalOrderSampler(0, batch), steps * world, steps * world + 6))
    resumed = list(islice(GlobalOrderSampler(steps * world * batch, batch), 6))
    assert resumed == rest


@pytest.mark.parametrize(
    "arguments",
    [
        {"start": -1, "batch_size": 1},
        {"start": 0, "batch_size": 0},
        {"start": 0, "batch_size": 1, "rank": 2, "world_size": 2},
    ],
)
def test_bad_arguments(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected start >= 0, batch_size >= 1 and 0 <= rank < world_size"):
        GlobalOrderSampler(**arguments)
