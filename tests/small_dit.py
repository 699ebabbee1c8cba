"""A small random Wan transformer."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from wan_alpha.models.dit_adapters import dit_adapter_parameters

DIT: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 10,
    "freq_dim": 16, "ffn_dim": 40, "num_layers": 2, "rope_max_seq_len": 32,
}  # fmt: skip


def random_dit(dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> WanTransformer3DModel:
    """A fresh small transformer, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dit = WanTransformer3DModel(**(DIT | changes))
    return dit.type(dtype).requires_grad_(False).eval()


def dit_inputs(dit: WanTransformer3DModel, dtype: torch.dtype = torch.float32, batch: int = 2) -> dict[str, Tensor]:
    """Latents (B, z, 3, 4, 6), timesteps and a text context for `random_dit`."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "hidden_states": draw(batch, dit.config["in_channels"], 3, 4, 6),
        "timestep": torch.arange(1, batch + 1) * 300.0,
        "encoder_hidden_states": draw(batch, 5, dit.config["text_dim"]),
    }


@torch.no_grad()
def disturb_adapters(dit: WanTransformer3DModel, seed: int = 2) -> None:
    """Give every adapter tensor some weight: at their start they do nothing."""
    generator = torch.Generator().manual_seed(seed)
    for p in dit_adapter_parameters(dit).values():
        p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))
