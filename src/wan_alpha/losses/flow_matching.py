"""Rectified flow: straight lines between data and noise, and the loss of a predicted velocity.

Shapes: Z, ε and velocities (B, z, T', h, w); t (B,) in (0, 1), 0 is data and 1 is noise.
"""

from __future__ import annotations

from torch import Tensor


def interpolate(z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Z_t = t·ε + (1 - t)·Z (Wan-Alpha, section 3.2).

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if z.shape != noise.shape or t.shape != z.shape[:1]:
        raise ValueError(
            f"expected latents and noise of one shape and one t per sample; got {tuple(z.shape)}, "
            f"{tuple(noise.shape)} and {tuple(t.shape)}"
        )
    t = t.to(z).view(-1, *[1] * (z.dim() - 1))
    return t * noise + (1 - t) * z


def velocity(z: Tensor, noise: Tensor) -> Tensor:
    """dZ_t/dt = ε - Z, which does not depend on t.  (The paper prints it without its minus sign.)"""
    return noise - z


def flow_matching_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """||v̂ - v||² of every sample, as a mean over its values: (B, ...) -> float32 (B,)."""
    if predicted.shape != target.shape:
        raise ValueError(f"predicted velocity is {tuple(predicted.shape)}, its target {tuple(target.shape)}")
    return (predicted.float() - target.float()).square().flatten(1).mean(1)
