"""How good a transparency is, without a true one to compare with.

Clips are straight RGBA; alpha is (T, H, W) in [0, 1], float; colours are (T, H, W, 3) in [0, 1], float.  A figure that
has nothing to look at (no edge, no background) is NaN: absence is not a score.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Alpha = npt.NDArray[np.floating]
Colours = npt.NDArray[np.floating]

VISIBLE = 0.05
"""An alpha above this counts as something that is there."""
OPAQUE = 0.95
SEAM = 3
"""Pixels that the seam between opaque and empty may spread to either side and still be an edge, not a translucency."""
RIM = 0.03
"""How deep inside alpha's boundary a rim is looked for, as a share of the shorter side (at least 5 px)."""
TRUE_BACKGROUND = 0.02
"""How far from anything visible background must be, as a share of the shorter side (at least 3 px)."""


def edge_width(alpha: Alpha) -> float:
    """Median width of the ramp through alpha = 0.5, in pixels: 1 for a hard step, w for a linear ramp of w pixels.

    At every pair of neighbours with 0.5 between them the slope is (step across the pair, mean slope along it); the
    width is 1 / |slope|: how far 0 and 1 would lie apart on the straight line through that point.
    """
    widths = []
    for axis in (1, 2):
        a, b = (np.take(alpha, range(s, alpha.shape[axis] - 1 + s), axis) for s in (0, 1))
        crossing = (a - 0.5) * (b - 0.5) < 0
        crossing |= ((a == 0.5) ^ (b == 0.5)) & (a != b)
        if not crossing.any():
            continue
        along = np.gradient(alpha, axis=3 - axis) if alpha.shape[3 - axis] > 1 else np.zeros_like(alpha)
        c, d = (np.take(along, range(s, alpha.shape[axis] - 1 + s), axis) for s in (0, 1))
        slope = np.hypot(b - a, (c + d) / 2)[crossing]
        widths.append(1 / np.minimum(slope, 1.0))  # a staircase of hard steps is still a hard edge
    return float(np.median(np.concatenate(widths))) if widths else math.nan


def translucent_share(alpha: Alpha) -> float:
    """Share of the visible pixels that are translucent: alpha in (0.05, 0.95) and not in the seam of an edge.

    A pixel belongs to a seam if both something opaque (>= 0.95) and something empty (<= 0.05) lie within 3 pixels.
    """
    visible = alpha > VISIBLE
    if not visible.any():
        return math.nan
    near = np.ones((2 * SEAM + 1, 2 * SEAM + 1), np.uint8)
    translucent = 0
    for frame in alpha:
        opaque = cv2.dilate((frame >= OPAQUE).astype(np.uint8), near) > 0
        empty = cv2.dilate((frame <= VISIBLE).astype(np.uint8), near) > 0
        translucent += int(((frame > VISIBLE) & (frame < OPAQUE) & ~(opaque & empty)).sum())
    return translucent / int(visible.sum())


def translucency_error(share: float, expected: tuple[float, float]) -> float:
    """How far a translucent share lies outside of the expected range; 0 inside."""
    low, high = expected
    return math.nan if math.isnan(share) else max(0.0, low - share, share - high)


def background_leak(alpha: Alpha) -> float:
    """Mean alpha, times 1000, of the background: what is farther from anything visible than 2 % of the shorter side."""
    reach = max(3, round(TRUE_BACKGROUND * min(alpha.shape[1:])))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    total, count = 0.0, 0
    for frame in alpha:
        background = cv2.dilate((frame > VISIBLE).astype(np.uint8), disc) == 0
        total, count = total + float(frame[background].sum()), count + int(background.sum())
    return total / count * 1e3 if count else math.nan


def alpha_floor(alpha: Alpha) -> float:
    """Mean alpha, times 1000, of the emptiest tenth of each frame: 0 unless a veil lies over everything."""
    flat = alpha.reshape(len(alpha), -1)
    tenth = max(1, flat.shape[1] // 10)
    return float(np.partition(flat, tenth - 1, axis=1)[:, :tenth].mean() * 1e3)


def edge_agreement(colours: Colours, alpha: Alpha) -> float:
    """1 where the colours show no edge close to alpha's boundary that alpha has not; towards 0 with a rim.

    Colours of pixels that cannot be seen mean nothing, so they are replaced by the nearest visible ones.  What is left
    of colour edges within a band along the inside of the boundary is compared with the edges farther inside:
    1 - clip((band - inside) / (band + inside + 0.01), 0, 1).  An alpha that is shifted against its colours, or cut too
    wide, shows a rim of something else there.
    """
    reach = max(5, round(RIM * min(alpha.shape[1:])))
    values = []
    for rgb, matte in zip(colours, alpha, strict=True):
        visible = matte > 0.5
        if not visible.any() or visible.all():
            continue
        depth = cv2.distanceTransform(np.pad(visible, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        nearest = ndimage.distance_transform_edt(~visible, return_distances=False, return_indices=True)
        filled = cv2.GaussianBlur(rgb[nearest[0], nearest[1]].astype(np.float32), (0, 0), 1.0)
        across, down = (  # of each channel by itself
            cv2.Sobel(filled, cv2.CV_32F, *order, scale=1 / 8, borderType=cv2.BORDER_REFLECT)
            for order in ((1, 0), (0, 1))
        )
        edges = np.hypot(across, down).mean(-1)
        band, inside = visible & (depth <= reach), visible & (depth > 2 * reach)
        if not inside.any():
            inside = visible & (depth > reach)
        if band.any() and inside.any():
            outer, inner = float(edges[band].mean()), float(edges[inside].mean())
            values.append(1 - min(max((outer - inner) / (outer + inner + 0.01), 0.0), 1.0))
    return float(np.mean(values)) if values else math.nan
