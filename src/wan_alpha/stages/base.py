"""stage=base: a small Wan VAE from scratch, so that everything else can be tried without the large ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from wan_alpha.models.transfer import send
from wan_alpha.models.whole_clip import decode_clip, encode_features, latent_mean, latent_moments
from wan_alpha.rendering import alpha_to_rgb, hard_render, soft_render
from wan_alpha.stages.optim import Optimiser
from wan_alpha.stages.stage import StageModule


class BaseVAEModule(StageModule):
    """Reconstruct what the RGBA VAE will show its base: alpha as grey, soft renders and hard renders.

        L = |x̂ - x| + (x̂ - x)² + β KL(q(z|x) || N(0, 1))

    Args:
        vae: a Wan VAE; all of it is trained.
        optimiser: parameters -> what `configure_optimizers` returns.
        kl_weight: β; 0 trains a plain autoencoder on the latent's mean.
        seed: of the noise in the latent.
    """

    def __init__(self, vae: AutoencoderKLWan, optimiser: Optimiser, kl_weight: float = 0.0, seed: int = 0) -> None:
        super().__init__(optimiser)
        self.vae = vae.requires_grad_(True).train()
        self.kl_weight = kl_weight
        self.seed = seed

    def render(self, batch: dict) -> Tensor:
        """Grey alpha, soft render, hard render, turn about by sample number: (B, 3, T, H, W) in [-1, 1]."""
        turn = send(batch["index"] % 3, self.device).view(-1, 1, 1, 1, 1)
        grey, soft, hard = self.pictures(batch).values()
        return torch.where(turn == 0, grey, torch.where(turn == 1, soft, hard))

    @staticmethod
    def pictures(batch: dict) -> dict[str, Tensor]:
        """The three pictures of a clip, each (B, 3, T, H, W) in [-1, 1]."""
        rgb, alpha = batch["rgb"], batch["alpha"]
        return {
            "alpha": alpha_to_rgb(alpha),
            "soft": soft_render(rgb, alpha, batch["canvas"]),
            "hard": hard_render(rgb, alpha, batch["background"]),
        }

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        video = self.render(batch)
        mean, logvar = latent_moments(self.vae, encode_features(self.vae, video))
        z, kl = mean, mean.new_zeros(())
        if self.kl_weight:
            z = mean + self._noise(batch["index"], mean) * torch.exp(0.5 * logvar)
            kl = 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).mean()
        error = decode_clip(self.vae, z).float() - video
        l1, mse = error.abs().mean(), error.square().mean()
        loss = l1 + mse + self.kl_weight * kl
        self.log_step({"loss": loss, "l1": l1, "mse": mse, "kl": kl})
        return loss

    def _noise(self, index: Tensor, like: Tensor) -> Tensor:
        """Gaussian noise that follows from the seed and each sample's number, however batches and ranks are cut."""
        # Hashed, because torch's generator on the CPU reads 32 bits of its seed and no more.
        seeds = [int(np.random.SeedSequence((self.seed, n)).generate_state(1)[0]) for n in index.tolist()]
        noise = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return send(torch.stack(noise), like.device).to(like.dtype)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """PSNR of each of the three pictures, clip by clip, at the latent's mean."""
        figures = []
        for video in self.pictures(batch).values():
            z = latent_mean(self.vae, encode_features(self.vae, video))
            mse = (decode_clip(self.vae, z).float().clamp(-1, 1) - video).square().flatten(1).mean(1)
            figures.append(-10 * torch.log10(mse / 4))
        self.held_out.add(batch, torch.stack(figures, dim=1))

    def on_validation_epoch_end(self) -> None:
        self.log_held_out([f"{name}/psnr" for name in ("alpha", "soft", "hard")])

    @property
    def base(self) -> AutoencoderKLWan:
        return self.vae

    def trainable(self) -> dict[str, nn.Parameter]:
        return dict(self.vae.named_parameters())

    def export(self, directory: Path, dtype: torch.dtype) -> None:
        """The VAE in diffusers' layout, in `directory/base/vae`."""
        vae: Any = nn.Module.to(copy.deepcopy(self.vae), dtype)  # diffusers' own `to` warns for no reason
        vae.save_pretrained(directory / "base" / "vae")
