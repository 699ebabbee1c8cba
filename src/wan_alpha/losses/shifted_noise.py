"""Version 2's shifted noise: away from the object, noise has another mean, so that a sampler can be told where to draw.

    ε' = ε + (1 - G)·0.05 on all channels,   target ε' - Z

G (T', h, w) in [0, 1] is a Gaussian over an ellipse fitted to the alpha of each latent frame (Wan-Alpha v2; PAPER.md,
section 2).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

NoiseKind = Literal["plain", "shifted"]

SHIFT = 0.05
GROWTH, COVERAGE = 1.12, 0.98
# An ellipse whose half-axes change by less than this share and whose axis turns by less than this angle keeps both from
# the frame before: an estimate from 8 x 8 cells would tremble.
SAME_AXES, SAME_ANGLE = 0.1, math.radians(10)
_SMALLEST = 0.5  # half-axis of a single cell


class Ellipse(NamedTuple):
    """Centre (y, x) and half-axes (long, short) in cells; the long axis points `angle` radians from x towards y."""

    y: float
    x: float
    long: float
    short: float
    angle: float

    def distance(self, height: int, width: int) -> Tensor:
        """1 on the ellipse, less inside: (height, width)."""
        y = torch.arange(height, dtype=torch.float64)[:, None] - self.y
        x = torch.arange(width, dtype=torch.float64)[None] - self.x
        along = x * math.cos(self.angle) + y * math.sin(self.angle)
        across = y * math.cos(self.angle) - x * math.sin(self.angle)
        return ((along / self.long) ** 2 + (across / self.short) ** 2).sqrt()

    def gaussian(self, height: int, width: int) -> Tensor:
        """exp(-d²/2), σ being the half-axes, brought to [0, 1]: float32 (height, width)."""
        g = torch.exp(-0.5 * self.distance(height, width).square())
        low, high = g.min(), g.max()
        return ((g - low) / (high - low)).float() if high > low else torch.ones(height, width)


def occupancy(alpha: Tensor, spatial: int, temporal: int = 4) -> Tensor:
    """Which share of each latent cell is not fully transparent.

    Args:
        alpha: (T, H, W) in [0, 1], T = 1 + temporal·k.
        spatial, temporal: strides of the VAE; the first frame stands alone.

    Returns:
        float64 (1 + k, H/spatial, W/spatial).
    """
    cells = F.avg_pool2d((alpha > 0).double()[:, None], spatial)[:, 0]
    rest = cells[1:].unflatten(0, (-1, temporal)).mean(1) if len(cells) > 1 else cells[1:]
    return torch.cat([cells[:1], rest])


def fit_ellipse(cells: Tensor, previous: Ellipse | None = None) -> Ellipse | None:
    """The ellipse of one latent frame's occupancy (h, w), by PCA, grown until it covers 98 % of it; None if empty.

    A filled ellipse has variance (half-axis)²/4 along each axis, so half-axes are twice the standard deviations.
    """
    mass = cells.sum()
    if mass <= 0:
        return None
    height, width = cells.shape
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)[None]
    cy, cx = (float((cells * c).sum() / mass) for c in (y, x))
    dy, dx = y - cy, x - cx
    xx, xy, yy = (float((cells * p).sum() / mass) for p in (dx * dx, dx * dy, dy * dy))
    middle, spread = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    long, short = (max(_SMALLEST, 2 * math.sqrt(max(0.0, v))) for v in (middle + spread, middle - spread))
    ellipse = Ellipse(cy, cx, long, short, 0.5 * math.atan2(2 * xy, xx - yy))
    if previous is not None and _alike(ellipse, previous):
        ellipse = ellipse._replace(long=previous.long, short=previous.short, angle=previous.angle)
    while float(cells[ellipse.distance(height, width) <= 1].sum()) < COVERAGE * float(mass):
        ellipse = ellipse._replace(long=ellipse.long * GROWTH, short=ellipse.short * GROWTH)
    return ellipse


def _alike(a: Ellipse, b: Ellipse) -> bool:
    turned = abs((a.angle - b.angle + math.pi / 2) % math.pi - math.pi / 2)
    round_enough = a.short > (1 - SAME_AXES) * a.long  # a circle's angle means nothing
    axes = all(abs(p - q) <= SAME_AXES * q for p, q in ((a.long, b.long), (a.short, b.short)))
    return axes and (round_enough or turned <= SAME_ANGLE)


def object_masks(alpha: Tensor, spatial: int, temporal: int = 4) -> Tensor:
    """G of a batch: alpha (B, 1, T, H, W) in [0, 1] -> float32 (B, T', h, w) in [0, 1], on the device of alpha."""
    clips = [occupancy(clip, spatial, temporal) for clip in alpha[:, 0].detach().cpu()]
    return masks_of(torch.stack(clips)[:, None]).to(alpha.device)


def masks_of(coverage: Tensor) -> Tensor:
    """G from the occupancy of cells, as `data_prep.encode` stores it: (B, 1, T', h, w) -> float32 (B, T', h, w)."""
    masks = []
    for clip in coverage[:, 0].detach().cpu().double():
        previous: Ellipse | None = None
        frames = []
        for cells in clip:
            ellipse = fit_ellipse(cells, previous)
            frames.append(torch.zeros(cells.shape) if ellipse is None else ellipse.gaussian(*cells.shape))
            previous = ellipse or previous
        masks.append(torch.stack(frames))
    return torch.stack(masks).to(coverage.device)


def noise_shift(masks: Tensor) -> Tensor:
    """(1 - G)·0.05 for all channels: (B, T', h, w) -> (B, 1, T', h, w), to be added to ε."""
    return (SHIFT * (1 - masks))[:, None]


def chosen_masks(shape: tuple[int, int, int], size: float = 0.7, y: float = 0.5, x: float = 0.5) -> Tensor:
    """G for sampling, where nobody knows the object yet: an ellipse that the user chooses, the same in every frame.

    Args:
        shape: (T', h, w).
        size: its extent as a share of the picture's sides.
        y, x: its centre, as shares.

    Returns:
        float32 (1, T', h, w).
    """
    frames, height, width = shape
    tall, wide = size * height / 2, size * width / 2
    across = (wide, tall, 0.0) if wide >= tall else (tall, wide, math.pi / 2)
    g = Ellipse(y * height - 0.5, x * width - 0.5, *across).gaussian(height, width)
    return g.expand(1, frames, height, width)
