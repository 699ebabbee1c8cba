"""stage=vae: the RGBA VAE of the Wan-Alpha paper (section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor, nn

from ..losses.alpha import AlphaVAELoss
from ..models.alpha_vae import AlphaVAE


class AlphaVAEModule(pl.LightningModule):
    """Train the merge block and both decoder adapters on a frozen base.

        Z = M(E(R^h), E(A)),   L = L_alpha + L_rgb^soft + L_rgb^hard

    Args:
        vae: the model; only its adapters are trained.
        loss: the nine terms.
        optimiser: parameters -> what `configure_optimizers` returns.
    """

    def __init__(self, vae: AlphaVAE, loss: AlphaVAELoss, optimiser: Callable[[list[nn.Parameter]], dict]) -> None:
        super().__init__()
        self.vae = vae
        self.loss = loss
        self.optimiser = optimiser

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        rgb, alpha = batch["rgb"], batch["alpha"]
        z = self.vae.encode(rgb, alpha, batch["background"], streaming=False)  # hard render, encode both, merge
        rgb_hat, alpha_hat = self.vae.decode(z, streaming=False)
        loss, terms = self.loss(rgb_hat, alpha_hat, rgb, alpha, batch["canvas"])  # soft and hard renders inside
        self.log_dict({"train/loss": loss.detach()} | {f"train/{name}": value for name, value in terms.items()})
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> tuple[Tensor, Tensor]:
        """The reconstruction (rgb, alpha); what is made of it is the evaluation's business."""
        return self.vae(batch["rgb"], batch["alpha"], batch["background"])

    def export(self, directory: Path) -> None:
        """Write the adapters as `AlphaVAE.from_pretrained` reads them."""
        self.vae.save_adapters(directory / "adapters")

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained, averaged and saved, by name."""
        return self.vae.adapter_parameters()

    def configure_optimizers(self) -> dict:
        return self.optimiser(list(self.trainable().values()))
