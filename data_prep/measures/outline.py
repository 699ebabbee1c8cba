"""What a clip offers to matting: how much its outline moves and how much of it is translucent."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from wan_alpha.data.resize import Frames

TRANSLUCENT = (25, 230)
"""Alpha steps (of 255, exclusive) between which a pixel is truly translucent and not just an anti-aliased edge."""


class Measures(TypedDict):
    """`motion`: mean |alpha(t+1) - alpha(t)| over all pixels, in [0, 1].  Shares of the foreground (alpha > 0):
    `soft` has 0 < alpha < 255, `translucent` 25 < alpha < 230, and around `glass` the whole 3x3 neighbourhood is
    translucent, which tells glass and smoke from thin outlines.  `coverage`: mean alpha."""

    motion: float
    glass: float
    translucent: float
    soft: float
    coverage: float


def measure(frames: Frames) -> Measures:
    """Measures of straight RGBA frames, uint8 (T, H, W, 4); memory does not grow with their number."""
    low, high = TRANSLUCENT
    foreground = glass = translucent = soft = opacity = moved = 0
    before: Frames | None = None
    for alpha in frames[..., 3]:
        inside = (alpha > low) & (alpha < high)
        foreground += int((alpha > 0).sum())
        glass += int(_eroded(inside).sum())
        translucent += int(inside.sum())
        soft += int(((alpha > 0) & (alpha < 255)).sum())
        opacity += int(alpha.sum(dtype=np.int64))
        moved += 0 if before is None else int(np.abs(alpha.astype(np.int16) - before).sum(dtype=np.int64))
        before = alpha
    pixels, foreground = frames[..., 3].size, max(foreground, 1)
    steps = pixels - frames[0, ..., 3].size
    return Measures(
        motion=round(moved / steps / 255, 5) if steps else 0.0,
        glass=round(glass / foreground, 5),
        translucent=round(translucent / foreground, 5),
        soft=round(soft / foreground, 5),
        coverage=round(opacity / pixels / 255, 5),
    )


def _eroded(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of (H, W) whose 3x3 neighbourhood is true throughout; the border is left away."""
    rows = mask[:-2] & mask[1:-1] & mask[2:]
    eroded: npt.NDArray[np.bool_] = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return eroded
