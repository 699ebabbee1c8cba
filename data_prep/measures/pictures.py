"""What the measures look at: premultiplied frames, their luma, their gradients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats = npt.NDArray[np.float32]
REC709 = np.array([0.2126, 0.7152, 0.0722], np.float32)
GREY = 0.5


def premultiply(rgba: Tensor) -> Floats:
    """Straight RGBA, float (T, 4, H, W) in [0, 1] -> premultiplied (T, H, W, 4)."""
    alpha = rgba[:, 3:]
    frames: Floats = (rgba * alpha).permute(0, 2, 3, 1).contiguous().numpy()
    frames[..., 3] = alpha[:, 0].numpy()
    return frames


def luma_on_grey(premultiplied: Floats) -> Floats:
    """Luma (T, H, W) in [0, 1] of premultiplied frames on a mid-grey ground, on which dark and light both stand out."""
    luma: Floats = premultiplied[..., :3] @ REC709 + GREY * (1 - premultiplied[..., 3])
    return luma


def gradient(pictures: Floats) -> Floats:
    """Length of the gradient of (T, H, W), per pixel, by central differences."""
    rows, columns = np.gradient(pictures, axis=(1, 2))
    length: Floats = np.hypot(rows, columns)
    return length
