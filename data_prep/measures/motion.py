"""How much a clip moves, where there is something to see: empty ground would dilute any average."""

from __future__ import annotations

import cv2
import numpy as np

from data_prep.measures.pictures import Floats, luma_on_grey

SMALLEST = 16
"""Pictures with a shorter side than this, in pixels, are too small for optical flow."""
MARGIN = 8


def change(premultiplied: Floats, fps: float) -> float | None:
    """How fast pixels change: mean |p(t+1) - p(t)| where alpha > 0 in either frame, per second.

    Args:
        premultiplied: consecutive frames (T, H, W, 4) in [0, 1].
        fps: frames per second.

    Returns:
        In units of the full range per second, so a blink from black to white every second is 2; none for less than
        two frames or where nothing is to be seen.
    """
    seen = premultiplied[..., 3] > 0
    union = seen[1:] | seen[:-1]
    if not union.any():
        return None
    steps = np.diff(premultiplied, axis=0)
    np.abs(steps, out=steps)  # zero outside the union
    return float(steps.sum(dtype=np.float64) / (4 * union.sum())) * fps


def flow(premultiplied: Floats, fps: float) -> float | None:
    """How fast things move: length of the optical flow (DIS, Kroeger et al. 2016), weighted by alpha.

    Args:
        premultiplied: consecutive frames (T, H, W, 4) in [0, 1].
        fps: frames per second.

    Returns:
        In short sides of the picture per second; none for less than two frames, tiny pictures or empty ones.
    """
    side = min(premultiplied.shape[1:3])
    if len(premultiplied) < 2 or side < SMALLEST or not premultiplied[..., 3].any():
        return None
    seen = _around(premultiplied)  # the estimate is coarse to fine, and empty ground would slow the coarse steps
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pictures = np.rint(luma_on_grey(seen) * 255).astype(np.uint8)
    total = weight = 0.0
    for before, after, alpha in zip(pictures, pictures[1:], seen[..., 3], strict=False):
        vectors = estimator.calc(before, after, None)  # type: ignore[call-overload]  # none: no first guess
        total += float((np.hypot(vectors[..., 0], vectors[..., 1]) * alpha).sum())
        weight += float(alpha.sum())
    return total / weight * fps / side if weight > 0 else None


def _around(premultiplied: Floats) -> Floats:
    """The frames (T, H, W, 4), cut to where anything is ever seen, and a margin (at least `SMALLEST` pixels)."""
    slices = []
    for axis, length in ((2, premultiplied.shape[1]), (1, premultiplied.shape[2])):
        found = np.flatnonzero(premultiplied[..., 3].any(axis=(0, axis)))
        first, last = max(0, found[0] - MARGIN), min(length, found[-1] + 1 + MARGIN)
        first = max(0, min(first, last - SMALLEST))
        slices.append(slice(first, max(last, min(length, first + SMALLEST))))
    return premultiplied[:, slices[0], slices[1]]
