"""Sliding windows: where they go, and that nothing is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wan_alpha.data.dataset import ClipDataset
from wan_alpha.data.resize import resize_rgba
from wan_alpha.data.source import Clip
from wan_alpha.data.windows import WindowPath, draw_path, integer_windows, slide


def disc(side: int = 96, radius: float = 20.0) -> np.ndarray:
    """A red disc in the middle of an empty green picture, uint8 (side, side, 4), with an anti-aliased rim."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    picture = np.zeros((side, side, 4), np.uint8)
    picture[..., 1] = 255  # what lies under full transparency
    picture[alpha > 0] = [255, 0, 0, 0]
    picture[..., 3] = np.rint(alpha * 255)
    return picture


def centroid(alpha: torch.Tensor) -> torch.Tensor:
    """(T, H, W) -> (T, 2) vertical and horizontal centre of mass in pixels."""
    height, width = alpha.shape[-2:]
    mass = alpha.sum((1, 2))
    y = (alpha.sum(2) * (torch.arange(height) + 0.5)).sum(1) / mass
    x = (alpha.sum(1) * (torch.arange(width) + 0.5)).sum(1) / mass
    return torch.stack([y, x], dim=1)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 20), height=st.integers(20, 90), width=st.integers(20, 90))
def test_windows_stay_inside_and_keep_their_shape(seed, count, height, width):
    boxes = draw_path(np.random.default_rng(seed), (1.0, 2.0)).boxes(count, (height, width), (16, 24))
    assert boxes.shape == (count, 4)
    assert (boxes[:, :2] >= -1e-9).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height + 1e-9).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width + 1e-9).all()
    np.testing.assert_allclose(boxes[:, 2] / boxes[:, 3], 16 / 24)


def test_a_path_moves_by_the_same_fraction_of_a_pixel_in_each_frame():
    boxes = WindowPath((0.5, 0.4), (0.5, 0.5), (2.0, 2.0)).boxes(9, (96, 96), (48, 48))
    centres = centroid(slide(disc(radius=15.0), boxes, (48, 48))[:, 3])
    # The room is 48 px and 0.1 of it is crossed in eight steps: 0.6 px each, against the motion of the window.
    torch.testing.assert_close(centres[1:, 1] - centres[:-1, 1], torch.full((8,), -0.6), atol=2e-2, rtol=0)
    torch.testing.assert_close(centres[:, 0], torch.full((9,), 24.0), atol=2e-2, rtol=0)


def test_easing_starts_and_stops_gently():
    places = WindowPath((0.0, 0.0), (1.0, 1.0), (2.0, 2.0), ease=1.0).boxes(11, (100, 100), (50, 50))[:, 0]
    steps = np.diff(places)
    assert steps[0] < steps[5] / 2
    np.testing.assert_allclose(steps, steps[::-1])


def test_zoom_moves_evenly_in_the_logarithm():
    heights = WindowPath((0.5, 0.5), (0.5, 0.5), (1.0, 2.0)).boxes(5, (64, 64), (32, 32))[:, 2]
    np.testing.assert_allclose(heights[1:] / heights[:-1], 2 ** (-1 / 4))


@pytest.mark.parametrize("side", [24, 48, 96])
def test_hidden_colour_never_shows_at_an_edge(side):
    boxes = WindowPath((0.13, 0.2), (0.31, 0.77), (1.0, 1.7)).boxes(5, (96, 96), (side, side))
    rgba = slide(disc(), boxes, (side, side))
    seen = rgba[:, 3] > 0.02
    assert rgba[:, 1][seen].max() < 0.02  # no green
    assert rgba[:, 0][seen].min() > 0.98  # pure red up to the rim
    assert (rgba[:, :3].sum(1)[rgba[:, 3] == 0] == 0).all()


