"""Ellipses and their Gaussians against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wan_alpha.losses.shifted_noise import (
    COVERAGE,
    Ellipse,
    chosen_masks,
    fit_ellipse,
    noise_shift,
    object_masks,
    occupancy,
)


def filled(ellipse: Ellipse, side: int = 64) -> Tensor:
    return (ellipse.distance(side, side) <= 1).double()


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2, -0.7])
def test_the_fit_finds_the_ellipse_that_was_drawn(angle: float) -> None:
    drawn = Ellipse(30.0, 34.0, 20.0, 8.0, angle)
    found = fit_ellipse(filled(drawn))
    assert found is not None
    assert (found.y, found.x) == pytest.approx((30, 34), abs=0.3)
    assert found.long / found.short == pytest.approx(2.5, rel=0.05)
    assert 20 * 0.97 < found.long < 20 * 1.13  # grown once at most
    assert abs((found.angle - angle + math.pi / 2) % math.pi - math.pi / 2) < 0.03


def test_it_covers_what_it_must() -> None:
    cells = torch.zeros(32, 32, dtype=torch.float64)
    cells[4:9, 2:30] = 1
    cells[20:22, 3] = 0.5  # something apart
    found = fit_ellipse(cells)
    assert found is not None
    assert cells[found.distance(32, 32) <= 1].sum() >= COVERAGE * cells.sum()


def test_the_gaussian_is_one_in_the_middle_and_zero_at_the_farthest_cell() -> None:
    g = Ellipse(10.0, 12.0, 6.0, 3.0, 0.0).gaussian(24, 30)
    assert g.max() == g[10, 12] == 1
    assert g.min() == 0
    low = math.exp(-0.5 * max(((12 - x) / 6) ** 2 + ((10 - y) / 3) ** 2 for x in (0, 29) for y in (0, 23)))
    assert g[10, 18].item() == pytest.approx((math.exp(-0.5) - low) / (1 - low), rel=1e-5)  # one half-axis away


def test_occupancy_counts_pixels_and_keeps_the_first_frame_apart() -> None:
    alpha = torch.zeros(5, 16, 16)
    alpha[0, :8, :4] = 0.01  # any opacity counts
    alpha[3, 8:, 8:] = 1
    cells = occupancy(alpha, spatial=8)
    assert cells.shape == (2, 2, 2)
    assert cells[0].tolist() == [[0.5, 0], [0, 0]]
    assert cells[1].tolist() == [[0, 0], [0, 0.25]]


def test_an_empty_frame_has_no_mask() -> None:
    alpha = torch.zeros(1, 1, 5, 64, 64)
    alpha[:, :, 0, 16:48, 16:48] = 1
    masks = object_masks(alpha, spatial=8)
    assert masks.shape == (1, 2, 8, 8)
    assert masks[0, 0].max() == 1
    assert masks[0, 1].eq(0).all()
    shift = noise_shift(masks)
    assert shift.shape == (1, 1, 2, 8, 8)
    assert shift[0, 0, 1].eq(0.05).all()
    assert shift.min() == pytest.approx(0, abs=1e-6)


def test_shape_and_angle_are_carried_over_while_they_change_little() -> None:
    before = Ellipse(30.0, 30.0, 21.0, 8.2, 0.02)
    near, far = filled(Ellipse(31.0, 30.0, 20.0, 8.0, 0.0)), filled(Ellipse(31.0, 30.0, 20.0, 8.0, 0.6))
    carried = fit_ellipse(near, before)
    assert carried is not None
    assert (carried.long / before.long, carried.angle) == (carried.short / before.short, before.angle)
    assert carried.y == pytest.approx(31, abs=0.3)  # the centre follows
    fresh = fit_ellipse(far, before)
    assert fresh is not None
    assert fresh.angle == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize(
    ("long", "short", "angle", "carried"),
    [
        (20.0 * 1.07, 8.0, 0.02, True),
        (20.0 * 1.15, 8.0, 0.02, False),
        (20.0, 8.0 * 1.15, 0.02, False),
        (20.0, 8.0, 0.15, True),  # 8.6 degrees
        (20.0, 8.0, math.pi - 0.15, True),  # the same axis
        (20.0, 8.0, 0.22, False),  # 12.6 degrees
        (8.2, 8.0, 0.9, True),  # round: no angle to compare
    ],
)
def test_a_tenth_and_ten_degrees_are_little(long: float, short: float, angle: float, carried: bool) -> None:
    drawn = Ellipse(31.0, 30.0, min(long, 20.0), 8.0, 0.0)
    found = fit_ellipse(filled(drawn), Ellipse(30.0, 30.0, long, short, angle))
    assert found is not None
    assert (found.angle == angle) is carried


def test_one_cell_is_an_ellipse_too() -> None:
    cells = torch.zeros(8, 8, dtype=torch.float64)
    cells[3, 5] = 0.1
    found = fit_ellipse(cells)
    assert found is not None
    assert found[:4] == pytest.approx((3, 5, 0.5, 0.5))


def test_the_user_s_ellipse_lies_where_it_is_wanted() -> None:
    g = chosen_masks((2, 9, 15), size=0.5, y=0.25, x=0.7)
    assert g.shape == (1, 2, 9, 15)
    wanted = Ellipse(0.25 * 9 - 0.5, 0.7 * 15 - 0.5, 15 / 4, 9 / 4, 0.0).gaussian(9, 15)
    torch.testing.assert_close(g, wanted.expand(1, 2, 9, 15))
    tall = chosen_masks((1, 15, 9), size=0.5, y=0.7, x=0.25)  # the long axis points down
    torch.testing.assert_close(tall[0, 0], wanted.T)
    assert torch.equal(chosen_masks((1, 9, 15)), chosen_masks((1, 9, 15), size=0.7, y=0.5, x=0.5))
