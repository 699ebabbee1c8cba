"""Each measure orders synthetic clips as an eye would."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from data_prep.measures import LabelLimits, measured_labels
from data_prep.measures.clip import measure_clip, sample_frames
from data_prep.measures.names import MEASURES
from data_prep.measures.outline import measure
from data_prep.measures.sharpness import sharpness
from wan_alpha.data.resize import Frames

SIDE = 48
Y, X = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2


def clip(
    alpha: Callable[[int], np.ndarray] | None = None,
    colour: tuple[int, int, int] = (200, 60, 30),
    speed: float = 0.0,
    width: float = 1.0,
    stripes: float = 0.0,
    num_frames: int = 6,
) -> Frames:
    """A disc with an edge of `width` pixels that moves by `speed` pixels per frame, striped if wanted."""
    frames = np.zeros((num_frames, SIDE, SIDE, 4), np.uint8)
    for t in range(num_frames):
        distance = np.hypot(Y, X - speed * t)
        matte = np.clip((14 - distance) / width + 0.5, 0, 1) if alpha is None else alpha(t)
        x = X - speed * t
        shade = 1 + stripes * np.sign(np.sin(0.8 * x) + np.sin(0.45 * x + 1) + np.sin(0.3 * Y))
        frames[t, ..., :3] = np.clip(np.array(colour) * shade[..., None], 0, 255)
        frames[t, ..., 3] = np.rint(255 * matte)
    frames[frames[..., 3] == 0] = 0
    return frames


def measured(frames: Frames, fps: float = 24, side: int = SIDE) -> dict[str, float]:
    found = measure_clip([frames], fps, len(frames), side)
    assert list(found) == list(MEASURES)
    return {name: value for name, value in found.items() if value is not None}


def blurred(frames: Frames, sigma: float) -> Frames:
    """The whole picture out of focus, colour and matte alike, as a lens does it."""
    import cv2

    premultiplied = frames.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in premultiplied])
    soft[..., :3] *= 255 / np.maximum(soft[..., 3:], 1)
    result: Frames = np.rint(soft).clip(0, 255).astype(np.uint8)
    return result


def assert_rises(name: str, *clips: Frames) -> None:
    values = [measured(frames)[name] for frames in clips]
    assert values == sorted(set(values)), f"{name}: {values}"


def test_what_moves_faster_changes_more() -> None:
    slow, fast = clip(speed=0.25, stripes=0.3), clip(speed=1, stripes=0.3)
    assert_rises("change", clip(stripes=0.3), slow, fast)
    assert_rises("flow", clip(stripes=0.3), slow, fast)
    assert measured(clip())["change"] == measured(clip())["flow"] == 0


def test_motion_in_closed_form() -> None:
    blink = np.zeros((3, SIDE, SIDE, 4), np.uint8)
    blink[:, 8:40, 8:40] = 255  # white, black, white: three of four channels change by one whole range
    blink[1, ..., :3] = 0
    assert measured(blink, fps=10)["change"] == pytest.approx(0.75 * 10)
    jump = np.zeros((2, SIDE, SIDE, 4), np.uint8)
    jump[0, :20, :20] = jump[1, 30:, 30:] = 255  # from here to there: every pixel that is seen changes wholly
    assert measured(jump, fps=10)["change"] == pytest.approx(10)
    moved = measured(clip(speed=1, stripes=0.3), fps=24)["flow"]
    assert moved == pytest.approx(24 / SIDE, rel=0.25)  # one pixel per frame, in sides per second


def test_empty_ground_does_not_dilute_motion() -> None:
    def padded(frames: Frames, pad: int) -> Frames:
        return np.pad(frames, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    frames = clip(speed=1, stripes=0.3)
    small, large = measured(frames), measured(padded(frames, SIDE), side=3 * SIDE)
    assert large["change"] == pytest.approx(small["change"])
    assert large["flow"] == pytest.approx(small["flow"] / 3, rel=0.2)  # in sides of a picture three times as large


def test_motion_of_a_still_has_no_meaning() -> None:
    found = measure_clip([clip(num_frames=1)], 24, 1, SIDE)
    assert found["change"] is None
    assert found["flow"] is None
    assert found["frames"] is None


def test_motion_is_per_second() -> None:
    frames = clip(speed=1, stripes=0.3)
    assert measured(frames, fps=48)["flow"] == pytest.approx(2 * measured(frames, fps=24)["flow"], rel=1e-3)


def test_soft_edges_are_wide_and_flat_glass_is_no_edge() -> None:
    assert_rises("edge_width", clip(width=1), clip(width=4), clip(width=12))
    assert measured(clip(width=8))["edge_width"] == pytest.approx(8, rel=0.1)
    glass = clip(alpha=lambda t: 0.5 * np.clip(14.5 - np.hypot(Y, X), 0, 1))
    assert measured(glass)["edge_width"] < 5
    assert measured(glass)["translucent"] > 0.9


def test_a_halo_glows_and_smoke_does_not() -> None:
    halo = clip(width=20, colour=(255, 220, 120))
    assert_rises("glow", clip(width=1, colour=(255, 220, 120)), halo)
    assert measured(clip(width=20, colour=(90, 90, 90)))["glow"] == 0
    assert measured(halo)["glass"] > 0.2


def test_brightness_greyness_and_contrast() -> None:
    assert_rises("brightness", clip(colour=(20, 20, 20)), clip(colour=(120, 120, 120)), clip(colour=(250, 250, 250)))
    assert_rises("greyness", clip(colour=(255, 0, 0)), clip(colour=(150, 100, 100)), clip(colour=(120, 120, 120)))
    assert_rises("contrast", clip(stripes=0.1), clip(stripes=0.5))
    assert measured(clip(colour=(255, 0, 0)))["greyness"] == pytest.approx(0, abs=0.01)
    assert measured(clip(colour=(77, 77, 77)))["greyness"] == pytest.approx(1, abs=0.01)


def test_the_outline_in_closed_form() -> None:
    frames = np.zeros((2, 6, 6, 4), np.uint8)
    frames[:, 1:5, 1:5, 3] = 100
    frames[1, 1, 1, 3], frames[1, 1, 2, 3], frames[1, 4, 4, 3] = 255, 25, 230  # the bounds are no longer translucent
    assert measure(frames) == {
        "motion": pytest.approx((155 + 75 + 130) / 36 / 255, abs=6e-6),
        "glass": pytest.approx((4 + 1) / 32, abs=6e-6),
        "translucent": pytest.approx((16 + 13) / 32, abs=6e-6),
        "soft": pytest.approx((16 + 15) / 32, abs=6e-6),
        "coverage": pytest.approx((1600 + 1810) / 72 / 255, abs=6e-6),
    }
    assert measure(frames[:1])["motion"] == measure(0 * frames)["glass"] == 0


@pytest.mark.parametrize(("rows", "spread"), [(2, 0.0), (5, 1.0)])
def test_contrast_leaves_out_a_twentieth_at_either_end(rows: int, spread: float) -> None:
    for dark in (slice(rows), slice(rows, None)):
        frames = np.full((1, SIDE, SIDE, 4), 255, np.uint8)
        frames[:, dark, :, :3] = 0
        assert measured(frames)["contrast"] == pytest.approx(spread)


def test_colours_in_closed_form() -> None:
    halves = np.zeros((2, SIDE, SIDE, 4), np.uint8)
    halves[:, : SIDE // 2] = 255, 0, 0, 255
    halves[:, SIDE // 2 :] = 0, 255, 0, 204  # counts four fifths
    found = measured(halves)
    assert found["brightness"] == pytest.approx((0.2126 + 0.8 * 0.7152) / 1.8, rel=1e-5)
    assert found["contrast"] == pytest.approx(0.7152 - 0.2126, rel=1e-5)
    assert found["greyness"] == pytest.approx(0, abs=1e-6)
    halves[..., 3] = 102
    halves[:, SIDE // 2 :, :, :3] = 0, 0, 191
    found = measured(halves)
    assert "contrast" not in found  # nothing is more than half opaque
    upper, lower = (SIDE // 2 - 1) * (SIDE - 2), (SIDE // 2 - 1) * (SIDE - 2)  # without the outermost pixels
    assert found["glow"] == pytest.approx((upper + lower * (2 * 191 / 255 - 1)) / SIDE**2, rel=1e-4)


def test_what_is_out_of_focus_is_less_sharp_whatever_its_contrast() -> None:
    sharp, faint = clip(stripes=0.5), clip(stripes=0.5, colour=(150, 110, 100))
    assert_rises("sharpness", blurred(sharp, 3), blurred(sharp, 1.5), sharp)
    assert measured(faint)["sharpness"] == pytest.approx(measured(sharp)["sharpness"], abs=0.08)
    assert measured(faint)["sharpness"] > measured(blurred(sharp, 1.5))["sharpness"] + 0.05


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_sharpness_of_a_blurred_step_in_closed_form(sigma: float) -> None:
    step = np.array([0.2 + 0.6 * NormalDist(SIDE / 2, sigma).cdf(x + 0.5) for x in range(SIDE)], np.float32)
    frames = np.ones((1, SIDE, SIDE, 4), np.float32)
    frames[..., :3] = step[:, None]
    assert sharpness(frames) == pytest.approx(1 / (1 + sigma), rel=0.05)


def test_a_soft_outline_is_no_blur() -> None:
    assert measured(clip(width=12, stripes=0.5))["sharpness"] > measured(blurred(clip(stripes=0.5), 1.5))["sharpness"]


@pytest.mark.parametrize("where", ["specks on the ground", "holes in the body", "grain"])
def test_dirt_in_alpha_is_noise(where: str) -> None:
    rng = np.random.default_rng(0)

    def dirty(amount: float) -> Frames:
        frames = clip()
        alpha = frames[..., 3].astype(float)
        chosen = rng.random(alpha.shape) < amount
        if where == "specks on the ground":
            alpha[chosen & (alpha == 0)] = 255
        elif where == "holes in the body":
            alpha[chosen & (alpha == 255)] = 0
        else:
            alpha += rng.normal(0, 255 * amount, alpha.shape) * (alpha > 0)
        frames[..., 3] = alpha.clip(0, 255)
        return frames

    assert_rises("noise", clip(), dirty(0.01), dirty(0.05))
    assert measured(clip())["noise"] < 0.5


def test_grain_is_measured_in_steps_of_255() -> None:
    rng = np.random.default_rng(0)
    grain = np.full((4, SIDE, SIDE, 4), 128, np.uint8)
    grain[..., 3] = np.rint(128 + rng.normal(0, 5, (4, SIDE, SIDE)))
    assert measured(grain)["noise"] == pytest.approx(5, rel=0.1)


def test_haze_is_the_share_of_ground_that_is_not_empty() -> None:
    frames = clip()
    assert measured(frames)["haze"] == 0
    frames[:, :6, :, 3] = 2
    found = measured(frames)
    ground = SIDE * SIDE - np.pi * 17**2
    assert found["haze"] == pytest.approx(6 * SIDE / ground, rel=0.05)
    assert found["noise"] < 0.5


def test_resolution_hardly_matters() -> None:
    large = np.repeat(np.repeat(clip(width=4, stripes=0.3, speed=1), 2, axis=1), 2, axis=2)
    small, same = measured(clip(width=4, stripes=0.3, speed=1)), measured(large)
    for name in ("change", "flow", "coverage", "translucent", "edge_width", "brightness", "greyness", "sharpness"):
        assert same[name] == pytest.approx(small[name], rel=0.2), name
    assert same["short_side"] == 2 * SIDE


def test_frames_are_sampled_in_groups_over_the_whole_clip() -> None:
    assert sample_frames(30, 48, 12) == [(0, 12), (12, 12), (24, 6)]
    assert sample_frames(200, 48, 12) == [(0, 12), (63, 12), (125, 12), (188, 12)]
    assert sample_frames(1, 48, 12) == [(0, 1)]


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
