"""Means with bootstrap intervals: what of a figure is noise of the clips at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over clips, its percentile-bootstrap interval at `LEVEL`, and what it was made of.

    Attributes:
        mean: NaN when any of its values is NaN: a figure that failed somewhere is not averaged away.
        low, high: the interval; NaN with fewer than two values.
        count: clips.
        failed: clips whose value is NaN or infinite.
    """

    mean: float
    low: float
    high: float
    count: int
    failed: int = 0


def estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of values, one per clip, with its interval."""
    array = np.asarray(values, dtype=np.float64)
    failed = int((~np.isfinite(array)).sum())
    if failed or not len(array):
        return Estimate(math.nan, math.nan, math.nan, len(array), failed)
    low, high = interval(array, seed)
    return Estimate(float(array.mean()), low, high, len(array))


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap of the mean: `RESAMPLES` draws of as many values, with replacement, always the same."""
    if len(values) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    # Some draws at a time: all draws of many clips at once would not fit into memory.
    rows = max(1, 1_000_000 // len(values))
    sizes = [min(rows, RESAMPLES - done) for done in range(0, RESAMPLES, rows)]
    means = [values[rng.integers(len(values), size=(size, len(values)))].mean(1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def over_categories(groups: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """The unweighted mean of the categories' means; every draw resamples the clips inside each category."""
    arrays = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    count = sum(len(a) for a in arrays)
    failed = sum(int((~np.isfinite(a)).sum()) for a in arrays)
    if failed or not count:
        return Estimate(math.nan, math.nan, math.nan, count, failed)
    mean = float(np.mean([a.mean() for a in arrays]))
    if all(len(a) < 2 for a in arrays):
        return Estimate(mean, math.nan, math.nan, count)
    rng = np.random.default_rng(seed)
    means = [np.mean([a[rng.integers(len(a), size=len(a))].mean() for a in arrays]) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high), count)