def test_the_whole_picture_agrees_with_plain_resizing():
    boxes = WindowPath((0.0, 0.0), (0.0, 0.0)).boxes(1, (96, 96), (32, 32))
    ours, plain = slide(disc(), boxes, (32, 32))[0], resize_rgba(disc()[None], (32, 32))[0]
    assert (ours[3] - plain[3]).abs().mean() < 0.01  # another filter, the same picture
    torch.testing.assert_close(ours[3].sum(), plain[3].sum(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("size", [(36, 24), (12, 8)], ids=["full detail", "reduced"])
def test_every_pixel_shows_what_lies_there(size):
    """Linear colour survives averaging and interpolation exactly, so it says where each pixel was cut."""
    picture = np.full((70, 118, 4), 255, np.uint8)  # no multiples of what they are reduced by
    picture[..., 0], picture[..., 1] = 3 * np.arange(70)[:, None], 2 * np.arange(118)
    box = np.array([[12.5, 30.25, 48.0, 32.0]])
    seen = slide(picture, box, size)[0] * 255
    down, across = (box[0, k] + (np.arange(size[k]) + 0.5) * box[0, 2 + k] / size[k] - 0.5 for k in (0, 1))
    np.testing.assert_allclose(seen[0], np.repeat(3 * down[:, None], size[1], 1), atol=0.05)
    np.testing.assert_allclose(seen[1], np.repeat(2 * across[None], size[0], 0), atol=0.05)
    assert (seen[3] == 255).all()


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 17))
def test_the_authors_form_cuts_whole_pixels_in_a_straight_line(seed, count):
    picture = np.zeros((40, 56, 4), np.uint8)
    picture[..., 0], picture[..., 1] = np.mgrid[:40, :56]  # every pixel says where it was
    frames = integer_windows(np.random.default_rng(seed), picture, count, (16, 24))
    assert frames.shape == (count, 16, 24, 4)
    corners = frames[:, 0, 0, :2].astype(int)
    steps = np.diff(corners, axis=0)
    assert (steps == steps[:1]).all()
    for frame, (top, left) in zip(frames, corners, strict=True):
        np.testing.assert_array_equal(frame, picture[top : top + 16, left : left + 24])


def test_the_authors_form_leads_away_from_the_quadrant_in_three_directions_at_every_speed():
    picture = np.zeros((40, 56, 4), np.uint8)
    picture[..., 0], picture[..., 1] = np.mgrid[:40, :56]
    moves, fastest = set(), 0
    for seed in range(300):
        frames = integer_windows(np.random.default_rng(seed), picture, 5, (16, 24))
        (top, left), (down, right) = (
            frames[0, 0, 0, :2].astype(int),
            np.diff(frames[:2, 0, 0, :2].astype(int), axis=0)[0],
        )
        assert down * (1 if top <= 12 else -1) >= 0
        assert right * (1 if left <= 16 else -1) >= 0
        moves.add((bool(down), bool(right)))
        fastest = max(fastest, abs(down), abs(right))
    assert moves == {(False, False), (True, False), (False, True), (True, True)}
    assert fastest == 32 // 4  # all the room, in four steps


def test_the_authors_form_says_when_a_still_is_too_small():
    with pytest.raises(ValueError, match="a window of 64x64 does not fit into a still of 40x56"):
        integer_windows(np.random.default_rng(0), np.zeros((40, 56, 4), np.uint8), 5, (64, 64))


class OneStill:
    """A source of a single picture."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture
        self.clips = [Clip("disc", 1, 24.0, *picture.shape[:2], "a disc", "train")]
        self.problems: list[str] = []
        self.manifest_hash = ""

    def __len__(self) -> int:
        return 1

    def read(self, index: int, start: int, count: int, stride: int = 1) -> np.ndarray:
        return np.repeat(self.picture[None], count, axis=0)

    def describe(self, index: int) -> str:
        return "disc"


@pytest.mark.parametrize(("stills", "moves"), [("smooth", True), ("integer", True), ("static", False)])
def test_a_still_becomes_a_clip_that_follows_from_its_number(stills, moves):
    def dataset():
        return ClipDataset(OneStill(disc()), 9, 48, seed=3, scale=(1.5, 2.0), stills=stills)

    samples = [dataset()[n]["alpha"] for n in range(12)]
    assert all(torch.equal(a, dataset()[n]["alpha"]) for n, a in enumerate(samples))
    assert any((a[0, 1:] != a[0, :-1]).any() for a in samples) == moves
