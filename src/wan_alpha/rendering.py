"""Compositing as pure functions on tensors: soft render, hard render, the colour set, the checkerboard.

Words and ranges: `rgb` is straight colour (B, 3, T, H, W) in [-1, 1]; `alpha` is opacity (B, 1, T, H, W) in [0, 1];
`colour` is one flat background per sample (B, 3), or one for all (3,), in [-1, 1]. No function here clamps, draws
random numbers or waits for the device: shapes are checked, values are not.
"""

import torch
from torch import Tensor

COLOUR_NAMES = ("black", "blue", "green", "cyan", "red", "magenta", "yellow", "white")

# The eight corners of the RGB cube in the order of binary counting, (8, 3) in [-1, 1]: row i is COLOUR_NAMES[i].
COLOURS = torch.tensor([[float(2 * (i >> bit & 1) - 1) for bit in (2, 1, 0)] for i in range(8)])


def soft_render(rgb: Tensor, alpha: Tensor, colour: Tensor) -> Tensor:
    """Composite on a flat colour: rgb·alpha + colour·(1 - alpha), the paper's R^s.

    Args:
        rgb: (B, 3, T, H, W) in [-1, 1].
        alpha: (B, 1, T, H, W) in [0, 1].
        colour: (B, 3) or (3,) in [-1, 1].

    Returns:
        (B, 3, T, H, W) in [-1, 1].

    Raises:
        ValueError: if the shapes do not fit together.
    """
    _check_pair(rgb, alpha)
    return rgb * alpha + _as_canvas(colour, rgb) * (1 - alpha)


def hard_render(rgb: Tensor, alpha: Tensor, colour: Tensor, mask: Tensor | None = None) -> Tensor:
    """Composite with alpha replaced by 1 where alpha > 0 and by 0 elsewhere, the paper's R^h.

    Args:
        rgb: (B, 3, T, H, W) in [-1, 1].
        alpha: (B, 1, T, H, W) in [0, 1]; not read when `mask` is given.
        colour: (B, 3) or (3,) in [-1, 1].
        mask: boolean (B, 1, T, H, W) that decides instead of alpha > 0. Training renders the prediction with the
            target's mask, because a decoder's noise around zero would flip pixels between colour and background.

    Returns:
        (B, 3, T, H, W) in [-1, 1]; every pixel is either `rgb` or `colour`.

    Raises:
        ValueError: if the shapes do not fit together.
        TypeError: if `mask` is not boolean.
    """
    _check_pair(rgb, alpha)
    if mask is None:
        mask = alpha > 0
    elif mask.dtype != torch.bool:
        raise TypeError(f"hard_render: mask must be boolean, got {mask.dtype}; pass `alpha > 0`")
    elif mask.shape != alpha.shape:
        raise ValueError(f"hard_render: mask {tuple(mask.shape)} must have the shape of alpha {tuple(alpha.shape)}")
    return torch.where(mask, rgb, _as_canvas(colour, rgb))


def checkerboard(height: int, width: int, cell: int = 8, *, light: float = 1.0, dark: float = 0.6) -> Tensor:
    """The editor's picture of "nothing here": grey squares, the top left one light.

    Args:
        height, width: size in pixels.
        cell: side of one square in pixels.
        light, dark: the two greys in [-1, 1].

    Returns:
        (3, height, width) in [-1, 1].
    """
    if min(height, width, cell) < 1:
        raise ValueError(f"checkerboard: sizes must be positive, got {height}x{width} with cells of {cell}")
    rows = torch.arange(height).div(cell, rounding_mode="floor")
    columns = torch.arange(width).div(cell, rounding_mode="floor")
    odd = (rows[:, None] + columns[None, :]) % 2 == 1
    return torch.where(odd, dark, light).expand(3, height, width).clone()


def alpha_to_rgb(alpha: Tensor) -> Tensor:
    """Alpha as a grey picture: (B, 1, T, H, W) in [0, 1] -> (B, 3, T, H, W) in [-1, 1]."""
    if alpha.dim() != 5 or alpha.shape[1] != 1:
        raise ValueError(f"alpha_to_rgb: expected alpha of shape (B, 1, T, H, W), got {tuple(alpha.shape)}")
    return (alpha * 2 - 1).expand(-1, 3, -1, -1, -1)


def rgb_to_alpha(picture: Tensor) -> Tensor:
    """A decoded grey picture as alpha: (B, 3, T, H, W) in [-1, 1] -> (B, 1, T, H, W) in [0, 1], the channels' mean.

    Not clamped: a decoder that overshoots must feel it in the loss.
    """
    if picture.dim() != 5 or picture.shape[1] != 3:
        raise ValueError(f"rgb_to_alpha: expected a picture of shape (B, 3, T, H, W), got {tuple(picture.shape)}")
    return (picture.mean(dim=1, keepdim=True) + 1) / 2


def _check_pair(rgb: Tensor, alpha: Tensor) -> None:
    if rgb.dim() != 5 or rgb.shape[1] != 3:
        raise ValueError(f"expected rgb of shape (B, 3, T, H, W), got {tuple(rgb.shape)}")
    expected = (rgb.shape[0], 1, *rgb.shape[2:])
    if alpha.shape != expected:
        raise ValueError(f"expected alpha of shape {expected} beside rgb {tuple(rgb.shape)}, got {tuple(alpha.shape)}")


def _as_canvas(colour: Tensor, rgb: Tensor) -> Tensor:
    """(3,) or (B, 3) -> (1 or B, 3, 1, 1, 1), on the device and in the precision of `rgb`."""
    if colour.shape not in ((3,), (rgb.shape[0], 3)):
        raise ValueError(
            f"expected a colour of shape (3,) or ({rgb.shape[0]}, 3) for a batch of {rgb.shape[0]}, "
            f"got {tuple(colour.shape)}"
        )
    return colour.to(rgb).reshape(-1, 3, 1, 1, 1)


def cell_means(x: Tensor, temporal: int, spatial: int) -> Tensor:
    """Means over the pixels that one latent cell stands for: the first frame alone, then groups of frames.

    Args:
        x: (B, C, 1 + temporal·k, H, W), sides multiples of `spatial`.
        temporal, spatial: strides of the base: 4 and 8 for Wan2.1.

    Returns:
        (B, C, 1 + k, H / spatial, W / spatial).
    """
    small = torch.nn.functional.avg_pool3d(x, (1, spatial, spatial))
    if small.shape[2] == 1:
        return small
    rest = torch.nn.functional.avg_pool3d(small[:, :, 1:], (temporal, 1, 1))
    return torch.cat([small[:, :, :1], rest], dim=2)
