"""Whole-clip passes through diffusers' Wan VAE, with activation checkpointing per block.

diffusers runs the Wan VAE four frames at a time through a cache of past features.  That is the right thing for
generating long videos (see `streaming.py`) and the wrong one for training: many small kernels, and a cache that
activation checkpointing cannot see through.  The functions here run the same modules once over the whole clip and
give the same numbers.  The only places where Wan treats time specially are the temporal resamplers, which keep the
first frame apart:

    down:  y = cat[x0, time_conv(x)]               (stride 2, no padding: the clip itself is the cache)
    up:    y = cat[x0, interleave(time_conv(x1..))]

Shapes: B batch, C channels, T = 1 + 4k frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanDecoder3d,
    WanEncoder3d,
    WanResample,
    WanResidualDownBlock,
    WanResidualUpBlock,
    WanUpBlock,
    patchify,
    unpatchify,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

Block = Callable[[Tensor], Tensor]
Runner = Callable[[Block, Tensor], Tensor]
CLIP_METHOD = "whole_clip"


def run_plain(block: Block, x: Tensor) -> Tensor:
    """Call `block`; autograd keeps what it needs."""
    return block(x)


def run_checkpointed(block: Block, x: Tensor) -> Tensor:
    """Call `block`; keep its input and what its convolutions give, and compute the rest again in the backward pass.

    Convolutions are nearly all of the computation, and what stays is a fifth of what a decoder would keep in bf16, a
    third in float32: norms, SiLU, padding and folded weights are the rest.
    """
    if not torch.is_grad_enabled():
        return block(x)
    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=_keep_convolutions)


def _keep_convolutions() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return create_selective_checkpoint_contexts([torch.ops.aten.convolution.default])


def _per_frame(resample: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2D module to each frame of (B, C, T, H, W)."""
    b, _, t = x.shape[:3]
    y = resample(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (b, t)).transpose(1, 2)


def _resample(layer: WanResample, x: Tensor) -> Tensor:
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        first, rest = x[:, :, :1], layer.time_conv(x[:, :, 1:])
        even, odd = rest.chunk(2, dim=1)
        x = torch.cat([first, torch.stack([even, odd], dim=3).flatten(2, 3)], dim=2)
    x = _per_frame(layer.resample, x)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    return x


def _first_frame_apart(shortcut: Block, x: Tensor) -> Tensor:
    if x.shape[2] == 1:
        return shortcut(x)
    return torch.cat([shortcut(x[:, :, :1]), shortcut(x[:, :, 1:])], dim=2)


def _residual_down(block: WanResidualDownBlock, x: Tensor) -> Tensor:
    y = x
    for resnet in block.resnets:
        y = resnet(y)
    if block.downsampler is not None:
        y = _resample(block.downsampler, y)
    return y + _first_frame_apart(block.avg_shortcut, x)


def _up(block: WanUpBlock | WanResidualUpBlock, x: Tensor) -> Tensor:
    y = x
    for resnet in block.resnets:
        y = resnet(y)
    if isinstance(block, WanUpBlock):
        return y if block.upsamplers is None else _resample(cast(WanResample, block.upsamplers[0]), y)
    if block.upsampler is None:
        return y
    first = block.avg_shortcut(x[:, :, :1], first_chunk=True)
    shortcut = first if x.shape[2] == 1 else torch.cat([first, block.avg_shortcut(x[:, :, 1:])], dim=2)
    return _resample(block.upsampler, y) + shortcut


def _block(layer: nn.Module) -> Block:
    """The whole-clip form of one encoder or decoder block."""
    if CLIP_METHOD in layer.__dict__:
        return cast(Block, layer.__dict__[CLIP_METHOD])
    if isinstance(layer, WanResample):
        return lambda x: _resample(layer, x)
    if isinstance(layer, WanResidualDownBlock):
        return lambda x: _residual_down(layer, x)
    if isinstance(layer, WanUpBlock | WanResidualUpBlock):
        return lambda x: _up(layer, x)
    return layer


def clip_blocks(part: WanEncoder3d | WanDecoder3d) -> Iterator[nn.Module]:
    """The large blocks of an encoder or decoder, to be wrapped.

    Those that a whole-clip pass takes apart get their whole-clip form as a method, `whole_clip`: whoever wraps that
    method is met by the functions below.
    """
    for layer in (*(part.down_blocks if isinstance(part, WanEncoder3d) else part.up_blocks), part.mid_block):
        if (block := _block(layer)) is not layer:
            object.__setattr__(layer, CLIP_METHOD, block)
        yield layer


def encoder_features(encoder: WanEncoder3d, x: Tensor, run: Runner = run_plain) -> Tensor:
    """Mid-block features of a patchified clip (B, C, T, H, W) -> (B, F, 1+(T-1)/4, H', W'), before the output norm."""
    x = run(encoder.conv_in, x)
    for layer in encoder.down_blocks:
        x = run(_block(layer), x)
    return run(encoder.mid_block, x)


def encode_features(vae: AutoencoderKLWan, video: Tensor, run: Runner = run_plain) -> Tensor:
    """Mid-block features of `video` (B, 3, T, H, W) in [-1, 1] -> (B, F, T', H/s, W/s), before the output norm."""
    return encoder_features(vae.encoder, patchify(video, vae.config["patch_size"] or 1), run)


def latent_moments(vae: AutoencoderKLWan, features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the base's latent from `encode_features`: (B, F, T', h, w) -> twice (B, z, T', h, w)."""
    encoder = vae.encoder
    moments = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(features)))
    mean, logvar = vae.quant_conv(moments).chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


def latent_mean(vae: AutoencoderKLWan, features: Tensor) -> Tensor:
    """The mean of the base's latent distribution: (B, F, T', h, w) -> (B, z, T', h, w)."""
    return latent_moments(vae, features)[0]


def decode_clip(vae: AutoencoderKLWan, z: Tensor, run: Runner = run_plain) -> Tensor:
    """Decode raw latents (B, z, T', h, w) to a video (B, 3, 1+4(T'-1), H, W), about [-1, 1], not clamped."""
    decoder: WanDecoder3d = vae.decoder
    x = run(decoder.conv_in, vae.post_quant_conv(z))
    x = run(decoder.mid_block, x)
    for block in decoder.up_blocks:
        x = run(_block(block), x)
    x = run(lambda y: decoder.conv_out(decoder.nonlinearity(decoder.norm_out(y))), x)
    return unpatchify(x, vae.config["patch_size"] or 1)
