"""Edge loss: L1 between the gradient magnitudes of prediction and target."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.losses.reconstruction import l1

Edge = Literal["sobel", "central"]

# Keeps the gradient of the square root finite where a picture is flat; flat areas read sqrt(EPS) = 1e-3.
EPS = 1e-6

# Grey as the authors' code takes it: the luma row of ITU-R BT.601 in studio range.
_LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)


def edge_magnitude(pictures: Tensor, kind: Edge = "sobel") -> Tensor:
    """How steep every pixel is, frame by frame.

    Args:
        pictures: (B, C, T, H, W).
        kind: "sobel": the Sobel operator per channel, normalised so that a ramp of slope s per pixel reads |s|,
            borders replicated (`kornia.filters.sobel`). "central": the authors' code, x[i+1] - x[i-1] of the grey
            picture (C must be 3) with zeros outside, so that the ramp reads 2|s| times the luma weights' sum of 0.86.

    Returns:
        (B, C, T, H, W), or (B, 1, T, H, W) for "central": sqrt(gx² + gy² + EPS).

    Raises:
        ValueError: for an unknown kind or a wrong shape.
    """
    if pictures.dim() != 5:
        raise ValueError(f"edge_magnitude: expected pictures (B, C, T, H, W), got {tuple(pictures.shape)}")
    frames = pictures.transpose(1, 2).flatten(0, 1)
    if kind == "sobel":
        edges = _sobel(frames)
    elif kind == "central":
        edges = _central(frames)
    else:
        raise ValueError(f"unknown edge kind {kind!r}; known: sobel, central")
    return edges.unflatten(0, (pictures.shape[0], pictures.shape[2])).transpose(1, 2)


def edge_loss(pred: Tensor, target: Tensor, kind: Edge = "sobel") -> Tensor:
    """L1 between gradient magnitudes: two (B, C, T, H, W) of one shape -> (B,)."""
    return l1(edge_magnitude(pred, kind), edge_magnitude(target, kind))


def _sobel(frames: Tensor) -> Tensor:
    """As differences of slices: on a CPU a convolution of one channel takes some seventeen times as long."""
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    horizontal = _smooth(padded[..., 2:] - padded[..., :-2], dim=-2)
    vertical = _smooth(padded[..., 2:, :] - padded[..., :-2, :], dim=-1)
    return torch.sqrt(horizontal**2 + vertical**2 + EPS)


def _smooth(differences: Tensor, dim: int) -> Tensor:
    """(1 2 1) across the direction of the difference; 8 = 4 for this sum, 2 for the two pixels between."""
    length = differences.shape[dim] - 2
    before, at, after = (differences.narrow(dim, i, length) for i in range(3))
    return (before + 2 * at + after) / 8


def _central(frames: Tensor) -> Tensor:
    grey = (frames * frames.new_tensor(_LUMA).reshape(3, 1, 1)).sum(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1))
    horizontal = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    vertical = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return torch.sqrt(horizontal**2 + vertical**2 + EPS)
