"""Means and intervals: known cases, and coverage."""

import math

import numpy as np
import pytest

from wan_alpha.evaluation.statistics import estimate, interval, over_categories


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = estimate(values)
    assert found.mean == pytest.approx(values.mean())
    error = values.std(ddof=1) / 20
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.15 * error)
    assert estimate(values) == found  # the same draws every time


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(40):
        low, high = interval(rng.normal(0, 1, 40))
        hits += low <= 0 <= high
    assert 33 <= hits <= 40


def test_a_failed_value_is_counted_and_never_averaged_away():
    found = estimate([1.0, math.nan, 3.0])
    assert math.isnan(found.mean)
    assert (found.count, found.failed) == (3, 1)
    assert math.isnan(over_categories([[1.0], [math.inf]]).mean)


def test_too_few_values_have_no_interval():
    assert math.isnan(estimate([1.0]).low)
    assert estimate([1.0]).mean == 1
    assert math.isnan(estimate([]).mean)


def test_categories_count_the_same_whatever_their_size():
    found = over_categories([[1.0, 1.0, 1.0, 1.0], [3.0, 3.0]])
    assert found.mean == 2
    assert (found.low, found.high) == (2, 2)
    assert found.count == 6


def test_the_interval_over_categories_is_that_of_the_mean_of_their_means():
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 1, 25), rng.normal(10, 4, 400)
    found = over_categories([list(small), list(large), []])
    error = math.sqrt(small.var() / 25 + large.var() / 400) / 2
    assert found.mean == pytest.approx((small.mean() + large.mean()) / 2)
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.15 * error)
    assert over_categories([list(small), list(large)]) == found  # the same draws every time
    alone = over_categories([[1.0], [4.0]])
    assert alone.mean == 2.5
    assert math.isnan(alone.low)
