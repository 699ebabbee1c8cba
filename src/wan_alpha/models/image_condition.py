"""Image-to-RGBA-video: what an image-to-video base sees besides the noisy latent.

diffusers' WanImageToVideo layout: in_channels = z + 4 + z, the noisy latent, a mask that says which frames are given,
and the normalised latent of a video whose first frame is the picture and whose others are zero in the network's range.
Here that video is RGBA and goes through the RGBA VAE.  Its other frames have rgb 0 and alpha 1/2, which is zero to both
branches of the encoder, as for the base.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from wan_alpha.models.base import BaseError
from wan_alpha.models.codecs import Codec


class GivenFrame(NamedTuple):
    """What the transformer sees of each clip's first frame.

    latent: normalised, (B, z, T', h, w), see `condition_latent`.
    features: CLIP's, (B, tokens, image_dim), for bases that want them (`models.image_encoder`), else None.
    """

    latent: Tensor
    features: Tensor | None = None

    def first(self, count: int) -> GivenFrame:
        """Those of the first `count` clips."""
        return GivenFrame(self.latent[:count], None if self.features is None else self.features[:count])


def condition_latent(codec: Codec, batch: dict[str, Any]) -> Tensor:
    """The normalised latent (B, z, T', h, w) of a clip of which only the first frame is known.

    Args:
        codec: of the RGBA VAE.
        batch: rgb (B, 3, T, H, W) and alpha (B, 1, T, H, W), of which the first frame is read, and background (B, 3).
    """
    rgb, alpha = torch.zeros_like(batch["rgb"]), torch.full_like(batch["alpha"], 0.5)
    rgb[:, :, :1], alpha[:, :, :1] = batch["rgb"][:, :, :1], batch["alpha"][:, :, :1]
    return codec.encode({**batch, "rgb": rgb, "alpha": alpha})


def first_frame_mask(like: Tensor, temporal: int = 4) -> Tensor:
    """(B, temporal, T', h, w): ones at the first latent frame, of which all pixels are given, else zeros.

    diffusers repeats the first frame's flag `temporal` times and folds groups of `temporal` frames into channels.
    """
    mask = like.new_zeros(like.shape[0], temporal, *like.shape[2:])
    mask[:, :, 0] = 1
    return mask


def with_condition(z_t: Tensor, condition: Tensor, temporal: int = 4) -> Tensor:
    """The transformer's input (B, z + temporal + z, T', h, w)."""
    if z_t.shape != condition.shape:
        raise ValueError(f"the condition is {tuple(condition.shape)}, the latent {tuple(z_t.shape)}; expected equal")
    return torch.cat([z_t, first_frame_mask(z_t, temporal), condition.to(z_t)], dim=1)


def check_image_base(transformer: WanTransformer3DModel, z_dim: int, temporal: int = 4) -> None:
    """Raise BaseError unless the transformer takes the first frame's latent beside the noisy one."""
    have, wanted = int(transformer.config["in_channels"]), 2 * z_dim + temporal
    if have != wanted:
        raise BaseError(
            f"task=i2v needs an image-to-video base with {wanted} input channels (latent, mask, latent of the first "
            f"frame); this one has {have}. Choose such a base, or model.task=t2v"
        )


def check_text_base(transformer: WanTransformer3DModel, z_dim: int) -> None:
    """Raise BaseError unless the transformer takes the noisy latent alone."""
    have = int(transformer.config["in_channels"])
    if have != z_dim:
        raise BaseError(
            f"task=t2v needs a base with {z_dim} input channels, as many as its latent has; this one has {have}. If it "
            "makes videos from a first frame, model.task=i2v trains it"
        )
