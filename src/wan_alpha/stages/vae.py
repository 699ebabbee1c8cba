"""stage=vae: the RGBA VAE of the Wan-Alpha paper (section 3.1)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from ..losses.alpha import AlphaVAELoss
from ..models.alpha_vae import AlphaVAE
from .optim import Optimiser
from .stage import StageModule


class AlphaVAEModule(StageModule):
    """Train the merge block and both decoder adapters on a frozen base.

        Z = M(E(R^h), E(A)),   L = L_alpha + L_rgb^soft + L_rgb^hard

    Args:
        vae: the model; only its adapters are trained.
        loss: the nine terms.
        optimiser: parameters -> what `configure_optimizers` returns.
    """

    def __init__(self, vae: AlphaVAE, loss: AlphaVAELoss, optimiser: Optimiser) -> None:
        super().__init__(optimiser)
        self.vae = vae
        self.loss = loss

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        rgb, alpha = batch["rgb"], batch["alpha"]
        z = self.vae.encode(rgb, alpha, batch["background"], streaming=False)  # hard render, encode both, merge
        rgb_hat, alpha_hat = self.vae.decode(z, streaming=False)
        # Soft and hard renders are inside.
        loss, terms = self.loss(rgb_hat, alpha_hat, rgb, alpha, batch["canvas"], turn=self.global_step)
        self.log_step({"loss": loss, **terms})
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        """The reconstruction; what is made of it is the evaluation's business."""
        rgb, alpha = self.vae(batch["rgb"], batch["alpha"], batch["background"])
        return {"rgb": rgb.float(), "alpha": alpha.float()}

    @property
    def base(self) -> AutoencoderKLWan:
        return self.vae.base

    def trainable(self) -> dict[str, nn.Parameter]:
        return self.vae.adapter_parameters()

    def export(self, directory: Path, dtype: torch.dtype) -> None:
        """Adapters as `AlphaVAE.from_pretrained` reads them, in `directory/adapters`."""
        self.vae.save_adapters(directory / "adapters", dtype)
