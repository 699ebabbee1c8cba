"""How sharp a clip is, whatever it shows: from the sharpest of its edges, so that hair and smoke are no blur."""

from __future__ import annotations

import cv2
import numpy as np

from data_prep.measures.pictures import Floats, gradient, luma_on_grey

REBLUR = 1.0  # pixels
MIN_EDGE = 0.01  # luma per pixel
STRONG = 0.2
"""An edge is a peak of the gradient of at least this share of the strongest ones (99.5th percentile)."""
MIN_PIXELS = 10
SHARPEST = 25
"""The percentile of the blur over all edges that counts."""


def sharpness(premultiplied: Floats) -> float | None:
    """1 / (1 + s), s being the blur of the sharpest quarter of the edges as a Gaussian in pixels.

    A step edge blurred by s and once more by s0 keeps 1/R = s / sqrt(s² + s0²) of its gradient, hence
    s = s0 / sqrt(R² - 1) (Zhuo and Sim 2011); contrast cancels out.  Outlines count as edges, on grey.

    Args:
        premultiplied: (T, H, W, 4) in [0, 1].

    Returns:
        In (0, 1]; none where there are hardly any edges.
    """
    luma = luma_on_grey(premultiplied)
    again = np.stack([cv2.GaussianBlur(picture, (0, 0), REBLUR) for picture in luma])
    before, after = gradient(luma), gradient(again)
    edge = before > max(MIN_EDGE, STRONG * float(np.percentile(before, 99.5)))
    # An edge is where the gradient peaks; on its flanks the second blur raises it, which says nothing.
    peak = np.stack([cv2.dilate(picture, np.ones((3, 3), np.uint8)) for picture in before])
    edge &= before >= 0.95 * peak
    if edge.sum() < MIN_PIXELS * len(luma):
        return None
    ratio = np.maximum(before[edge] / np.maximum(after[edge], 1e-6), 1.0)
    blur = REBLUR / np.sqrt(np.maximum(ratio**2 - 1, 1e-4))
    return float(1 / (1 + np.percentile(blur, SHARPEST)))
