"""How clean and how soft a matte is."""

from __future__ import annotations

import cv2
import numpy as np

from data_prep.measures.pictures import Floats, gradient
from wan_alpha.data.resize import Frames

MIN_SLOPE = 0.02  # alpha per pixel, below which there is no edge
EDGE_RANGE = 64  # steps of 255 between neighbours, from which on there is an edge and not noise
GROUND = 12  # steps of 255, up to which alpha far from anything more opaque is dirt on empty ground
LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
NEAR = np.ones((5, 5), np.uint8)


def edge_width(alpha: Floats) -> float | None:
    """Mean width of the transition from transparent to opaque, in pixels.

    For a linear ramp of width w, the sum of 4·alpha·(1 - alpha) over the edge is 2w/3 for each pixel of its length, and
    the length is the sum of |grad alpha| (coarea formula).  Flat translucent areas have no gradient and do not count.

    Args:
        alpha: (T, H, W) in [0, 1].

    Returns:
        About 1 for an anti-aliased edge; none if there is no edge.
    """
    slope = gradient(alpha)
    edge = slope > MIN_SLOPE
    if not edge.any():
        return None
    return float(1.5 * (4 * alpha * (1 - alpha))[edge].sum() / slope[edge].sum())


def noise(alpha: Frames) -> float | None:
    """Standard deviation of noise in alpha, away from edges (Immerkaer 1996), in steps of 255.

    A difference of two Laplacians answers neither to flat nor to evenly rising alpha, but to grain and specks, on the
    foreground as on the ground.  Edges are found in a median-filtered copy, so that specks are no edges.

    Args:
        alpha: uint8 (T, H, W), at its own size: resizing would average the noise away.

    Returns:
        None if every frame is empty.
    """
    total = count = 0.0
    for frame in alpha:
        calm = cv2.medianBlur(np.ascontiguousarray(frame), 3)
        steep = cv2.morphologyEx(calm, cv2.MORPH_GRADIENT, NEAR[:3, :3]) > EDGE_RANGE
        edge = cv2.dilate(steep.astype(np.uint8), NEAR)
        looked_at = (edge == 0) & (cv2.dilate(frame, NEAR[:3, :3]) > 0)
        total += float(np.abs(cv2.filter2D(frame.astype(np.float32), -1, LAPLACIANS))[looked_at].sum())
        count += float(looked_at.sum())
    return float(np.sqrt(np.pi / 2) / 6 * total / count) if count else None


def haze(alpha: Frames) -> float | None:
    """Share of the ground, two pixels and more from anything visible, whose alpha is not zero.

    Args:
        alpha: uint8 (T, H, W), at its own size.

    Returns:
        0 for a clean matte; none if there is no ground.
    """
    dirty = ground = 0
    for frame in alpha:
        empty = cv2.dilate((frame > GROUND).astype(np.uint8), NEAR) == 0
        ground += int(empty.sum())
        dirty += int((empty & (frame > 0)).sum())
    return dirty / ground if ground else None
