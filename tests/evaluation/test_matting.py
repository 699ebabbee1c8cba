"""Matting errors: small cases worked out by hand, and the order of good and bad mattes."""

import math

import numpy as np
import pytest
from evaluation.clips import blurred, disc, flickering, shifted

from wan_alpha.evaluation.matting import connectivity_error, dtssd, gradient_error, matting_errors, messddt

ZERO = np.zeros((1, 10, 10))


def with_pixels(**pixels: float) -> np.ndarray:
    """A matte of zeros with single values: r2c3=0.5."""
    matte = ZERO.copy()
    for place, value in pixels.items():
        row, column = place[1:].split("c")
        matte[0, int(row), int(column)] = value
    return matte


def test_sums_and_means_by_hand():
    errors = matting_errors(with_pixels(r2c3=0.5, r5c5=1.0), with_pixels(r5c5=0.2))
    assert errors["sad_k"] == pytest.approx((0.5 + 0.8) / 1000)
    assert errors["mad_e3"] == pytest.approx((0.5 + 0.8) / 100 * 1000)
    assert errors["mse_e3"] == pytest.approx((0.25 + 0.64) / 100 * 1000)
    assert math.isnan(errors["dtssd_e2"])
    assert math.isnan(errors["messddt_e3"])


def test_gradient_error_of_a_step_by_hand():
    """A unit step, through the unit-energy derivative of Gaussian of sigma 1.4 with a reach of 4 pixels."""
    step = np.zeros((30, 30))
    step[:, 15:] = 1
    x = np.arange(-4, 5)
    bell = np.exp(-(x**2) / (2 * 1.4**2)) / (1.4 * math.sqrt(2 * math.pi))
    slope = x * bell / 1.4**2
    energy = math.sqrt((bell**2).sum() * (slope**2).sum())
    # Next to the step, at k pixels left of it, the part of the filter beyond it sees ones.
    response = [bell.sum() * slope[4 + k :].sum() / energy for k in range(1, 5)]
    expected = 2 * 30 * sum(r**2 for r in response) / 1000  # both sides of it, 30 rows
    assert gradient_error(step, np.zeros_like(step)) == pytest.approx(expected)
    assert gradient_error(step, step) == 0
    assert gradient_error(step, 1 - step) == pytest.approx(0)  # magnitudes have no sign


def test_connectivity_error_by_hand():
    """A block of 9 that both have, and a lone pixel of the prediction: at no level does it belong to the block."""
    true, pred = np.zeros((6, 6)), np.zeros((6, 6))
    true[:3, :3] = pred[:3, :3] = 1
    pred[5, 5] = 0.6
    assert connectivity_error(pred, true) == pytest.approx(0.6 / 1000)
    pred[5, 5] = 0.1  # below theta it is forgiven
    assert connectivity_error(pred, true) == 0


def test_connectivity_counts_what_falls_out_of_the_largest_region():
    true, pred = np.ones((3, 7)), np.ones((3, 7))
    pred[:, 4] = 0.35  # a bridge to the right part, which stays connected up to the level 0.3
    # l is 0.3 on the bridge: phi(true) = 1 - 0.7 there, and phi(pred) = 1, as 0.05 is below theta.
    assert connectivity_error(pred, true) == pytest.approx(3 * 0.7 / 1000)


def test_four_neighbours_connect_and_corners_do_not():
    true = np.zeros((4, 4))
    true[:2, :2] = 1
    true[2, 2] = 1  # touches the block by a corner only
    pred = true.copy()
    pred[2, 2] = 0.1
    # l is 0 there: phi(true) = 1 - 1, and phi(pred) = 1, as 0.1 is below theta.  Connected, l would be 0.1: 0.9 / 1000.
    assert connectivity_error(pred, true) == pytest.approx(1 / 1000)


def test_dtssd_by_hand():
    true = np.zeros((3, 2, 2))
    pred = true.copy()
    pred[1] = 0.5  # up by 0.5, then down by 0.5
    assert dtssd(pred, true) == pytest.approx(50)
    pred[2] = 0.5  # up, then nothing
    assert dtssd(pred, true) == pytest.approx(25)
    assert dtssd(true + 0.5, true) == 0  # wrong, but steady


def test_messddt_forgives_an_error_that_moves_along():
    """The truth moves by two pixels a frame; an error of constant size rides on it, or stays where it is."""
    colours, alpha = disc(frames=4, soft=4)
    grey = np.rint(colours.mean(-1) * 255).astype(np.uint8)
    riding = alpha * 0.8
    assert messddt(alpha, alpha, grey) == 0
    staying = np.maximum(alpha, 0.3 * (alpha[0] > 0.5))
    assert messddt(riding, alpha, grey) < messddt(flickering(alpha, 0.3), alpha, grey)
    assert messddt(riding, alpha, grey) < messddt(staying, alpha, grey) * 2
    nothing_moves = np.zeros_like(grey)
    assert messddt(riding, alpha, grey) < messddt(riding, alpha, nothing_moves) / 2
    still = np.ones((2, 40, 40))
    pred = still.copy()
    pred[1] = 0.5  # error 0, then 0.25, and nothing moves
    assert messddt(pred, still) == pytest.approx(250)


def test_errors_are_means_over_frames():
    true = np.zeros((1, 12, 12))
    true[:, 3:9, 3:9] = 1
    pred = np.roll(true, 2, axis=2)
    once, twice = matting_errors(pred, true), matting_errors(np.repeat(pred, 2, 0), np.repeat(true, 2, 0))
    for name in ("sad_k", "mad_e3", "mse_e3", "grad_k", "conn_k"):
        assert twice[name] == pytest.approx(once[name])
        assert once[name] > 0


def test_worse_mattes_have_larger_errors():
    colours, alpha = disc(frames=4)
    grey = np.rint(colours.mean(-1) * 255).astype(np.uint8)
    ways = {
        "blur": [blurred(alpha, s) for s in (0.5, 1.5, 3)],
        "shift": [shifted(alpha, p) for p in (1, 2, 5)],
        "flicker": [flickering(alpha, a) for a in (0.05, 0.2, 0.5)],
    }
    for way, preds in ways.items():
        errors = [matting_errors(alpha, alpha, grey), *(matting_errors(p, alpha, grey) for p in preds)]
        assert all(value == 0 for value in errors[0].values())
        for name in ("sad_k", "mad_e3", "mse_e3", "grad_k"):
            values = [e[name] for e in errors]
            assert values == sorted(values), (way, name)
    steady, nervous = matting_errors(alpha * 0.8, alpha, grey), matting_errors(flickering(alpha, 0.4), alpha, grey)
    assert steady["mad_e3"] == pytest.approx(nervous["mad_e3"], rel=0.01)
    assert steady["dtssd_e2"] < nervous["dtssd_e2"] / 3
    assert steady["messddt_e3"] < nervous["messddt_e3"] / 3


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"got \(1, 10, 10\) and \(2, 10, 10\)"):
        matting_errors(ZERO, np.zeros((2, 10, 10)))
