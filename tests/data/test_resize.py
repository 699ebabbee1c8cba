"""Resizing has no fringe, and says exactly what is empty."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from rgba_media import disc

from wan_alpha.data.resize import empty, resize_clip, resize_rgba, to_uint8


@pytest.mark.parametrize("hidden", [0, 255])
def test_no_fringe_whatever_colour_is_hidden_under_alpha_zero(hidden: int) -> None:
    """A flat colour over soft alpha must come out as that colour wherever there is any opacity."""
    colour = np.array([200, 40, 90], np.uint8)
    frames = np.empty((1, 64, 64, 4), np.uint8)
    frames[..., :3] = colour
    frames[..., 3] = disc(1, 64, 64)[..., 3]
    frames[frames[..., 3] == 0, :3] = hidden
    rgba = resize_rgba(frames, (16, 16))
    visible = rgba[:, 3] > 0
    found = rgba[:, :3].permute(0, 2, 3, 1)[visible]
    assert visible.any()
    assert not visible.all()
    torch.testing.assert_close(found, (torch.from_numpy(colour) / 255).expand_as(found), atol=1e-5, rtol=0)
    assert (rgba[:, :3].permute(0, 2, 3, 1)[~visible] == 0).all()


def test_windows_and_mirrored_views_are_what_they_show_and_stay_as_they_were() -> None:
    frames = np.random.default_rng(0).integers(256, size=(2, 30, 40, 4), dtype=np.uint8)
    for view in (frames[:, 3:20, 5:30], frames[:, 3:20, 5:30][:, :, ::-1], frames[:, ::-1], frames[:, :, ::2]):
        before = view.copy()
        for size in ((8, 8), view.shape[1:3]):
            assert torch.equal(resize_rgba(view, size), resize_rgba(before, size))
        np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("size", [(8, 12), (30, 40), (50, 60)])
def test_a_clip_for_the_model_is_the_same_picture(size: tuple[int, int]) -> None:
    frames = disc(3, 30, 40)
    rgba, (rgb, alpha) = resize_rgba(frames, size).permute(1, 0, 2, 3), resize_clip(frames, size)
    assert torch.equal(rgb, rgba[:3] * 2 - 1)
    assert torch.equal(alpha, rgba[3:])


def test_two_pixels_into_one_in_closed_form() -> None:
    """Opaque red beside half-transparent blue: the mean of premultiplied colours over the mean alpha."""
    frames = np.zeros((1, 1, 2, 4), np.uint8)
    frames[0, 0, 0] = 255, 0, 0, 255
    frames[0, 0, 1] = 0, 0, 255, 51
    rgba = resize_rgba(frames, (1, 1)).flatten()
    torch.testing.assert_close(rgba, torch.tensor([1 / 1.2, 0, 0.2 / 1.2, 0.6]))


def test_same_size_changes_nothing_but_hidden_colour() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 4), dtype=np.uint8)
    frames[0, :2, :, 3] = 0
    frames[0, 2, :, 3] = 1
    expected = frames.copy()
    expected[frames[..., 3] == 0] = 0
    np.testing.assert_array_equal(to_uint8(resize_rgba(frames, (8, 8))), expected)


def test_alpha_below_one_step_becomes_exact_zero() -> None:
    frames = np.zeros((1, 64, 64, 4), np.uint8)
    frames[0, 20, 20] = 255, 255, 255, 30  # averaged over 8x8 and more pixels: less than 1 of 255
    rgba = resize_rgba(frames, (8, 8))
    assert float(rgba.abs().max()) == 0


@pytest.mark.parametrize("size", [(8, 12), (45, 40), (45, 61), (12, 61)])
def test_larger_and_smaller_is_the_anti_aliased_filter_in_premultiplied_space(size: tuple[int, int]) -> None:
    """Larger frames go through another library; both must be torch's triangle filter."""
    frames = np.random.default_rng(0).integers(256, size=(2, 30, 40, 4), dtype=np.uint8)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).double() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)
    x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    wanted = torch.cat([x[:, :3] / x[:, 3:].clamp_min(1e-9), x[:, 3:]], 1)
    visible = wanted[:, 3:] > 2 / 255
    found = resize_rgba(frames, size)
    torch.testing.assert_close(found * visible, (wanted * visible).float(), atol=2e-5, rtol=0)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    first = empty(7, 11, 13).fill_(1)
    part, place = first[0, 3].numpy(), first.data_ptr()
    del first
    second = empty(13, 11, 7).fill_(2)
    assert second.data_ptr() != place, "a part of it is still held"
    assert (part == 1).all()
    del part
    gc.collect()
    third = empty(11, 7, 13)
    assert third.data_ptr() == place
    assert third.shape == (11, 7, 13)
    assert (second == 2).all()
