"""Small clips made to be right, and ways to make them wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[np.float64]


def disc(
    frames: int = 6, side: int = 96, speed: float = 2.0, radius: float = 24, soft: float = 1.0
) -> tuple[Array, Array]:
    """A textured opaque disc that wanders to the right: colours (T, H, W, 3) and alpha (T, H, W) in [0, 1].

    The colours outside of the disc are black, as in files written by an editor.
    """
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.random((side, 2 * side, 3)), (2.5, 2.5, 0))
    texture = (texture - texture.min()) / np.ptp(texture) * 0.6 + 0.4
    y, x = np.mgrid[:side, :side]
    colours, alphas = [], []
    for t in range(frames):
        centre = side / 2 - speed * (frames - 1) / 2 + speed * t
        alpha = np.clip((radius - np.hypot(y - side / 2, x - centre)) / soft + 0.5, 0, 1)
        moved = ndimage.shift(texture, (0, speed * t - side / 2, 0), order=1, mode="nearest")[:, :side]
        colours.append(moved * (alpha > 0)[..., None])
        alphas.append(alpha)
    return np.stack(colours), np.stack(alphas)


def blurred(alpha: Array, sigma: float) -> Array:
    return np.stack([ndimage.gaussian_filter(frame, sigma) for frame in alpha])


def shifted(alpha: Array, pixels: int) -> Array:
    return np.roll(alpha, pixels, axis=2)


def flickering(alpha: Array, amount: float) -> Array:
    return alpha * (1 - amount * (np.arange(len(alpha)) % 2))[:, None, None]


def to_frames(colours: Array, alpha: Array | None) -> npt.NDArray[np.uint8]:
    """uint8 (T, H, W, 4), or (T, H, W, 3) without alpha."""
    parts = colours if alpha is None else np.concatenate([colours, alpha[..., None]], axis=-1)
    return np.rint(parts * 255).clip(0, 255).astype(np.uint8)
