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
    out = torch.empty(len(frames), 4, *size)
    for frame, place in zip(frames, out, strict=True):
        _resize_frame(frame, place)
    return out


def resize_clip(frames: Frames, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`resize_rgba` as a model takes it.

    Returns:
        float32 (3, T, height, width) in [-1, 1]: straight colour, -1 where alpha is 0.
        float32 (1, T, height, width) in [0, 1]: alpha.
    """
    rgb, alpha = torch.empty(3, len(frames), *size), torch.empty(1, len(frames), *size)
    place = torch.empty(4, *size)
    for t, frame in enumerate(frames):
        _resize_frame(frame, place)
        torch.mul(place[:3], 2, out=rgb[:, t]).sub_(1)
        alpha[:, t] = place[3:]
    return rgb, alpha


def _resize_frame(frame: Frames, out: Tensor) -> None:
    """Resize one frame (H, W, 4) into `out` (4, height, width); frame by frame everything stays in the cache."""
    x = torch.from_numpy(_packed(frame)).permute(2, 0, 1)[None]
    x = x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)  # planes: faster from here on
    size = (out.shape[1], out.shape[2])
    if size != tuple(frame.shape[:2]):
        x[:, :3] *= x[:, 3:]
        x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        x[:, 3:].clamp_(0, 1)
        x[:, :3].div_(x[:, 3:].clamp_min(ALPHA_FLOOR)).clamp_(0, 1)
    visible = x[0, 3:] >= ALPHA_FLOOR * (1 - 1e-4)  # 1/255 itself must survive float rounding
    torch.mul(x[0], visible, out=out)


def _packed(frame: Frames) -> Frames:
    """A window or a mirrored view as memory of its own; pixels are moved as one number each, which is quick."""
    if frame.flags.c_contiguous or frame.strides[-1] != 1:
        return np.ascontiguousarray(frame)
    return np.ascontiguousarray(frame.view(np.uint32)).view(np.uint8)


def to_uint8(rgba: Tensor) -> Frames:
    """float (T, 4, H, W) in [0, 1] -> uint8 (T, H, W, 4), rounded to the nearest step."""
    frames: Frames = (rgba * 255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return frames
