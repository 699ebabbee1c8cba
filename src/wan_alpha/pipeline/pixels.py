"""Between tensors and the pixels of files: quantising, premultiplying, linear light, even sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.float32]


def straight(rgb: Tensor, alpha: Tensor) -> Pixels:
    """rgb (1, 3, T, H, W) in [-1, 1] and alpha (1, 1, T, H, W) in [0, 1] -> straight (T, H, W, 4) in [0, 1]."""
    pixels = np.empty((*rgb.shape[2:], 4), np.float32)
    pixels[..., :3] = rgb[0].permute(1, 2, 3, 0).float().cpu().numpy()
    pixels[..., 3:] = alpha[0].permute(1, 2, 3, 0).float().cpu().numpy()
    pixels[..., :3] = (pixels[..., :3] + 1) / 2
    return pixels.clip(0, 1, out=pixels)


def premultiplied(pixels: Pixels) -> Pixels:
    """Colour times alpha, as EXR and most compositors expect it."""
    return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)


def to_8_bit(pixels: Pixels) -> NDArray[np.uint8]:
    """[0, 1] -> 0..255, to the nearest."""
    return np.ascontiguousarray((pixels * 255 + 0.5).astype(np.uint8))


def to_16_bit(pixels: Pixels) -> NDArray[np.uint16]:
    """[0, 1] -> 0..65535, to the nearest."""
    return np.ascontiguousarray((pixels * 65535 + 0.5).astype(np.uint16))


def linear_light(pixels: Pixels) -> Pixels:
    """sRGB's curve undone (IEC 61966-2-1) for colour; alpha is linear as it is."""
    colour = pixels[..., :3]
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return np.concatenate([linear, pixels[..., 3:]], axis=-1).astype(np.float32)


def even_sides(pixels: Pixels) -> Pixels:
    """One more row or column where a side is odd: the last one again, so that its colour blends with itself.

    4:2:0 has one colour for 2 x 2 pixels; H.264 takes no odd sides.
    """
    height, width = pixels.shape[1:3]
    if height % 2 == width % 2 == 0:
        return pixels
    return np.pad(pixels, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="edge")
