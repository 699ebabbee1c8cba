"""Edges that stay clean in an editor: a background that is really zero, and no fringe when a picture is scaled.

Both are optional.  `clean_alpha` removes the faint veil that a decoder leaves where nothing is; `bleed_colour` gives
invisible pixels the colour of the nearest visible ones, because resampling and 4:2:0 mix the colours of neighbours
before alpha is applied.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

VISIBLE = 1 / 255


def clean_alpha(alpha: Tensor, threshold: float = 0.02) -> Tensor:
    """Alpha below `threshold` becomes 0, above 1 - `threshold` 1; between, the ramp is stretched, so nothing jumps.

    Args:
        alpha: (B, 1, T, H, W) in [0, 1].
        threshold: 0 leaves everything; 0.02 is 5 of 255 grey levels.
    """
    if not 0 <= threshold < 0.5:
        raise ValueError(f"threshold={threshold}: from 0 to below 0.5")
    return ((alpha - threshold) / (1 - 2 * threshold)).clamp(0, 1)


def bleed_colour(rgb: Tensor, alpha: Tensor, pixels: int = 8) -> Tensor:
    """Colour of the visible, spread `pixels` outwards into the invisible; beyond that, the mean visible colour.

    Args:
        rgb: (B, 3, T, H, W) in [-1, 1].
        alpha: (B, 1, T, H, W) in [0, 1]; less than 1/255 counts as invisible.
        pixels: how far; 0 leaves everything.

    Returns:
        Like `rgb`; visible pixels are unchanged.
    """
    if pixels < 0:
        raise ValueError(f"pixels={pixels}: at least 0")
    if pixels == 0:
        return rgb
    # Frame by frame: what this holds is ten times what it is given.
    pairs = zip(rgb.split(1, dim=2), alpha.split(1, dim=2), strict=True)
    return torch.cat([_bled(frame[:, :, 0], matte[:, :, 0], pixels)[:, :, None] for frame, matte in pairs], dim=2)


def _bled(frames: Tensor, alpha: Tensor, pixels: int) -> Tensor:
    """`bleed_colour` of (N, 3, H, W) and (N, 1, H, W)."""
    weight = (alpha >= VISIBLE).to(frames)
    known, colour = weight, frames * weight
    for _ in range(pixels):
        # Mean of the known among the nine neighbours, for pixels that are not known yet.
        total, count = _box(colour), _box(known)
        fresh = (known == 0) & (count > 0)
        colour = torch.where(fresh, total / count.clamp_min(1e-6), colour)
        known = torch.where(fresh, torch.ones_like(known), known)
    visible = weight.sum(dim=(2, 3), keepdim=True)
    mean = (frames * weight).sum(dim=(2, 3), keepdim=True) / visible.clamp_min(1)
    far = torch.where(visible > 0, mean, frames)
    filled = torch.where(known > 0, colour, far)
    return torch.where(weight > 0, frames, filled)


def _box(x: Tensor) -> Tensor:
    """Sum over 3 x 3 neighbours."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=True) * 9
