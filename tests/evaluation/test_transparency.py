"""Every figure without a truth orders what was made right and wrong."""

import math

import numpy as np
import pytest
from evaluation.clips import blurred, disc, flickering, shifted
from scipy import ndimage

from wan_alpha.evaluation import motion, transparency
from wan_alpha.evaluation.motion import alpha_flicker, flow_difference, motion_smoothness, on_grey, temporal_flickering
from wan_alpha.evaluation.transparency import (
    alpha_floor,
    background_leak,
    edge_agreement,
    edge_width,
    translucency_error,
    translucent_share,
)


def half_plane(width: float, side: int = 40) -> np.ndarray:
    """A ramp from 0 to 1 over `width` pixels, across the columns."""
    x = np.arange(side) - (side - 1) / 2
    return np.clip(x / width + 0.5, 0, 1)[None, None, :].repeat(side, 1).repeat(2, 0)


@pytest.mark.parametrize("width", [1, 2, 5, 10])
def test_edge_width_of_a_ramp_is_its_width(width):
    assert edge_width(half_plane(width)) == pytest.approx(width, rel=1e-6)
    assert edge_width(half_plane(width).transpose(0, 2, 1)) == pytest.approx(width, rel=1e-6)


def test_edge_width_of_a_gaussian_edge_is_known():
    step = (half_plane(0.01) > 0.5).astype(float)
    assert edge_width(step) == 1
    for sigma in (2, 4):  # the slope of a blurred step is 1 / (sigma sqrt(2 pi))
        assert edge_width(blurred(step, sigma)) == pytest.approx(sigma * math.sqrt(2 * math.pi), rel=0.03)


def test_edge_width_orders_blurred_discs_and_is_absent_without_edges():
    _, alpha = disc()
    widths = [edge_width(blurred(alpha, sigma)) for sigma in (0.01, 1, 2, 4)]
    assert widths == sorted(widths)
    assert widths[0] < 1.5 < 9 < widths[-1]
    assert math.isnan(edge_width(np.zeros((2, 8, 8))))
    assert math.isnan(edge_width(np.ones((2, 8, 8))))


def test_translucent_share_leaves_out_seams_and_counts_veils():
    _, alpha = disc(soft=3)
    assert translucent_share(alpha) < 0.005
    half = alpha.copy()
    half[:, :48] *= 0.5
    assert translucent_share(half) == pytest.approx(0.5, abs=0.03)
    assert translucent_share(alpha * 0.5) == 1
    assert math.isnan(translucent_share(alpha * 0))


def test_translucency_error_is_the_distance_to_what_is_expected():
    assert translucency_error(0.3, (0.1, 0.9)) == 0
    assert translucency_error(0.05, (0.1, 0.9)) == pytest.approx(0.05)
    assert translucency_error(1.0, (0.1, 0.9)) == pytest.approx(0.1)
    assert math.isnan(translucency_error(math.nan, (0, 1)))


def test_a_leak_is_measured_where_nothing_is_and_a_veil_by_the_floor():
    _, alpha = disc()
    rng = np.random.default_rng(0)
    leaks = [background_leak(np.maximum(alpha, level * rng.random(alpha.shape))) for level in (0, 0.01, 0.04)]
    assert leaks[0] == 0
    assert leaks[1:] == pytest.approx([5, 20], rel=0.05)  # the mean of uniform noise, times 1000
    assert background_leak(blurred(alpha, 1)) < 1e-3  # a soft edge is no leak
    assert math.isnan(background_leak(np.ones((1, 8, 8))))
    floors = [alpha_floor(np.maximum(alpha, veil)) for veil in (0, 0.02, 0.3)]
    assert floors == pytest.approx([0, 20, 300])


def test_edge_agreement_falls_when_alpha_is_shifted_or_cut_too_wide():
    colours, alpha = disc()
    whole = np.where(alpha[..., None] > 0, colours, np.array([0.0, 1.0, 0.0]))  # the subject on the green it came from
    right = edge_agreement(whole, alpha)
    assert right > 0.9
    scores = [edge_agreement(whole, shifted(alpha, pixels)) for pixels in (0, 2, 4)]
    assert scores == sorted(scores, reverse=True)
    assert scores[2] < right - 0.1
    wide = np.stack([ndimage.grey_dilation(frame, (7, 7)) for frame in alpha])
    assert edge_agreement(whole, wide) < right - 0.2


