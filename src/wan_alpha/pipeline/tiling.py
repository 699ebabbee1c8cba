"""Decoding large frames in tiles, without seams.

Blending overlapping tiles hides seams; it does not remove them, because attention in the decoder's mid-block sees the
whole frame.  Here the mid-block, which works at latent resolution and costs little, runs once on whole frames; only the
convolutions after it, where memory goes, run in tiles.  A tile that is larger than what is kept of it by the reach of
those convolutions (`exact_halo`) gives the same numbers as the whole frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanDecoder3d, unpatchify
from torch import Tensor

from wan_alpha.models.base import spatial_stride
from wan_alpha.models.streaming import FeatureCache


@dataclass(frozen=True)
class Span:
    """One side of a tile in latent cells: what is read, and what of it is kept."""

    read: slice
    keep: slice

    @property
    def offset(self) -> int:
        """Cells of the read part before the kept one."""
        return self.keep.start - self.read.start


def exact_halo(vae: AutoencoderKLWan) -> int:
    """How many latent cells around a tile its pixels depend on, after the mid-block.

    Per stage `num_res_blocks + 1` residual blocks of two 3x3 convolutions, one more after each doubling and one at the
    end; a cell at stage n is 2^-n latent cells wide.
    """
    stages = len(vae.config["dim_mult"])
    reach = 0.0
    for stage in range(stages):
        convolutions = 2 * (vae.config["num_res_blocks"] + 1) + (stage > 0) + (stage == stages - 1)
        reach += convolutions / 2**stage
    return int(-(-reach // 1))


def spans(length: int, tile: int, halo: int) -> list[Span]:
    """Cover `length` cells with tiles of `tile`, each read with `halo` more on both sides where there is more."""
    starts = range(0, length, tile)
    return [
        Span(slice(max(0, s - halo), min(length, s + tile + halo)), slice(s, min(length, s + tile))) for s in starts
    ]


def to_host(x: Tensor, dtype: torch.dtype | None = torch.float32) -> Tensor:
    """In main memory; None keeps the precision."""
    return x.to("cpu", dtype)


@torch.no_grad()
def decode_tiled(vae: AutoencoderKLWan, z: Tensor, decoder: WanDecoder3d, tile: int, halo: int) -> Tensor:
    """Decode raw latents (B, z, T', h, w) tile by tile to (B, 3, 1+4(T'-1), H, W), about [-1, 1], not clamped.

    The result is in main memory in float32, and so is what the mid-block gave, until a tile needs its part of a frame:
    on the latent's device, memory grows with neither the length of the clip nor, but for the mid-block, its frames.

    Args:
        vae: its post-quant convolution and its sizes.
        decoder: the decoder to run.
        tile: side of a tile in latent cells.
        halo: cells read around it; from `exact_halo` on there is no seam, below it the error is small and measured.
    """
    features = [to_host(feature, None) for feature in _mid_features(vae, decoder, z)]
    scale = spatial_stride(vae)
    frames = 1 + 4 * (z.shape[2] - 1)
    video = torch.empty(z.shape[0], 3, frames, z.shape[3] * scale, z.shape[4] * scale)
    for rows in spans(z.shape[3], tile, halo):
        for columns in spans(z.shape[4], tile, halo):
            first = 0
            for chunk in _decode_tile(vae, decoder, features, rows, columns, z.device):
                pixels = [slice(s.keep.start * scale, s.keep.stop * scale) for s in (rows, columns)]
                video[:, :, first : first + chunk.shape[2], pixels[0], pixels[1]] = to_host(chunk)
                first += chunk.shape[2]
    return video


def _mid_features(vae: AutoencoderKLWan, decoder: WanDecoder3d, z: Tensor) -> Iterator[Tensor]:
    """Output of the mid-block for whole frames, one latent frame at a time."""
    cache = FeatureCache(decoder)
    z = vae.post_quant_conv(z)
    for t in range(z.shape[2]):
        cache.rewind()
        x = cache.conv(decoder.conv_in, z[:, :, t : t + 1])
        yield decoder.mid_block(x, feat_cache=cache.features, feat_idx=cache.index)


def _decode_tile(
    vae: AutoencoderKLWan,
    decoder: WanDecoder3d,
    features: list[Tensor],
    rows: Span,
    columns: Span,
    device: torch.device,
) -> Iterator[Tensor]:
    """The kept pixels of one tile: one frame, then four per further latent frame."""
    cache = FeatureCache(decoder)
    scale = spatial_stride(vae)
    kept = [slice(s.offset * scale, (s.offset + s.keep.stop - s.keep.start) * scale) for s in (rows, columns)]
    for t, whole in enumerate(features):
        cache.rewind()
        x = whole[..., rows.read, columns.read].to(device)
        for block in decoder.up_blocks:
            x = block(x, feat_cache=cache.features, feat_idx=cache.index, first_chunk=t == 0)
        x = cache.conv(decoder.conv_out, decoder.nonlinearity(decoder.norm_out(x)))
        yield unpatchify(x, vae.config["patch_size"] or 1)[..., kept[0], kept[1]]
