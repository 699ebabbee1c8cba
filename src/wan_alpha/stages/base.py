"""stage=base: a small Wan VAE from scratch, so that everything else can be tried without the large ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from ..models.whole_clip import decode_clip, encode_features, latent_mean, latent_moments
from ..rendering import alpha_to_rgb, soft_render


class BaseVAEModule(pl.LightningModule):
    """Reconstruct RGB composites and grey alpha videos.

        L = |x̂ - x| + (x̂ - x)² + β KL(q(z|x) || N(0, 1))

    Args:
        vae: a Wan VAE; all of it is trained.
        optimiser: parameters -> what `configure_optimizers` returns.
        kl_weight: β; 0 trains a plain autoencoder on the latent's mean.
    """

    def __init__(
        self, vae: AutoencoderKLWan, optimiser: Callable[[list[nn.Parameter]], dict], kl_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(True).train()
        self.optimiser = optimiser
        self.kl_weight = kl_weight

    def render(self, batch: dict) -> Tensor:
        """Every third sample shows its alpha as grey, the others their soft render: (B, 3, T, H, W) in [-1, 1]."""
        grey = (batch["index"] % 3 == 0).view(-1, 1, 1, 1, 1)
        return torch.where(grey, alpha_to_rgb(batch["alpha"]), soft_render(batch["rgb"], batch["alpha"], batch["canvas"]))

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        video = self.render(batch)
        mean, logvar = latent_moments(self.vae, encode_features(self.vae, video))
        z, kl = mean, mean.new_zeros(())
        if self.kl_weight:
            generator = torch.Generator(mean.device).manual_seed(int(batch["index"][0]))
            noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
            z = mean + noise * torch.exp(0.5 * logvar)
            kl = 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).mean()
        error = decode_clip(self.vae, z).float() - video
        l1, mse = error.abs().mean(), error.square().mean()
        loss = l1 + mse + self.kl_weight * kl
        # PSNR of a picture in [-1, 1]: the peak-to-peak range is 2.
        psnr = -10 * torch.log10(mse.detach() / 4)
        self.log_dict({"train/loss": loss.detach(), "train/l1": l1.detach(), "train/kl": kl.detach(), "train/psnr": psnr})
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """PSNR of soft renders and of grey alpha, each clip by itself, at the latent's mean."""
        pictures = {
            "soft": soft_render(batch["rgb"], batch["alpha"], batch["canvas"]),
            "alpha": alpha_to_rgb(batch["alpha"]),
        }
        for name, video in pictures.items():
            z = latent_mean(self.vae, encode_features(self.vae, video))
            mse = (decode_clip(self.vae, z).float().clamp(-1, 1) - video).square().flatten(1).mean(1)
            psnr = -10 * torch.log10(mse / 4).mean()
            self.log(f"val/{name}/psnr", psnr, batch_size=len(video), sync_dist=True, prog_bar=True)

    def export(self, directory: Path) -> None:
        """Write the VAE in diffusers' layout."""
        self.vae.save_pretrained(directory / "vae")

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained, averaged and saved, by name."""
        return dict(self.vae.named_parameters())

    def configure_optimizers(self) -> dict:
        return self.optimiser(list(self.trainable().values()))