@pytest.mark.parametrize(("columns", "deep"), [(60, 10), (9, 5)], ids=["wide", "nothing deeper than two rims"])
def test_edge_agreement_compares_slopes_in_the_rim_with_those_farther_inside(columns, deep):
    depth = columns - np.arange(100.0)  # of each column of a band that ends in the picture
    slope = np.select([depth <= 0, depth <= 4, depth <= 8, depth <= 15], [0.0, 0.05, 0.04, 0.02], 0.0)
    row = np.cumsum(slope)
    colours = np.zeros((1, 64, 100, 3))
    colours[..., 1] = 3 * row  # the mean over channels is that of the row, and no channel sees another
    alpha = np.broadcast_to((depth > 0).astype(float), (1, 64, 100))
    edges = np.gradient(np.pad(ndimage.gaussian_filter1d(row, 1.0, mode="mirror"), 1, "edge"))[1:-1]
    rim, inside = edges[(depth > 0) & (depth <= 5)].mean(), edges[depth > deep].mean()
    found = edge_agreement(colours, alpha)
    assert found == pytest.approx(1 - (rim - inside) / (rim + inside + 0.01), abs=2e-3)
    assert edge_agreement(colours[..., ::-1], alpha) == edge_agreement(np.roll(colours, 1, -1), alpha) == found
    assert math.isnan(edge_agreement(colours, np.ones_like(alpha)))


def test_edge_agreement_ignores_colours_that_cannot_be_seen():
    colours, alpha = disc()
    noise = np.random.default_rng(0).random(colours.shape)
    hidden = np.where(alpha[..., None] > 0.5, colours, noise)
    assert edge_agreement(hidden, alpha) == pytest.approx(edge_agreement(colours, alpha), abs=0.02)


def test_temporal_flickering_is_the_published_formula():
    frames = np.stack([np.full((4, 4, 3), value) for value in (0.0, 0.2, 0.1)])
    assert temporal_flickering(frames) == pytest.approx(1 - 0.15)
    assert math.isnan(temporal_flickering(frames[:1]))


def test_motion_smoothness_orders_smooth_shaky_and_jumping():
    colours, alpha = disc(frames=7)
    order = [0, 1, 2, 3, 4, 5, 6], [0, 2, 2, 4, 3, 6, 6], [0, 5, 1, 6, 2, 4, 0]
    scores = [motion_smoothness(on_grey(colours, alpha)[list(o)], alpha[list(o)]) for o in order]
    assert scores[0] > 0.98
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[2] + 0.02
    assert math.isnan(motion_smoothness(colours[:2], alpha[:2]))
    assert math.isnan(motion_smoothness(colours, alpha * 0))


def test_motion_outside_of_alpha_does_not_count():
    colours, alpha = disc(frames=5)
    noise = np.random.default_rng(0).random(colours.shape)
    far = ndimage.binary_dilation(alpha.max(0) > 0, iterations=12)
    shaky = np.where(far[None, ..., None], colours, noise)
    assert motion_smoothness(shaky, alpha) > motion_smoothness(shaky, None) + 0.1


def test_flow_difference_is_zero_for_a_matte_that_moves_along_and_grows_with_one_that_does_not():
    _, alpha = disc(frames=4, soft=8)
    same = np.repeat(alpha[..., None], 3, axis=-1)
    assert flow_difference(same, alpha) == pytest.approx(0, abs=1e-4)
    _, still = disc(frames=4, soft=8, speed=0)
    _, against = disc(frames=4, soft=8, speed=-2)
    assert 0.1 < flow_difference(same, still) < flow_difference(same, against)


def test_alpha_flicker_sees_flicker_and_forgives_motion():
    colours, alpha = disc()
    pictures = on_grey(colours, alpha)
    scores = [alpha_flicker(pictures, flickering(alpha, amount)) for amount in (0, 0.1, 0.4)]
    assert scores == sorted(scores)
    assert scores[1] == pytest.approx(100, rel=0.3)  # every other frame is a tenth thinner
    unmoved = np.abs(np.diff(alpha, axis=0)).sum() / (alpha > 0.05).sum() * 1e3
    assert scores[0] < unmoved / 2
    assert math.isnan(alpha_flicker(pictures[:1], alpha[:1]))
    assert motion.VISIBLE == transparency.VISIBLE
