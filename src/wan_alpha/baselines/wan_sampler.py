"""The plain Wan base as a sampler of opaque video: what training-free baselines start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wan_alpha.baselines.interface import Sampling
from wan_alpha.data.resize import Frames
from wan_alpha.losses.timesteps import NUM_TRAIN_TIMESTEPS
from wan_alpha.models.base import check_size, frame_rate, load_vae
from wan_alpha.models.codecs import Codec, ColourCodec
from wan_alpha.models.dit import load_scheduler, load_transformer
from wan_alpha.models.sampling import VelocityModel, sample_latents
from wan_alpha.models.text import MAX_TOKENS, TextEncoder


class WanSampler:
    """Text to latents with a base's own transformer, text encoder and scheduler.

    Args:
        base: a complete base in diffusers' layout, see `models.base.locate_base`.
        sampling: sizes, steps, guidance.
        device, dtype: of transformer and text encoder; the VAE stays in float32.
        codec: decodes latents; None is the base's VAE for opaque video.

    Raises:
        BaseError: the base is missing or incomplete.
        SizeError: the base does not take clips of that size.
    """

    def __init__(
        self,
        base: str | Path,
        sampling: Sampling,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        codec: Codec | None = None,
    ) -> None:
        self.sampling, self.device, self.dtype = sampling, torch.device(device), dtype
        self.transformer = load_transformer(base, dtype).to(device)  # type: ignore[arg-type]
        self.text = TextEncoder.from_pretrained(base, dtype).to(device)
        self.scheduler = load_scheduler(base)
        self.codec: Codec = (codec or ColourCodec(load_vae(base))).to(device)
        check_size(self.codec.vae, sampling.num_frames, sampling.height, sampling.width)

    @property
    def fps(self) -> float:
        """Frames per second, see `frame_rate`."""
        return frame_rate(self.codec.vae)

    @torch.no_grad()
    def velocity_model(self, prompt: str) -> VelocityModel:
        """The transformer's velocity, with `prompt` or without."""
        embeddings = {True: self._embed(prompt), False: self._embed("")}

        def model(z: Tensor, t: Tensor, prompted: bool) -> Tensor:
            return self.transformer(
                hidden_states=z.to(self.dtype),
                timestep=t * NUM_TRAIN_TIMESTEPS,
                encoder_hidden_states=embeddings[prompted].expand(len(z), -1, -1),
                return_dict=False,
            )[0]

        return model

    def _embed(self, prompt: str) -> Tensor:
        return self.text([prompt], MAX_TOKENS).embeddings.to(self.device, self.dtype)

    def sample(self, model: VelocityModel, seed: int) -> Tensor:
        """Normalised latents (1, z, T', h, w)."""
        s = self.sampling
        shape = self.codec.latent_shape(s.num_frames, s.height, s.width)
        return sample_latents(model, self.scheduler, shape, [seed], s.steps, s.guidance, device=self.device)


class LatentGenerator:
    """`Generator`: a sampler whose codec decodes colour and alpha."""

    def __init__(self, sampler: WanSampler) -> None:
        self.sampler, self.fps = sampler, sampler.fps

    @torch.no_grad()
    def generate(self, prompt: str, seed: int) -> Frames:
        """See `Generator.generate`."""
        z = self.sampler.sample(self.sampler.velocity_model(prompt), seed)
        return to_rgba(*self.sampler.codec.decode(z))


def to_rgba(rgb: Tensor, alpha: Tensor) -> Frames:
    """rgb (1, 3, T, H, W) in [-1, 1] and alpha (1, 1, T, H, W) in [0, 1] -> uint8 (T, H, W, 4)."""
    rgba = torch.cat([(rgb[0].float().clamp(-1, 1) + 1) / 2, alpha[0].float().clamp(0, 1)])
    return np.rint(rgba.permute(1, 2, 3, 0).cpu().numpy() * 255).astype(np.uint8)


def to_pictures(rgb: Tensor) -> Frames:
    """rgb (1, 3, T, H, W) in [-1, 1] -> uint8 (T, H, W, 3)."""
    return to_rgba(rgb, torch.ones_like(rgb[:, :1]))[..., :3]
