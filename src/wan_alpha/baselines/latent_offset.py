"""LayerDiffuse's method on a Wan base: transparency as an offset of the colour's latent (arXiv 2402.17113).

    z = E(padded rgb) + F(padded rgb, alpha),   rgb, alpha = G(D(z), z)

E and D are the frozen base, F and G small networks.  D(z) must stay the padded picture, which keeps the offset small
enough for a diffusion model of the base ("identity" below).  Left out: the paper's adversarial loss, and its padding
by repeated Gaussian blurs is a pyramid of averages here.  F starts at zero, G at "the decoded colour, opaque".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wan_alpha.baselines.offset_networks import PATCH, OffsetEncoder, TransparencyDecoder, pad_colour
from wan_alpha.baselines.vae import BaselineVAE
from wan_alpha.models.base import spatial_stride, temporal_stride
from wan_alpha.models.rgba_vae import Penalty
from wan_alpha.models.whole_clip import decode_clip, encode_features, latent_mean


@dataclass(frozen=True)
class LatentOffsetSpec:
    """Channels of both networks at their finest level, and the weight of the identity penalty."""

    width: int = 32
    identity_weight: float = 1.0


class LatentOffsetVAE(BaselineVAE):
    """See the module.  Whole clips only: `streaming` is not read."""

    kind = "latent_offset"
    spec_type = LatentOffsetSpec
    spec: LatentOffsetSpec

    def build(self) -> None:
        z_dim = int(self.base.config["z_dim"])
        downs = int(math.log2(spatial_stride(self.base) // PATCH))
        temporal = int(math.log2(temporal_stride(self.base)))
        self.offset = OffsetEncoder(z_dim, self.spec.width, downs, temporal)
        self.transparency = TransparencyDecoder(z_dim, self.spec.width, downs, temporal)
        self._decoded: tuple[Tensor, Tensor] | None = None

    def encode(
        self,
        rgb: Tensor,
        alpha: Tensor,
        background: Sequence[float] | Tensor = (1.0, -1.0, 1.0),
        streaming: bool = True,
    ) -> Tensor:
        """See `RgbaVAE.encode`; padding takes the place of a background colour, which is not read."""
        self.check_clip(rgb, alpha)
        with torch.no_grad():
            padded = pad_colour(rgb, alpha)
            z = latent_mean(self.base, encode_features(self.base, padded))
        return z + self.offset(torch.cat([padded, alpha * 2 - 1], dim=1), self.run)

    def decode(self, z: Tensor, streaming: bool = True) -> tuple[Tensor, Tensor]:
        self.check_latent(z)
        decoded = decode_clip(self.base, z, self.run)
        if torch.is_grad_enabled():
            self._decoded = (z, decoded)
        return self.transparency(decoded, z, self.run)

    def penalties(self, rgb: Tensor, alpha: Tensor, background: Tensor, z: Tensor) -> dict[str, Penalty]:
        """`identity`: mean squared difference of the base's own decoding of z to the padded picture."""
        last, self._decoded = self._decoded, None  # decoding is most of a step: not twice
        decoded = last[1] if last is not None and last[0] is z else decode_clip(self.base, z, self.run)
        distance = (decoded.float() - pad_colour(rgb, alpha).float()).square().mean()
        return {"identity": Penalty(distance, self.spec.identity_weight)}

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        parts = {"offset": self.offset, "transparency": self.transparency}
        return {f"{part}.{name}": p for part, network in parts.items() for name, p in network.named_parameters()}
