"""Resizing RGBA without fringes.

Colour under a transparent pixel is arbitrary, so averaging straight colours pulls that colour into the edge (the dark
fringe).  Averaging premultiplied colours weighs every colour by its opacity, and dividing by the averaged alpha gives
straight colour back.  Where alpha ends below `ALPHA_FLOOR` nothing can be seen: alpha becomes exactly 0 and the
straight colour black, so that equal pictures are equal tensors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Frames = npt.NDArray[np.uint8]
"""RGBA frames, straight colour, (T, H, W, 4), 0..255."""

ALPHA_FLOOR = 1 / 255
"""An alpha below the smallest 8-bit step is no opacity at all."""


def resize_rgba(frames: Frames, size: tuple[int, int]) -> Tensor:
    """Resize straight RGBA frames with an anti-aliased bilinear filter in premultiplied space.

    Args:
        frames: uint8 (T, H, W, 4), straight colour.
        size: (height, width) of the result; equal to the frames' own size for a mere conversion.

    Returns:
        float32 (T, 4, height, width) in [0, 1], straight colour, black where alpha is 0.
    """
    x = torch.from_numpy(_packed(frames)).permute(0, 3, 1, 2)
    x = x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)  # planes: faster from here on
    rgb, alpha = x[:, :3], x[:, 3:]
    if size != tuple(frames.shape[1:3]):
        rgb *= alpha
        premultiplied = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        alpha = premultiplied[:, 3:].clamp(0, 1)
        rgb = (premultiplied[:, :3] / alpha.clamp_min(ALPHA_FLOOR)).clamp(0, 1)
    visible = alpha >= ALPHA_FLOOR * (1 - 1e-4)  # 1/255 itself must survive float rounding
    return torch.cat([rgb * visible, alpha * visible], dim=1)


def _packed(frames: Frames) -> Frames:
    """A window or a mirrored view as memory of its own; pixels are moved as one number each, which is quick."""
    if frames.flags.c_contiguous or frames.strides[-1] != 1:
        return np.ascontiguousarray(frames)
    return np.ascontiguousarray(frames.view(np.uint32)).view(np.uint8)


def to_uint8(rgba: Tensor) -> Frames:
    """float (T, 4, H, W) in [0, 1] -> uint8 (T, H, W, 4), rounded to the nearest step."""
    frames: Frames = (rgba * 255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return frames
