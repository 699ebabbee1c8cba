"""Everything that is measured on a clip for curation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from data_prep.measures.colour import brightness, contrast, glow, greyness
from data_prep.measures.matte import edge_width, haze, noise
from data_prep.measures.motion import change, flow
from data_prep.measures.outline import measure
from data_prep.measures.pictures import premultiply
from data_prep.measures.sharpness import sharpness
from wan_alpha.data.resize import Frames, resize_rgba

VERSION = 1
"""Part of every cache key: raise it when a measure changes."""
SPARSE = 4
"""What changes slowly from frame to frame is measured on every fourth."""


def measure_group(frames: Frames, fps: float, side: int) -> dict[str, float | None]:
    """The measures that frames show, which are all but the number of frames and the size.

    Args:
        frames: uint8 (T, H, W, 4), straight colour, consecutive, at the clip's own size.
        fps: frames per second.
        side: the short side at which everything but `noise` and `haze` is measured; smaller clips stay as they are.

    Returns:
        By name; none for what has no meaning here (motion of a still, edges where there are none).
    """
    small = premultiply(resize_rgba(frames, fitted(frames.shape[1:3], side)))
    sparse, own = small[::SPARSE], frames[::SPARSE]
    shares = measure(own)
    return {
        "change": change(small, fps),
        "flow": flow(small, fps),
        "coverage": shares["coverage"],
        "soft": shares["soft"],
        "translucent": shares["translucent"],
        "glass": shares["glass"],
        "edge_width": edge_width(sparse[..., 3]),
        "glow": glow(sparse),
        "brightness": brightness(sparse),
        "contrast": contrast(sparse),
        "greyness": greyness(sparse),
        "sharpness": sharpness(sparse),
        "noise": noise(own[..., 3]),
        "haze": haze(own[..., 3]),
    }


def measure_clip(groups: Iterable[Frames], fps: float, num_frames: int, side: int) -> dict[str, float | None]:
    """All `MEASURES` of a clip: means over its groups of frames.

    Args:
        groups: as `measure_group` takes them; one is looked at after the other, so that memory stays flat.
        fps: frames per second.
        num_frames: of the whole clip.
        side: see `measure_group`.
    """
    found: list[tuple[int, dict[str, float | None]]] = []
    short_side = 0
    for group in groups:
        short_side = min(group.shape[1:3])
        found.append((len(group), measure_group(group, fps, side)))
    means = {name: _mean([(values[name], length) for length, values in found]) for name in found[0][1]}
    return means | {"frames": float(num_frames) if num_frames > 1 else None, "short_side": float(short_side)}


def fitted(size: Sequence[int], side: int) -> tuple[int, int]:
    """(height, width), reduced to a short side of `side` if it is longer."""
    scale = min(1.0, side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _mean(values: Sequence[tuple[float | None, int]]) -> float | None:
    """Mean of values, each with its weight, five decimals; none if there is no value at all."""
    known = [(value, weight) for value, weight in values if value is not None]
    total = sum(weight for _, weight in known)
    return round(sum(value * weight for value, weight in known) / total, 5) if total else None


def sample_frames(num_frames: int, most: int, group: int) -> list[tuple[int, int]]:
    """(start, count) of the frames to look at: all of a short clip, else groups spread evenly over a long one.

    Args:
        num_frames: of the clip.
        most: frames to look at.
        group: frames of one group, which are consecutive.
    """
    if num_frames <= max(most, group):
        return [(start, min(group, num_frames - start)) for start in range(0, num_frames, group)]
    starts = np.linspace(0, num_frames - group, max(1, most // group)).round().astype(int)
    return [(int(start), group) for start in starts]
