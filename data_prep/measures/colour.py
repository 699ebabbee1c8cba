"""What the colours of the foreground are like.  Everything is weighed by alpha: what is hardly seen hardly counts."""

from __future__ import annotations

import cv2
import numpy as np

from data_prep.measures.outline import TRANSLUCENT
from data_prep.measures.pictures import REC709, Floats

DARK = 0.5
"""The largest channel up to which a translucent pixel does not glow; smoke and glass stay below it."""
FAINT = 1 / 255


def brightness(premultiplied: Floats) -> float | None:
    """Mean Rec. 709 luma of the foreground's straight colour, in [0, 1]; none if the frames are empty.

    All functions here take premultiplied frames (T, H, W, 4) in [0, 1].
    """
    weight = float(premultiplied[..., 3].sum())
    return float((premultiplied[..., :3] @ REC709).sum()) / weight if weight > 0 else None


def greyness(premultiplied: Floats) -> float | None:
    """1 - mean distance of the largest from the smallest channel: 1 is grey throughout, 0 the purest colours."""
    weight = float(premultiplied[..., 3].sum())
    colour = premultiplied[..., :3]
    return 1 - float((colour.max(axis=-1) - colour.min(axis=-1)).sum()) / weight if weight > 0 else None


def contrast(premultiplied: Floats) -> float | None:
    """Distance of the 95th from the 5th percentile of the luma where alpha > 1/2, in [0, 1]; none if nowhere."""
    alpha = premultiplied[..., 3]
    solid = alpha > 0.5
    if not solid.any():
        return None
    luma = (premultiplied[solid][:, :3] @ REC709) / alpha[solid]
    low, high = np.percentile(luma, [5, 95])
    return float(high - low)


def glow(premultiplied: Floats) -> float | None:
    """How much bright light surrounds or fills the foreground: fire, sparks, halos.

    Mean over alpha > 0 of how far the largest channel of the straight colour lies above one half, taken twice, where
    a whole 3x3 neighbourhood is translucent; an anti-aliased edge is thinner than that.

    Returns:
        In [0, 1]; none if the frames are empty.
    """
    alpha = premultiplied[..., 3]
    foreground = int((alpha > 0).sum())
    low, high = (step / 255 for step in TRANSLUCENT)
    kernel = np.ones((3, 3), np.uint8)
    inside = [cv2.erode(((a > low) & (a < high)).astype(np.uint8), kernel, borderValue=0) > 0 for a in alpha]
    peak = premultiplied[..., :3].max(axis=-1) / np.maximum(alpha, FAINT)
    light = np.clip((peak - DARK) / (1 - DARK), 0, 1)
    return float(light[np.stack(inside)].sum()) / foreground if foreground else None
