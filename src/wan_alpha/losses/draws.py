"""The random numbers of a training sample: a pure function of (seed, sample number).

Neither batches nor ranks nor interruptions have a part in them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_STREAM = 3  # keeps these apart from the data's random numbers


class Draws(NamedTuple):
    """u (B,) for the noise level, drop (B,) for the caption, both in [0, 1); noise ε (B, z, T', h, w), float32."""

    u: Tensor
    drop: Tensor
    noise: Tensor


def draw(seed: int, indices: Tensor, shape: tuple[int, ...]) -> Draws:
    """The draws of the samples with numbers `indices` (B,), for latents of `shape` (z, T', h, w); on the CPU."""
    uniform, noise = [], []
    for n in indices.tolist():
        rng = np.random.default_rng((seed, n, _STREAM))
        uniform.append(rng.random(2))
        noise.append(rng.standard_normal(shape, dtype=np.float32))
    numbers = torch.from_numpy(np.stack(uniform))
    return Draws(numbers[:, 0].float(), numbers[:, 1].float(), torch.from_numpy(np.stack(noise)))
