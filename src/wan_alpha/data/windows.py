"""Sliding windows: a still picture becomes a clip, as if a camera moved over it (Wan-Alpha, section on data).

A `WindowPath` says where the window lies in each frame; `slide` cuts it out, smooth to fractions of a pixel.
`integer_windows` is the authors' form: whole pixels, constant speed, one of the three directions that lead away from
the quadrant where it starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.data.resize import ALPHA_FLOOR, Frames

Path = npt.NDArray[np.float64]
SUPERSAMPLING = 2
"""Samples per output pixel and side, after the picture was reduced to at most twice the output's resolution."""


@dataclass(frozen=True)
class WindowPath:
    """Where a window goes.

    Args:
        start: (vertical, horizontal) place of the window in the first frame; 0 is top or left, 1 bottom or right.
        end: the same for the last frame.
        zoom: in the first and in the last frame, at least 1: at 2 the window is half as high and wide.
        ease: 0 moves at constant speed, 1 starts and stops gently (smoothstep); between, a blend of both.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    zoom: tuple[float, float] = (1.0, 1.0)
    ease: float = 0.0

    def boxes(self, count: int, picture: tuple[int, int], size: tuple[int, int]) -> Path:
        """The window in each frame: (count, 4) top, left, height, width in pixels of the picture, fractions allowed.

        At zoom 1 the window is the largest of the shape of `size` that fits into `picture` (heights first).
        """
        t = np.linspace(0.0, 1.0, count) if count > 1 else np.zeros(1)
        t = (1 - self.ease) * t + self.ease * (3 * t**2 - 2 * t**3)
        # Zoom is perceived as a ratio, so it moves evenly in the logarithm.
        zoom = np.exp((1 - t) * np.log(self.zoom[0]) + t * np.log(self.zoom[1]))
        fit = min(picture[0] / size[0], picture[1] / size[1])
        extent = np.stack([size[0] * fit / zoom, size[1] * fit / zoom], axis=1)
        place = (1 - t)[:, None] * np.asarray(self.start) + t[:, None] * np.asarray(self.end)
        return np.concatenate([place * (np.asarray(picture) - extent), extent], axis=1)


def draw_path(rng: np.random.Generator, zoom: tuple[float, float]) -> WindowPath:
    """A random path: any start, any direction, any speed that stays inside, any easing, zoom within its range."""
    start, end = rng.random(2), rng.random(2)
    end = start + rng.random() * (end - start)
    first, last = np.exp(rng.uniform(np.log(zoom[0]), np.log(zoom[1]), size=2))
    return WindowPath(
        (float(start[0]), float(start[1])), (float(end[0]), float(end[1])), (float(first), float(last)), rng.random()
    )


def slide(still: Frames, boxes: Path, size: tuple[int, int]) -> Tensor:
    """Cut moving windows out of a still, smooth to fractions of a pixel and anti-aliased, in premultiplied space.

    Args:
        still: uint8 (H, W, 4), straight colour.
        boxes: (T, 4) top, left, height, width in its pixels, inside the picture; see `WindowPath.boxes`.
        size: (height, width) of the result.

    Returns:
        float32 (T, 4, height, width) in [0, 1], straight colour, black where alpha is 0.
    """
    x = torch.from_numpy(np.ascontiguousarray(still)).permute(2, 0, 1)[None].float().div_(255)
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], dim=1)
    scale = torch.tensor([still.shape[0], still.shape[1]])
    # What no window shows at full detail is averaged away first, once for all frames.
    reduce = max(1, int(min((boxes[:, 2] / size[0]).min(), (boxes[:, 3] / size[1]).min())))
    if reduce > 1:
        x = F.avg_pool2d(x, reduce, ceil_mode=True, count_include_pad=False)
        scale = torch.tensor(x.shape[-2:]) * reduce
    fine = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    grids = torch.stack([_grid(box, fine, scale) for box in torch.from_numpy(boxes)])
    windows = F.grid_sample(
        x.expand(len(boxes), -1, -1, -1), grids.float(), mode="bilinear", padding_mode="border", align_corners=False
    )
    windows = F.avg_pool2d(windows, SUPERSAMPLING)
    alpha = windows[:, 3:].clamp(0, 1)
    visible = alpha >= ALPHA_FLOOR * (1 - 1e-4)
    rgb = (windows[:, :3] / alpha.clamp_min(ALPHA_FLOOR)).clamp(0, 1)
    return torch.cat([rgb * visible, alpha * visible], dim=1)


def _grid(box: Tensor, fine: tuple[int, int], scale: Tensor) -> Tensor:
    """Sampling positions of one window for grid_sample: (h, w, 2) as x, y in [-1, 1] of the picture."""
    axes = []
    for side in (0, 1):
        centres = (torch.arange(fine[side], dtype=torch.float64) + 0.5) / fine[side]
        axes.append((box[side] + centres * box[2 + side]) / scale[side] * 2 - 1)
    y, x = torch.meshgrid(axes[0], axes[1], indexing="ij")
    return torch.stack([x, y], dim=-1)


def integer_windows(rng: np.random.Generator, still: Frames, count: int, size: tuple[int, int]) -> Frames:
    """The authors' form: windows of exactly `size`, whole-pixel steps, away from the quadrant where they start.

    Args:
        rng: start, direction and speed.
        still: uint8 (H, W, 4), at least as large as `size`.
        count: frames.
        size: (height, width).

    Returns:
        uint8 (count, height, width, 4).

    Raises:
        ValueError: the still is smaller than the window.
    """
    room = (still.shape[0] - size[0], still.shape[1] - size[1])
    if min(room) < 0:
        raise ValueError(
            f"a window of {size[0]}x{size[1]} does not fit into a still of {still.shape[0]}x{still.shape[1]}"
        )
    start = [int(rng.integers(r + 1)) for r in room]
    away = [1 if 2 * s <= r else -1 for s, r in zip(start, room, strict=True)]
    moves = [(1, 0), (0, 1), (1, 1)][rng.integers(3)]
    free = [r - s if a > 0 else s for s, r, a in zip(start, room, away, strict=True)]
    limit = min((f // max(1, count - 1) for f, m in zip(free, moves, strict=True) if m), default=0)
    step = int(rng.integers(limit + 1))
    frames = []
    for t in range(count):
        top, left = (s + a * m * step * t for s, a, m in zip(start, away, moves, strict=True))
        frames.append(still[top : top + size[0], left : left + size[1]])
    return np.stack(frames)
