"""Each measure orders synthetic clips as an eye would."""

from __future__ import annotations

import pytest

from data_prep.measures import LabelLimits, measured_labels


@pytest.mark.parametrize(
    ("measures", "labels"),
    [
        ({}, {}),
        ({"flow": None, "sharpness": None, "greyness": None}, {}),
        ({"flow": 0.3, "sharpness": 0.6, "greyness": 0.4}, {}),
        ({"flow": 0.01}, {"speed": "slow"}),
        ({"flow": 2.0, "greyness": 0.95}, {"speed": "fast", "quality": "greyish"}),
        ({"sharpness": 0.1, "greyness": 0.95}, {"quality": "blurred"}),
    ],
)
def test_labels_follow_from_measures(measures: dict[str, float | None], labels: dict[str, str]) -> None:
    assert measured_labels(measures) == labels


def test_limits_of_labels_can_be_given() -> None:
    assert measured_labels({"flow": 0.3}, LabelLimits(fast=0.2)) == {"speed": "fast"}
