"""Matting after generation: an opaque video on a plain ground, then alpha from its pixels.  The obvious alternative."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wan_alpha.baselines.interface import UnknownSystemError
from wan_alpha.baselines.wan_sampler import WanSampler, to_pictures
from wan_alpha.data.resize import Frames

Alpha = NDArray[np.float32]
Matting = Callable[[Frames], Alpha]
"""uint8 (T, H, W, 3) -> alpha (T, H, W) in [0, 1]."""

PROMPT = "{prompt} on a green background"
KEY_LOW, KEY_HIGH = 0.06, 0.25


def colour_key(frames: Frames) -> Alpha:
    """A difference key, no learned matting: how far a pixel's colour lies from that of the ground.

    The ground is the median colour of all frames' borders (1/16 of the shorter side), so that it need not be the one
    that was asked for.  Distances (of colours in [0, 1], divided by sqrt 3) up to 0.06 are ground, from 0.25 on
    foreground.  A subject that has the ground's colour gets holes; glass and smoke are guesses.
    """
    distance = np.linalg.norm(frames.astype(np.float32) / 255 - ground_colour(frames), axis=-1) / np.sqrt(3)
    return np.clip((distance - KEY_LOW) / (KEY_HIGH - KEY_LOW), 0, 1).astype(np.float32)


def ground_colour(frames: Frames) -> NDArray[np.float32]:
    """The median colour of the borders of all frames, (3,) in [0, 1]."""
    width = max(1, min(frames.shape[1:3]) // 16)
    inside = np.zeros(frames.shape[1:3], bool)
    inside[width:-width, width:-width] = True
    return np.median(frames[:, ~inside].reshape(-1, 3), axis=0).astype(np.float32) / 255


def unmix(frames: Frames, alpha: Alpha) -> Frames:
    """Straight colours under a matte: F = (C - (1 - alpha) B) / alpha with B of `ground_colour`; uint8 (T, H, W, 4)."""
    colour, weight = frames.astype(np.float32) / 255, alpha[..., None]
    straight = (colour - (1 - weight) * ground_colour(frames)) / np.maximum(weight, 0.05)
    straight = np.where(weight > 0, np.clip(straight, 0, 1), 0)
    return np.rint(np.concatenate([straight, weight], axis=-1) * 255).astype(np.uint8)


class MattingGenerator:
    """`Generator`: RGB video from the plain base, then a matting.

    Args:
        sampler: the base.
        matting: what finds alpha; the default is a colour key.
        prompt: how the prompt is worded, with {prompt} in it.
    """

    def __init__(self, sampler: WanSampler, matting: Matting = colour_key, prompt: str = PROMPT) -> None:
        self.sampler, self.matting, self.prompt = sampler, matting, prompt
        self.fps = sampler.fps

    @torch.no_grad()
    def generate(self, prompt: str, seed: int) -> Frames:
        """See `Generator.generate`."""
        z = self.sampler.sample(self.sampler.velocity_model(self.prompt.format(prompt=prompt)), seed)
        frames = to_pictures(self.sampler.codec.decode(z)[0])
        alpha = np.asarray(self.matting(frames), np.float32)
        if alpha.shape != frames.shape[:3]:
            raise UnknownSystemError(f"the matting gave alpha of shape {alpha.shape} for frames {frames.shape}")
        return unmix(frames, np.clip(alpha, 0, 1))


def load_matting(name: str) -> Matting:
    """`package.module:function` -> the function.

    Raises:
        UnknownSystemError: there is none.
    """
    try:
        found: Any = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownSystemError(f"matting={name}: expected package.module:function ({error})") from error
    if not callable(found):
        raise UnknownSystemError(f"matting={name}: expected a function, found {type(found).__name__}")
    return found
