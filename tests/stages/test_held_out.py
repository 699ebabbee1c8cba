"""Means over held-out clips do not depend on who has measured which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wan_alpha.stages.held_out import HeldOut


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 7), st.sets(st.integers(0, 9)))
def test_means_are_over_the_clips_that_could_be_read(order: list[int], size: int, broken: set[int]) -> None:
    """However batches are cut, and however often a clip comes."""
    figures = torch.tensor([[n**2, -n / 3] for n in range(10)])
    held_out = HeldOut()
    for start in range(0, len(order), size):
        clips = order[start : start + size]
        problems = ["cannot be read" if clip in broken else "" for clip in clips]
        held_out.add({"index": torch.tensor(clips), "problem": problems}, figures[clips])
    means, read = held_out.means(1), sorted(set(order) - broken)
    if not read:
        assert means is None
        return
    assert means is not None
    assert means.dtype == torch.float64
    torch.testing.assert_close(means, figures[read].double().mean(0), rtol=1e-12, atol=1e-12)
    assert held_out.means(1) is None  # the next validation begins anew


def test_latents_that_are_stored_have_no_problems() -> None:
    held_out = HeldOut()
    held_out.add({"index": torch.tensor([4, 2])}, torch.tensor([[1.0], [2.0]]))
    assert held_out.means(1) == pytest.approx(1.5)
