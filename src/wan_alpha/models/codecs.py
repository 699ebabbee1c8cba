"""Pixels to the DiT's normalised latents and back, for both kinds of video: with alpha, and without."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from wan_alpha.models.base import fingerprint, spatial_stride, temporal_stride
from wan_alpha.models.rgba_vae import RgbaVAE
from wan_alpha.models.streaming import decode_chunks
from wan_alpha.models.whole_clip import encode_features, latent_mean
from wan_alpha.rendering import soft_render

WHOLE_CLIP = 17 * 512 * 512
"""Pixels of a clip up to which it is encoded at once; longer ones go frame by frame: the same result in little memory.
It depends on a sample's shape alone, not on its batch."""


class Codec(nn.Module):
    """A frozen VAE as the DiT sees it; latents are normalised with the base's statistics."""

    vae: AutoencoderKLWan

    @abstractmethod
    def encode(self, batch: dict[str, Any]) -> Tensor:
        """rgb (B, 3, T, H, W), alpha (B, 1, T, H, W) and background (B, 3) of a batch -> latents (B, z, T', h, w)."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that the latents depend on."""

    @abstractmethod
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents -> rgb (B, 3, T, H, W) in [-1, 1] and alpha (B, 1, T, H, W) in [0, 1], clamped."""

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(z, T', h, w) of a clip."""
        t, s = temporal_stride(self.vae), spatial_stride(self.vae)
        return int(self.vae.config["z_dim"]), 1 + (num_frames - 1) // t, height // s, width // s


class AlphaCodec(Codec):
    """RGBA video through an RGBA VAE of any kind; ours takes the hard render on the sample's background, and alpha.

    Args:
        alpha_vae: with trained adapters; frozen here.
    """

    def __init__(self, alpha_vae: RgbaVAE) -> None:
        super().__init__()
        self.alpha_vae = alpha_vae.requires_grad_(False).eval()

    @property
    def vae(self) -> AutoencoderKLWan:  # type: ignore[override]
        return self.alpha_vae.base

    @torch.no_grad()
    def encode(self, batch: dict[str, Any]) -> Tensor:
        streaming = batch["alpha"][0].numel() > WHOLE_CLIP
        z = self.alpha_vae.encode(batch["rgb"], batch["alpha"], batch["background"], streaming)
        return self.alpha_vae.normalize(z)

    def fingerprint(self) -> str:
        statistics = (self.alpha_vae.latents_mean.tolist(), self.alpha_vae.latents_std.tolist())
        digest = hashlib.sha256(f"{fingerprint(self.vae)} {statistics}".encode())
        for name, tensor in sorted(self.alpha_vae.adapter_state().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        rgb, alpha = self.alpha_vae.decode(self.alpha_vae.denormalize(z))
        return rgb.float().clamp(-1, 1), alpha.float().clamp(0, 1)


class ColourCodec(Codec):
    """Opaque video through the base alone: the clip on its background colour; alpha is 1 everywhere on the way back.

    Args:
        vae: the base's VAE; frozen here.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        for name in ("latents_mean", "latents_std"):
            statistic = torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1)
            self.register_buffer(name, statistic, persistent=False)

    latents_mean: Tensor
    latents_std: Tensor

    @torch.no_grad()
    def encode(self, batch: dict[str, Any]) -> Tensor:
        video = soft_render(batch["rgb"], batch["alpha"], batch["background"])
        z = latent_mean(self.vae, encode_features(self.vae, video))
        return (z - self.latents_mean) / self.latents_std

    def fingerprint(self) -> str:
        statistics = (self.latents_mean.tolist(), self.latents_std.tolist())
        return hashlib.sha256(f"{fingerprint(self.vae)} {statistics}".encode()).hexdigest()[:16]

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        raw = z * self.latents_std + self.latents_mean
        rgb = torch.cat(list(decode_chunks(self.vae, raw)), dim=2).float().clamp(-1, 1)
        return rgb, torch.ones_like(rgb[:, :1])
