"""Resizing RGBA without fringes.

Colour under a transparent pixel is arbitrary, so averaging straight colours pulls that colour into the edge (the dark
fringe).  Averaging premultiplied colours weighs every colour by its opacity, and dividing by the averaged alpha gives
straight colour back.  Where alpha ends below `ALPHA_FLOOR` nothing can be seen: alpha becomes exactly 0 and the
straight colour black, so that equal pictures are equal tensors.
"""

from __future__ import annotations

import contextlib
import math
import weakref

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Frames = npt.NDArray[np.uint8]
"""RGBA frames, straight colour, (T, H, W, 4), 0..255."""
Floats = npt.NDArray[np.float32]

ALPHA_FLOOR = 1 / 255
"""An alpha below the smallest 8-bit step is no opacity at all."""
MOST_SPARE = 4
_SPARE: dict[int, list[Floats]] = {}


def resize_rgba(frames: Frames, size: tuple[int, int]) -> Tensor:
    """Resize straight RGBA frames with an anti-aliased bilinear filter in premultiplied space.

    Args:
        frames: uint8 (T, H, W, 4), straight colour.
        size: (height, width) of the result; equal to the frames' own size for a mere conversion.

    Returns:
        float32 (T, 4, height, width) in [0, 1], straight colour, black where alpha is 0.
    """
    out = np.empty((len(frames), 4, *size), np.float32)
    for frame, place in zip(frames, out, strict=True):
        _resize_frame(frame, place[:3], place[3], 0.0)
    return torch.from_numpy(out)


def resize_clip(
    frames: Frames, size: tuple[int, int], out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """`resize_rgba` as a model takes it.

    Args:
        frames, size: as for `resize_rgba`.
        out: where to write, for example a place in a batch; by default memory of its own.

    Returns:
        float32 (3, T, height, width) in [-1, 1]: straight colour, -1 where alpha is 0.
        float32 (1, T, height, width) in [0, 1]: alpha.
    """
    rgb, alpha = out or (empty(3, len(frames), *size), empty(1, len(frames), *size))
    colours, opacity = rgb.numpy(), alpha.numpy()
    for t, frame in enumerate(frames):
        _resize_frame(frame, colours[:, t], opacity[0, t], -1.0)
    return rgb, alpha


def empty(*shape: int) -> Tensor:
    """float32 memory for pictures: that of an earlier batch, if nobody holds one of this size any more.

    New memory is slow: the system clears it page by page, which takes longer than to write the pictures.
    """
    size = math.prod(shape)
    try:
        memory = _SPARE[size].pop()
    except (KeyError, IndexError):
        memory = np.empty(size, np.float32)
    held = memory[:]  # lives as long as any tensor or array that shows a part of it
    weakref.finalize(held, _give_back, memory).atexit = False
    return torch.from_numpy(held).view(shape)


def _give_back(memory: Floats) -> None:
    """Keep what nobody holds any more; of too much, the size that was used first goes."""
    _SPARE.setdefault(memory.size, []).append(memory)
    if sum(len(spares) for spares in list(_SPARE.values())) > MOST_SPARE:
        with contextlib.suppress(IndexError):  # another thread has just taken it
            next(spares for spares in list(_SPARE.values()) if spares).pop()


def _resize_frame(frame: Frames, rgb: Floats, alpha: Floats, lowest: float) -> None:
    """Resize one frame (H, W, 4) into `rgb` (3, height, width) in [lowest, 1] and `alpha` (height, width) in [0, 1].

    Plane by plane and frame by frame, everything stays in the cache.
    """
    *colours, opacity = cv2.split(_packed(frame))
    if alpha.shape == opacity.shape:
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        visible = cv2.threshold(opacity, 0, 255, cv2.THRESH_BINARY)[1]
        for colour, place in zip(colours, rgb, strict=True):
            cv2.LUT(cv2.min(colour, visible), levels * np.float32(1 - lowest) + np.float32(lowest), dst=place)
        cv2.LUT(opacity, levels, dst=alpha)
        return
    planes = np.empty((4, *opacity.shape), np.float32)
    for colour, plane in zip(colours, planes, strict=False):
        cv2.multiply(colour, opacity, dst=plane, scale=1 / 255**2, dtype=cv2.CV_32F)
    np.divide(opacity, np.float32(255), out=planes[3])
    _straighten(_resize_planes(planes, alpha.shape), rgb, alpha, lowest)


def _resize_planes(planes: Floats, size: tuple[int, ...]) -> Floats:
    """(C, H, W) -> (C, height, width), bilinear, anti-aliased."""
    if size[0] < planes.shape[1] or size[1] < planes.shape[2]:
        x = torch.from_numpy(planes)[None]
        smaller: Floats = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)[0].numpy()
        return smaller
    larger = np.empty((len(planes), *size), np.float32)
    for plane, place in zip(planes, larger, strict=True):  # nothing to average away; OpenCV is many times as fast
        cv2.resize(plane, size[::-1], dst=place, interpolation=cv2.INTER_LINEAR)
    return larger


def _straighten(planes: Floats, rgb: Floats, alpha: Floats, lowest: float) -> None:
    """Premultiplied planes (4, height, width) in [0, 1] as straight colour in [lowest, 1], and alpha."""
    np.clip(planes[3], 0, 1, out=alpha)
    visible = alpha >= ALPHA_FLOOR * (1 - 1e-4)  # 1/255 itself must survive float rounding
    factor = np.maximum(alpha, np.float32(ALPHA_FLOOR))
    np.divide(np.float32(1 - lowest), factor, out=factor)
    np.multiply(factor, visible, out=factor)
    np.multiply(alpha, visible, out=alpha)
    np.multiply(planes[:3], factor, out=rgb)
    np.add(rgb, np.float32(lowest), out=rgb)
    np.clip(rgb, lowest, 1, out=rgb)


def one_thread(worker: int = 0) -> None:
    """Let this process work with one thread; for loader workers and worker processes, which are the parallelism."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _packed(frame: Frames) -> Frames:
    """A window or a mirrored view as memory of its own; pixels are moved as one number each, which is quick."""
    if frame.flags.c_contiguous or frame.strides[-1] != 1:
        return np.ascontiguousarray(frame)
    return np.ascontiguousarray(frame.view(np.uint32)).view(np.uint8)


def to_uint8(rgba: Tensor) -> Frames:
    """float (T, 4, H, W) in [0, 1] -> uint8 (T, H, W, 4), rounded to the nearest step."""
    frames: Frames = (rgba * 255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return frames
