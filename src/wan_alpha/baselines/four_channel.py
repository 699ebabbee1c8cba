"""AlphaVAE's method on a Wan base: the VAE itself widened to four channels and trained whole (arXiv 2507.09308).

The first convolution gets alpha's input channels with zero weights, the last one alpha's output channels with zero
weights and a bias of 1: it starts as the base and calls everything opaque.  A divergence to the frozen base's latent
keeps the latent space where it was.  Left out: the paper's adversarial loss; its loss over composites on several
backgrounds is the stage's own, which draws one canvas per sample.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from torch import Tensor, nn

from wan_alpha.baselines.vae import BaselineVAE
from wan_alpha.models.rgba_vae import Penalty
from wan_alpha.models.whole_clip import decode_clip, encode_features, latent_moments
from wan_alpha.rendering import hard_render


@dataclass(frozen=True)
class FourChannelSpec:
    """The weight of the divergence to the frozen base's latent, a mean over the latent's numbers."""

    kl_weight: float = 1e-6


class FourChannelVAE(BaselineVAE):
    """See the module.  Whole clips only: `streaming` is not read.  What is trained is as large as the base."""

    kind = "four_channel"
    spec_type = FourChannelSpec
    spec: FourChannelSpec

    def build(self) -> None:
        self.vae = widen(copy.deepcopy(self.base)).requires_grad_(True)
        self._moments: tuple[Tensor, Tensor] | None = None

    def encode(
        self,
        rgb: Tensor,
        alpha: Tensor,
        background: Sequence[float] | Tensor = (1.0, -1.0, 1.0),
        streaming: bool = True,
    ) -> Tensor:
        """See `RgbaVAE.encode`: the hard render on `background`, and alpha as a fourth channel."""
        self.check_clip(rgb, alpha)
        hard = hard_render(rgb, alpha, torch.as_tensor(background, dtype=rgb.dtype, device=rgb.device))
        features = encode_features(self.vae, torch.cat([hard, alpha * 2 - 1], dim=1), self.run)
        mean, logvar = latent_moments(self.vae, features)
        if torch.is_grad_enabled():
            self._moments = (mean, logvar)
        return mean

    def decode(self, z: Tensor, streaming: bool = True) -> tuple[Tensor, Tensor]:
        self.check_latent(z)
        rgb, alpha = decode_clip(self.vae, z, self.run).split([3, 1], dim=1)
        return rgb, (alpha + 1) / 2

    def penalties(self, rgb: Tensor, alpha: Tensor, background: Tensor, z: Tensor) -> dict[str, Penalty]:
        """`reference_kl`: of the latent's normal distribution to that of the base for the same hard render."""
        last, self._moments = self._moments, None
        if last is None or last[0] is not z:
            raise ValueError("penalties: give the latent that this model has just encoded, with gradients")
        with torch.no_grad():
            reference = latent_moments(self.base, encode_features(self.base, hard_render(rgb, alpha, background)))
        return {"reference_kl": Penalty(gaussian_kl(*last, *reference), self.spec.kl_weight)}

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.vae.named_parameters())


@torch.no_grad()
def widen(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Give the first convolution of `vae` a fourth input channel and the last one a fourth output channel, in place.

    The patches of a patchified VAE are ordered channel by channel, so that alpha's come last.
    """
    patch = int(vae.config["patch_size"] or 1) ** 2
    first, last = vae.encoder.conv_in, vae.decoder.conv_out
    wide_in = WanCausalConv3d(first.in_channels + patch, first.out_channels, 3, padding=1).to(first.weight)
    wide_in.weight.zero_()
    wide_in.weight[:, : first.in_channels] = first.weight
    cast(Tensor, wide_in.bias).copy_(cast(Tensor, first.bias))
    wide_out = WanCausalConv3d(last.in_channels, last.out_channels + patch, 3, padding=1).to(last.weight)
    wide_out.weight.zero_()
    wide_out.weight[: last.out_channels] = last.weight
    bias = cast(Tensor, wide_out.bias)
    bias.fill_(1.0)
    bias[: last.out_channels] = cast(Tensor, last.bias)
    vae.encoder.conv_in, vae.decoder.conv_out = wide_in, wide_out
    return vae


def gaussian_kl(mean: Tensor, logvar: Tensor, mean0: Tensor, logvar0: Tensor) -> Tensor:
    """KL(N(mean, e^logvar) || N(mean0, e^logvar0)), a mean over all numbers, in float32; ()."""
    mean, logvar, mean0, logvar0 = (x.float() for x in (mean, logvar, mean0, logvar0))
    ratio = (logvar - logvar0).exp() + (mean - mean0).square() / logvar0.exp()
    return 0.5 * (ratio - 1 - logvar + logvar0).mean()
