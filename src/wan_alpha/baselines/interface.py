"""What evaluation asks of a system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from wan_alpha.data.resize import Frames


class UnknownSystemError(ValueError):
    """A system cannot be loaded from what was given."""


class Codec(Protocol):
    """Compresses RGBA clips into a latent and back."""

    def reconstruct(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """A clip through the latent and back, without gradients.

        Args:
            rgb: straight colour (B, 3, T, H, W) in [-1, 1].
            alpha: opacity (B, 1, T, H, W) in [0, 1].
            background: a colour per sample, (B, 3) in [-1, 1], for codecs that hard-render their input on one.

        Returns:
            rgb (B, 3, T, H, W), about [-1, 1], and alpha (B, 1, T, H, W), about [0, 1]; float32, unclamped.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """How a generator samples.

    Attributes:
        num_frames: T = 1 + 4k.
        height, width: in pixels.
        steps: of the scheduler.
        guidance: classifier-free; 1 is none.
    """

    num_frames: int
    height: int
    width: int
    steps: int = 50
    guidance: float = 5.0


class Generator(Protocol):
    """Makes RGBA video from text.

    Attributes:
        fps: frames per second of what it makes.
    """

    fps: float

    def generate(self, prompt: str, seed: int) -> Frames:
        """One video: uint8 (T, H, W, 4), straight colour; the same for the same prompt and seed."""
        ...
