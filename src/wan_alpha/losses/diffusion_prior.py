"""Version 2's extra term for the RGBA VAE: its latent should be one that the base's text-to-video model knows.

    L_t2v = mean over cells of  m · e,   e = ||v̂(t·ε + (1 - t)·Z, t, "") - (ε - Z)||² per cell, averaged over channels

with the frozen transformer's velocity v̂ for the empty prompt, Z the normalised latent, and a mask m per latent cell:
+1 where every pixel is opaque, -1 where some pixel is fully transparent (so the whole cell, or a mixed one), else 0.
Opaque cells are drawn into the distribution that the base knows, transparent ones are pushed out of it.

Two things the authors' public code has differently, as the paper describes it: the latent is normalised with the base's
statistics before the transformer sees it, and the mask is not clamped to [0, 1], so that the -1 branch works.  A push
without an end would let the latent run away, so the error of a pushed cell counts only up to `ceiling`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wan_alpha.losses.flow_matching import interpolate, velocity
from wan_alpha.losses.timesteps import NUM_TRAIN_TIMESTEPS, shift_timesteps
from wan_alpha.models.transfer import send


def transparency_mask(alpha: Tensor, temporal: int, spatial: int) -> Tensor:
    """Per latent cell: +1 opaque throughout, -1 with a fully transparent pixel, else 0.

    Args:
        alpha: (B, 1, 1 + temporal·k, H, W) in [0, 1].
        temporal, spatial: strides of the base.

    Returns:
        (B, 1, 1 + k, H / spatial, W / spatial).
    """
    low = -_cell_max(-alpha, temporal, spatial)
    return (low >= 1).to(alpha.dtype) - (low <= 0).to(alpha.dtype)


def _cell_max(x: Tensor, temporal: int, spatial: int) -> Tensor:
    small = F.max_pool3d(x, (1, spatial, spatial))
    if small.shape[2] == 1:
        return small
    return torch.cat([small[:, :, :1], F.max_pool3d(small[:, :, 1:], (temporal, 1, 1))], dim=2)


class DiffusionPrior(nn.Module):
    """See the module.

    Args:
        transformer: a Wan text-to-video transformer of the same latent space; frozen here.
        empty_prompt: its text encoder's embedding of "", padded, (1, L, C).
        temporal, spatial: strides of the VAE.
        ceiling: up to where the error of a pushed cell counts; 2 is that of a model that knows nothing of a unit-scale
            latent and predicts 0.
        shift: of the uniformly drawn noise levels, t -> s·t / (1 + (s - 1)·t).

    Raises:
        ValueError: the transformer is one for another latent.
    """

    empty_prompt: Tensor

    def __init__(
        self,
        transformer: Any,
        empty_prompt: Tensor,
        temporal: int,
        spatial: int,
        z_dim: int,
        ceiling: float = 2.0,
        shift: float = 5.0,
    ) -> None:
        super().__init__()
        if transformer.config["in_channels"] != z_dim:
            raise ValueError(
                f"the diffusion prior's transformer takes {transformer.config['in_channels']} channels, the VAE's "
                f"latent has {z_dim}: choose a text-to-video base of the same latent space"
            )
        self.transformer = transformer.requires_grad_(False).eval()
        self.register_buffer("empty_prompt", empty_prompt, persistent=False)
        self.temporal, self.spatial, self.ceiling, self.shift = temporal, spatial, ceiling, shift

    def forward(self, z: Tensor, alpha: Tensor, u: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L_t2v of a batch.

        Args:
            z: normalised latent (B, z, T', h, w), with gradient.
            alpha: true alpha (B, 1, T, H, W) in [0, 1].
            u: uniform draws (B,) in [0, 1), for the noise level.
            noise: ε, of the shape of z.

        Returns:
            The loss, (), and without gradient `prior/opaque` and `prior/transparent`, the mean errors of the cells.
        """
        error = self.error(z, noise, self.noise_level(send(u, z.device)))
        mask = transparency_mask(alpha.to(error), self.temporal, self.spatial)
        pulled, pushed = (mask > 0).to(error), (mask < 0).to(error)
        loss = (pulled * error - pushed * error.clamp(max=self.ceiling)).mean()
        means = {
            name: (error.detach() * cells).sum() / cells.sum().clamp(min=1)
            for name, cells in (("prior/opaque", pulled), ("prior/transparent", pushed))
        }
        return loss, means

    def noise_level(self, u: Tensor) -> Tensor:
        """Uniform draws to shifted t in (0, 1)."""
        return shift_timesteps(u.clamp(1e-3, 1 - 1e-3), self.shift)

    def error(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """||v̂ - v||² of every cell, a mean over channels, (B, 1, T', h, w) in float32."""
        noise = send(noise, z.device).to(z.dtype)
        predicted = self.transformer(
            hidden_states=interpolate(z, noise, t).to(self.empty_prompt.dtype),
            timestep=t * NUM_TRAIN_TIMESTEPS,
            encoder_hidden_states=self.empty_prompt.expand(len(z), -1, -1),
            return_dict=False,
        )[0]
        return (predicted.float() - velocity(z, noise).float()).square().mean(1, keepdim=True)
