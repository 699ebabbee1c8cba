"""Codecs of RGBA VAEs, and what the frozen base can do without any: the ceiling and the floor of any training."""

from __future__ import annotations

import torch
from torch import Tensor

from wan_alpha.models.rgba_vae import RgbaVAE
from wan_alpha.rendering import alpha_to_rgb, hard_render, rgb_to_alpha


class RgbaVAECodec:
    """`Codec`: one latent for colour and alpha, the project's own or a baseline's.

    Args:
        vae: with trained adapters.
        streaming: frame by frame in constant memory, for those that can.
    """

    def __init__(self, vae: RgbaVAE, streaming: bool = True) -> None:
        self.vae, self.streaming = vae, streaming

    @torch.no_grad()
    def reconstruct(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec.reconstruct`."""
        z = self.vae.encode(rgb, alpha, background, streaming=self.streaming)
        out_rgb, out_alpha = self.vae.decode(z, streaming=self.streaming)
        return out_rgb.float(), out_alpha.float()


class CeilingCodec:
    """`Codec`: the base spends two latents, one on the hard render and one on alpha as a grey video."""

    def __init__(self, vae: RgbaVAE) -> None:
        self.vae = vae

    @torch.no_grad()
    def reconstruct(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec.reconstruct`."""
        out = self.vae.base_roundtrip(hard_render(rgb, alpha, background)).float()
        return out, rgb_to_alpha(self.vae.base_roundtrip(alpha_to_rgb(alpha)).float())


class FloorCodec:
    """`Codec`: the base spends one latent and knows nothing of alpha: everything comes back opaque."""

    def __init__(self, vae: RgbaVAE) -> None:
        self.vae = vae

    @torch.no_grad()
    def reconstruct(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec.reconstruct`."""
        out = self.vae.base_roundtrip(hard_render(rgb, alpha, background)).float()
        return out, torch.ones_like(alpha)
