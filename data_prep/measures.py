"""What a clip offers to matting: how much its outline moves and how much of it is translucent."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from wan_alpha.data.resize import Frames

TRANSLUCENT = (25, 230)
"""Alpha steps (of 255, exclusive) between which a pixel is truly translucent and not just an anti-aliased edge."""


class Measures(TypedDict):
    """`motion`: mean |alpha(t+1) - alpha(t)| over all pixels, in [0, 1]; `translucent`, `soft`: shares of the
    foreground (alpha > 0) with 25 < alpha < 230 and 0 < alpha < 255; `coverage`: mean alpha."""

    motion: float
    translucent: float
    soft: float
    coverage: float


def measure(frames: Frames) -> Measures:
    """Measures of straight RGBA frames, uint8 (T, H, W, 4)."""
    alpha = frames[..., 3]
    foreground = max(int((alpha > 0).sum()), 1)
    low, high = TRANSLUCENT
    steps = np.abs(np.diff(alpha.astype(np.int16), axis=0))
    return Measures(
        motion=round(float(steps.mean()) / 255, 5) if len(steps) else 0.0,
        translucent=round(float(((alpha > low) & (alpha < high)).sum() / foreground), 5),
        soft=round(float(((alpha > 0) & (alpha < 255)).sum() / foreground), 5),
        coverage=round(float(alpha.mean()) / 255, 5),
    )
