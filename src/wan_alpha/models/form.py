"""What the configuration files of a base say before its weights are read: the sizes of video that it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_alpha.models.base import SizeError

# Heads times their width in the smallest released transformer (1.3B); smaller ones are made by hand.
RELEASED_WIDTH = 1536
SMALL, WAN21, WAN22 = (9, 64, 64), (81, 480, 832), (121, 704, 1280)


@dataclass(frozen=True)
class BaseForm:
    """The form of a base.

    Attributes:
        frames, height, width: of the videos that it was made for.
        stride: frames per latent frame after the first.
        step: sides are multiples of it, in pixels.
        takes_image: its transformer reads a first frame beside the noise.
    """

    frames: int
    height: int
    width: int
    stride: int
    step: int
    takes_image: bool

    @classmethod
    def of(cls, vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> BaseForm:
        """From the two configurations; a key that a file leaves out has diffusers' default, which is Wan2.1's."""
        cell = 2 ** (len(vae.get("dim_mult", (1, 2, 4, 4))) - 1) * (vae.get("patch_size") or 1)
        width = transformer.get("num_attention_heads", 40) * transformer.get("attention_head_dim", 128)
        size = SMALL if width < RELEASED_WIDTH else WAN22 if cell == 16 else WAN21
        stride = 2 ** sum(vae.get("temperal_downsample", (False, True, True)))
        step = math.lcm(16, cell * transformer.get("patch_size", (1, 2, 2))[1])
        takes_image = transformer.get("in_channels", 16) > vae.get("z_dim", 16)
        return cls(*size, stride, step, takes_image)

    def check_size(self, height: int, width: int) -> None:
        """Raise SizeError unless the transformer's patches cover frames of this size."""
        if height % self.step or width % self.step or min(height, width) < self.step:
            near = " x ".join(str(self.step * max(1, round(side / self.step))) for side in (height, width))
            raise SizeError(
                f"frames are {height} x {width}; this base takes multiples of {self.step}, for example {near}"
            )

    def nearest_length(self, num_frames: int) -> int:
        """The nearest 1 + 4k frames."""
        if num_frames < 1:
            raise SizeError(f"num_frames={num_frames}: at least 1")
        return 1 + self.stride * max(0, round((num_frames - 1) / self.stride))
