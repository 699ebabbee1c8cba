"""Everything that is measured on a clip for curation, by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.measures.colour import brightness, contrast, glow, greyness
from data_prep.measures.matte import edge_width, haze, noise
from data_prep.measures.motion import change, flow
from data_prep.measures.outline import measure
from data_prep.measures.pictures import Floats, premultiply
from data_prep.measures.sharpness import sharpness
from wan_alpha.data.resize import Frames, resize_rgba

VERSION = 1
"""Part of every cache key: raise it when a measure changes."""
SPARSE = 4
"""What changes slowly from frame to frame is measured on every fourth."""


class About(NamedTuple):
    """What a measure is: its unit, and one line about it."""

    unit: str
    text: str


MEASURES: dict[str, About] = {
    "change": About("/s", "how fast pixels change over alpha > 0, in full ranges per second"),
    "flow": About("sides/s", "how fast things move over alpha > 0: optical flow, in short sides per second"),
    "coverage": About("", "mean alpha of the picture"),
    "soft": About("", "share of the foreground with 0 < alpha < 255"),
    "translucent": About("", "share of the foreground that is truly translucent"),
    "glass": About("", "share of the foreground whose surroundings are translucent too: glass, smoke"),
    "edge_width": About("px", "mean width of the transition from transparent to opaque"),
    "glow": About("", "bright light in translucent areas of the foreground: fire, halos"),
    "brightness": About("", "mean luma of the foreground"),
    "contrast": About("", "spread of the foreground's luma, 5th to 95th percentile"),
    "greyness": About("", "1: no colour at all, 0: the purest colours"),
    "sharpness": About("", "1 / (1 + blur of the sharpest quarter of the edges in pixels)"),
    "noise": About("of 255", "standard deviation of noise in alpha, away from edges"),
    "haze": About("", "share of the empty ground whose alpha is not zero"),
    "frames": About("", "number of frames"),
    "short_side": About("px", "height or width, the smaller one"),
}


def measure_clip(groups: Sequence[Frames], fps: float, num_frames: int, side: int) -> dict[str, float | None]:
    """All `MEASURES` of a clip.

    Args:
        groups: uint8 (T, H, W, 4), straight colour, each of consecutive frames, at the clip's own size.
        fps: frames per second.
        num_frames: of the whole clip.
        side: the short side at which everything but `noise` and `haze` is measured; smaller clips stay as they are.

    Returns:
        By name; none for what has no meaning for this clip (motion of a still, edges where there are none).
    """
    height, width = groups[0].shape[1:3]
    scale = min(1.0, side / min(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = [premultiply(resize_rgba(group, size)) for group in groups]
    sparse = np.concatenate([group[::SPARSE] for group in small])
    alpha = np.concatenate([group[::SPARSE, ..., 3] for group in groups])
    shares = measure(np.concatenate([group[::SPARSE] for group in groups]))
    per_frame: dict[str, Callable[[Floats], float | None]] = {
        "glow": glow, "brightness": brightness, "contrast": contrast, "greyness": greyness, "sharpness": sharpness,
    }  # fmt: skip
    found: dict[str, float | None] = {
        "change": _mean([change(group, fps) for group in small], small),
        "flow": _mean([flow(group, fps) for group in small], small),
        "coverage": shares["coverage"],
        "soft": shares["soft"],
        "translucent": shares["translucent"],
        "glass": shares["glass"],
        "edge_width": edge_width(sparse[..., 3]),
        **{name: function(sparse) for name, function in per_frame.items()},
        "noise": noise(alpha),
        "haze": haze(alpha),
        "frames": float(num_frames),
        "short_side": float(min(height, width)),
    }
    return {name: None if (value := found[name]) is None else round(value, 5) for name in MEASURES}


def _mean(values: Sequence[float | None], groups: Sequence[Floats]) -> float | None:
    """Mean over groups, each weighed by its number of steps; none if there is no value at all."""
    pairs = [(value, len(group) - 1) for value, group in zip(values, groups, strict=True) if value is not None]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def sample_frames(num_frames: int, most: int, group: int) -> list[tuple[int, int]]:
    """(start, count) of the frames to look at: all of a short clip, else groups spread evenly over a long one.

    Args:
        num_frames: of the clip.
        most: frames to look at.
        group: frames of one group.
    """
    if num_frames <= most:
        return [(0, num_frames)]
    starts = np.linspace(0, num_frames - group, max(1, most // group)).round().astype(int)
    return [(int(start), group) for start, _ in itertools.groupby(starts)]
