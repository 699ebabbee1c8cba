"""Renders against their closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wan_alpha.rendering import (
    COLOUR_NAMES,
    COLOURS,
    alpha_to_rgb,
    cell_means,
    checkerboard,
    hard_render,
    rgb_to_alpha,
    soft_render,
)

RED, GREEN, WHITE = (COLOURS[COLOUR_NAMES.index(name)] for name in ("red", "green", "white"))


def flat(colour: Tensor, batch: int = 1) -> Tensor:
    """(batch, 3, 2, 4, 5) of one colour."""
    return colour.reshape(1, 3, 1, 1, 1).expand(batch, 3, 2, 4, 5).clone()


def opacity(value: float, batch: int = 1) -> Tensor:
    return torch.full((batch, 1, 2, 4, 5), value)


def test_colour_set_is_the_corners_of_the_cube_under_their_names():
    assert COLOURS.shape == (8, 3)
    assert COLOURS.unique(dim=0).shape == (8, 3)
    named = dict(zip(COLOUR_NAMES, COLOURS.tolist(), strict=True))
    assert named == {
        "black": [-1, -1, -1],
        "blue": [-1, -1, 1],
        "green": [-1, 1, -1],
        "cyan": [-1, 1, 1],
        "red": [1, -1, -1],
        "magenta": [1, -1, 1],
        "yellow": [1, 1, -1],
        "white": [1, 1, 1],
    }


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, [-1, 1, -1]), (0.5, [0, 0, -1]), (1.0, [1, -1, -1])])
def test_soft_render_blends_red_over_green(alpha, expected):
    render = soft_render(flat(RED), opacity(alpha), GREEN)
    assert torch.equal(render, flat(torch.tensor(expected).float()))


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(0, 7), st.integers(0, 2**31))
def test_soft_render_stays_between_colour_and_background(alpha, index, seed):
    rgb = torch.rand(1, 3, 1, 3, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    background = COLOURS[index].reshape(1, 3, 1, 1, 1)
    render = soft_render(rgb, torch.full((1, 1, 1, 3, 3), alpha), COLOURS[index])
    assert (render >= torch.minimum(rgb, background) - 1e-6).all()
    assert (render <= torch.maximum(rgb, background) + 1e-6).all()


@pytest.mark.parametrize(("alpha", "foreground"), [(-1e-6, False), (0.0, False), (1e-6, True), (0.5, True)])
def test_hard_render_shows_every_trace_of_foreground_fully(alpha, foreground):
    render = hard_render(flat(RED), opacity(alpha), GREEN)
    assert torch.equal(render, flat(RED if foreground else GREEN))


def test_hard_render_follows_a_given_mask_instead_of_alpha():
    mask = torch.zeros(1, 1, 2, 4, 5, dtype=torch.bool)
    mask[..., 0] = True
    render = hard_render(flat(RED), opacity(0.0), GREEN, mask)
    assert torch.equal(render[..., :1], flat(RED)[..., :1])
    assert torch.equal(render[..., 1:], flat(GREEN)[..., 1:])


@pytest.mark.parametrize("render", [soft_render, hard_render])
def test_every_sample_gets_its_own_colour(render):
    out = render(flat(RED, 2), opacity(0.0, 2), torch.stack([GREEN, WHITE]))
    assert torch.equal(out, torch.cat([flat(GREEN), flat(WHITE)]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_of_the_picture_is_kept_whatever_the_colour_has(dtype):
    assert soft_render(flat(RED).to(dtype), opacity(0.5).to(dtype), GREEN).dtype == dtype
    assert hard_render(flat(RED).to(dtype), opacity(0.5).to(dtype), GREEN).dtype == dtype


def test_soft_gradient_reaches_alpha_and_hard_gradient_only_visible_colour():
    rgb, alpha = flat(RED).requires_grad_(), opacity(0.5).requires_grad_()
    soft_render(rgb, alpha, GREEN).sum().backward()
    # d/d(alpha) of rgb·alpha + colour·(1 - alpha), summed over channels: (1+1) + (-1-1) + (-1+1) = 0 for red on green
    assert torch.equal(alpha.grad, torch.zeros_like(alpha))
    assert torch.equal(rgb.grad, torch.full_like(rgb, 0.5))
    rgb, alpha = flat(WHITE).requires_grad_(), opacity(0.5).requires_grad_()
    (soft_render(rgb, alpha, GREEN) + hard_render(rgb, alpha, GREEN)).sum().backward()
    assert torch.equal(alpha.grad, torch.full_like(alpha, 4.0))
    assert torch.equal(rgb.grad, torch.full_like(rgb, 1.5))


def test_alpha_survives_the_way_to_a_picture_and_back():
    alpha = torch.linspace(-0.25, 1.25, 40).reshape(1, 1, 2, 4, 5)
    picture = alpha_to_rgb(alpha)
    assert picture.shape == (1, 3, 2, 4, 5)
    assert picture.min() == -1.5  # not clamped: overshoot must be felt
    torch.testing.assert_close(rgb_to_alpha(picture), alpha)


def test_decoded_alpha_is_the_mean_of_three_channels():
    picture = flat(torch.tensor([1.0, 0.0, -0.4]))
    torch.testing.assert_close(rgb_to_alpha(picture), opacity(0.6))


def test_checkerboard_alternates_from_a_light_corner_and_cuts_the_last_cells():
    board = checkerboard(5, 7, cell=2, light=1, dark=0)
    expected = [[1, 1, 0, 0, 1, 1, 0]] * 2 + [[0, 0, 1, 1, 0, 0, 1]] * 2 + [[1, 1, 0, 0, 1, 1, 0]]
    assert board.shape == (3, 5, 7)
    assert board[1].tolist() == expected
    assert torch.equal(board[0], board[2])
    assert checkerboard(1, 1, cell=1).tolist() == [[[1]]] * 3
    torch.testing.assert_close(checkerboard(9, 9)[0, ::8, ::8], torch.tensor([[1, 0.6], [0.6, 1]]))


def test_cell_means_take_the_first_frame_alone():
    x = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 8, 16).clone()
    x[:, :, :, :, 8:] += 10
    assert cell_means(x, temporal=4, spatial=8).tolist() == [[[[[0.0, 10.0]], [[2.5, 12.5]]]]]  # mean of 1, 2, 3, 4
    assert cell_means(x[:, :, :1], temporal=4, spatial=8).tolist() == [[[[[0.0, 10.0]]]]]


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"expected alpha of shape \(1, 1, 2, 4, 5\).*got \(1, 3, 2, 4, 5\)"):
        soft_render(flat(RED), flat(RED), GREEN)
    with pytest.raises(ValueError, match=r"expected alpha of shape \(1, 1, 2, 4, 5\).*got \(1, 3, 2, 4, 5\)"):
        hard_render(flat(RED), flat(RED), GREEN)
    with pytest.raises(ValueError, match=r"expected rgb of shape \(B, 3, T, H, W\), got \(1, 1, 2, 4, 5\)"):
        soft_render(opacity(1.0), opacity(1.0), GREEN)
    with pytest.raises(ValueError, match=r"colour of shape \(3,\) or \(2, 3\) for a batch of 2, got \(1, 3\)"):
        hard_render(flat(RED, 2), opacity(1.0, 2), GREEN[None])
    with pytest.raises(TypeError, match=r"mask must be boolean, got torch.float32"):
        hard_render(flat(RED), opacity(1.0), GREEN, opacity(1.0))
    with pytest.raises(ValueError, match=r"mask \(1, 1, 1, 4, 5\) must have the shape of alpha"):
        hard_render(flat(RED), opacity(1.0), GREEN, opacity(1.0)[:, :, :1] > 0)
    with pytest.raises(ValueError, match=r"expected alpha of shape \(B, 1, T, H, W\), got \(1, 3, 2, 4, 5\)"):
        alpha_to_rgb(flat(RED))
    with pytest.raises(ValueError, match=r"expected a picture of shape \(B, 3, T, H, W\), got \(1, 1, 2, 4, 5\)"):
        rgb_to_alpha(opacity(1.0))
    with pytest.raises(ValueError, match="sizes must be positive, got 4x4 with cells of 0"):
        checkerboard(4, 4, cell=0)
