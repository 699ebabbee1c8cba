"""From noise to a latent with a diffusers scheduler: what a validation shows, without a whole pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

VelocityModel = Callable[[Tensor, Tensor, bool], Tensor]
"""(latents, t in (0, 1) per sample, with prompt?) -> velocity."""


@torch.no_grad()
def sample_latents(
    model: VelocityModel,
    scheduler: Any,
    shape: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    guidance: float = 1.0,
    noise: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Integrate the flow from noise to data.

    Args:
        model: the velocity with its prompt, or without it for guidance.
        scheduler: a flow scheduler of diffusers; its state is not touched.
        shape: (z, T', h, w).
        seeds: one per sample; sample n depends on seeds[n] alone.
        steps: how many.
        guidance: v = v_empty + guidance·(v - v_empty); 1 needs no second pass.
        noise: added to the starting noise, (B, z, T', h, w) or broadcastable (shifted noise).
        device: where to work.

    Returns:
        Normalised latents, float32 (B, z, T', h, w).
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, device=device)
    start = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    latents = torch.stack(start).to(device)
    if noise is not None:
        latents = latents + noise.to(latents)
    for timestep in scheduler.timesteps:
        t = (timestep.float() / scheduler.config.num_train_timesteps).expand(len(seeds)).to(device)
        v = model(latents, t, True).float()
        if guidance != 1.0:
            empty = model(latents, t, False).float()
            v = empty + guidance * (v - empty)
        latents = scheduler.step(v, timestep, latents, return_dict=False)[0]
    return latents
