"""How a clip moves, and whether its alpha moves with it.

Clips are float: colours (T, H, W, 3) and alpha (T, H, W) in [0, 1]; alpha is None for a composite that has none.
"""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from wan_alpha.evaluation.flow import flow, warp
from wan_alpha.evaluation.transparency import VISIBLE

Colours = npt.NDArray[np.floating]
Alpha = npt.NDArray[np.floating]

GREY = 0.5


def on_grey(colours: Colours, alpha: Alpha | None) -> Colours:
    """The clip on mid-grey, or as it is when it has no alpha."""
    if alpha is None:
        return colours
    return colours * alpha[..., None] + GREY * (1 - alpha[..., None])


def luma(pictures: Colours) -> npt.NDArray[np.uint8]:
    """Pictures (T, H, W, 3) in [0, 1] as grey ones, uint8 (T, H, W)."""
    return np.rint((pictures @ np.array([0.299, 0.587, 0.114])) * 255).clip(0, 255).astype(np.uint8)


def temporal_flickering(pictures: Colours) -> float:
    """VBench's: (255 - mean absolute difference of consecutive frames in 0..255) / 255; NaN for one frame."""
    if len(pictures) < 2:
        return math.nan
    return float(1 - np.mean([np.abs(b - a).mean() for a, b in pairwise(pictures)]))


def motion_smoothness(pictures: Colours, alpha: Alpha | None) -> float:
    """How well each frame is predicted by its two neighbours, weighted by alpha; 1 is perfectly.

    VBench drops every second frame, interpolates it with a network, and takes (255 - mean absolute difference) / 255.
    Here the neighbours are brought half-way to each other along their optical flow.  NaN below three frames, or where
    nothing is visible.
    """
    grey = luma(pictures)
    errors, weights = 0.0, 0.0
    for t in range(1, len(pictures) - 1, 2):
        before, after = flow(grey[t - 1], grey[t + 1]), flow(grey[t + 1], grey[t - 1])
        # From the middle, the past lies half a flow back; both flows are read where the middle's pixel is.
        middle = (warp(pictures[t - 1], after / 2) + warp(pictures[t + 1], before / 2)) / 2
        error = np.abs(middle - pictures[t]).mean(-1)
        weight = np.ones_like(error) if alpha is None else alpha[t]
        errors, weights = errors + float((error * weight).sum()), weights + float(weight.sum())
    return 1 - errors / weights if weights > 0 else math.nan


def flow_difference(pictures: Colours, alpha: Alpha) -> float:
    """Mean distance, in pixels, of the Farneback flows of the colours and of alpha (TransPixeler's measure).

    Args:
        pictures: what is seen, (T, H, W, 3); straight colours, as TransPixeler's RGB video.
        alpha: (T, H, W).
    """
    if len(alpha) < 2:
        return math.nan
    grey, matte = luma(pictures), np.rint(alpha * 255).astype(np.uint8)
    distances = []
    for t in range(len(alpha) - 1):
        a, b = (_farneback(x[t], x[t + 1]) for x in (grey, matte))
        distances.append(np.linalg.norm(a - b, axis=-1).mean())
    return float(np.mean(distances))


def alpha_flicker(pictures: Colours, alpha: Alpha) -> float:
    """Mean absolute change of alpha along the flow of the picture, times 1000, over what is visible in either frame."""
    if len(alpha) < 2:
        return math.nan
    grey = luma(pictures)
    total, count = 0.0, 0
    for t in range(len(alpha) - 1):
        there = warp(alpha[t + 1], flow(grey[t], grey[t + 1]))
        visible = (alpha[t] > VISIBLE) | (there > VISIBLE)
        total, count = total + float(np.abs(there - alpha[t])[visible].sum()), count + int(visible.sum())
    return total / count * 1e3 if count else math.nan


def _farneback(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
