"""stage=vae: the RGBA VAE of the Wan-Alpha paper (section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from wan_alpha.losses.alpha import AlphaVAELoss
from wan_alpha.losses.diffusion_prior import DiffusionPrior
from wan_alpha.losses.draws import draw
from wan_alpha.models.alpha_vae import AlphaVAE
from wan_alpha.models.base import remember_fingerprint
from wan_alpha.models.rgba_vae import RgbaVAE
from wan_alpha.models.whole_clip import clip_blocks
from wan_alpha.stages.optim import Optimiser
from wan_alpha.stages.stage import StageModule


class AlphaVAEModule(StageModule):
    """Train an RGBA VAE on a frozen base: the paper's (merge block and two decoder adapters), or a baseline's.

        Z = M(E(R^h), E(A)),   L = L_alpha + L_rgb^soft + L_rgb^hard  [ + w L_t2v: version 2 ]

    Args:
        vae: the model; only its adapters are trained.  A baseline may add penalties to the loss.
        loss: the nine terms.
        optimiser: parameters -> what `configure_optimizers` returns.
        prior: version 2's diffusion prior; None is version 1.
        prior_weight: w (paper: 0.1).
        seed: of the prior's noise.
    """

    def __init__(
        self,
        vae: RgbaVAE,
        loss: AlphaVAELoss,
        optimiser: Optimiser,
        prior: DiffusionPrior | None = None,
        prior_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(optimiser)
        self.vae = vae
        self.loss = loss
        self.prior, self.prior_weight, self.seed = prior, prior_weight, seed

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        rgb, alpha = batch["rgb"], batch["alpha"]
        z = self.vae.encode(rgb, alpha, batch["background"], streaming=False)  # hard render, encode both, merge
        rgb_hat, alpha_hat = self.vae.decode(z, streaming=False)
        # Soft and hard renders are inside.
        loss, terms = self.loss(rgb_hat, alpha_hat, rgb, alpha, batch["canvas"], turn=self.global_step)
        if self.prior is not None:
            draws = draw(self.seed, batch["index"], tuple(z.shape[1:]))
            unknown, errors = self.prior(self.vae.normalize(z), alpha, draws.u, draws.noise)
            loss, terms = loss + self.prior_weight * unknown, {**terms, "prior": unknown.detach(), **errors}
        for name, (value, weight) in self.vae.penalties(rgb, alpha, batch["background"], z).items():
            loss, terms = loss + weight * value, {**terms, name: value.detach()}
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

    def shard_units(self) -> Iterator[nn.Module]:
        assert isinstance(self.vae, AlphaVAE)
        if self.prior is not None:
            yield from self.prior.transformer.blocks
            yield self.prior.transformer
        base = self.vae.base
        remember_fingerprint(base)
        yield from clip_blocks(base.encoder)
        yield from clip_blocks(base.decoder)
        yield from (
            base.decoder.conv_in,
            base.decoder.conv_out,
            self.vae.merge,
        )  # others are small and frozen

    def export(self, directory: Path, dtype: torch.dtype) -> None:
        """Adapters as `AlphaVAE.from_pretrained` reads them, in `directory/adapters`."""
        self.vae.save_adapters(directory / "adapters", dtype)
