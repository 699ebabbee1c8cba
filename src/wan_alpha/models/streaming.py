"""Frame-by-frame passes through diffusers' Wan VAE: any length, constant memory, inference only.

The encoder takes frame 0, then four frames at a time; the decoder takes one latent frame at a time.  A `FeatureCache`
carries the last two input frames of each causal convolution from chunk to chunk.  The numbers equal those of the
whole-clip passes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    CACHE_T,
    AutoencoderKLWan,
    WanDecoder3d,
    patchify,
    unpatchify,
)
from torch import Tensor, nn


class FeatureCache:
    """Past frames of every causal convolution, in the order of their calls (diffusers' `feat_cache`, `feat_idx`)."""

    def __init__(self, module: nn.Module) -> None:
        # The number of convolutions bounds the number of slots; unused slots cost nothing.
        self.features: list[Tensor | str | None] = [None] * sum(isinstance(m, nn.Conv3d) for m in module.modules())
        self.index = [0]

    def rewind(self) -> None:
        """Back to the first slot: call before each chunk."""
        self.index[0] = 0

    def conv(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Run one causal convolution on the next frames `x` (B, C, t, H, W)."""
        slot = self.index[0]
        past = self.features[slot]
        recent = x[:, :, -CACHE_T:].clone()
        if isinstance(past, Tensor) and recent.shape[2] < CACHE_T:
            recent = torch.cat([past[:, :, -1:], recent], dim=2)
        y = conv(x) if past is None else conv(x, past)
        self.features[slot] = recent
        self.index[0] += 1
        return y


def chunks(num_frames: int) -> list[slice]:
    """Frames of a clip as Wan's encoder takes them: the first alone, then four at a time."""
    return [slice(0, 1)] + [slice(t, t + 4) for t in range(1, num_frames, 4)]


def encode_features_chunk(vae: AutoencoderKLWan, video: Tensor, cache: FeatureCache) -> Tensor:
    """Features of the next frames (B, 3, 1 or 4, H, W) in [-1, 1] -> (B, F, 1, h, w), before the output norm."""
    cache.rewind()
    encoder = vae.encoder
    x = cache.conv(encoder.conv_in, patchify(video, vae.config["patch_size"] or 1))
    for layer in encoder.down_blocks:
        x = layer(x, feat_cache=cache.features, feat_idx=cache.index)
    return encoder.mid_block(x, feat_cache=cache.features, feat_idx=cache.index)


def decode_chunks(vae: AutoencoderKLWan, z: Tensor) -> Iterator[Tensor]:
    """Decode raw latents (B, z, T', h, w); yields (B, 3, 1, H, W), then (B, 3, 4, H, W) for each further latent frame.

    Unclamped, about [-1, 1].
    """
    return decoder_chunks(vae, vae.decoder, vae.post_quant_conv(z))


def decoder_chunks(vae: AutoencoderKLWan, decoder: WanDecoder3d, z: Tensor) -> Iterator[Tensor]:
    """`decode_chunks` behind the post-quant convolution, which several decoders may share."""
    cache = FeatureCache(decoder)
    for t in range(z.shape[2]):
        cache.rewind()
        x = decoder(z[:, :, t : t + 1], feat_cache=cache.features, feat_idx=cache.index, first_chunk=t == 0)
        yield unpatchify(x, vae.config["patch_size"] or 1)
