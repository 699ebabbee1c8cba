"""The feature merge block M: two feature streams of one frozen encoder become one latent.

    Z = M(E(R^h), E(A))        (Wan-Alpha, section 3.1)

Concatenate, 1x1x1 causal convolution, Res - Attn - Res - Attn - Res, RMS norm, SiLU, causal 3x3x3 convolution.
Only past frames are used, so long videos stream.  The sub-blocks are Wan's own, from diffusers.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanAttentionBlock,
    WanCausalConv3d,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn
from torch.nn import functional as F

from wan_alpha.models.streaming import FeatureCache
from wan_alpha.models.whole_clip import Runner, run_plain

MergeInit = Literal["base", "random"]


class FeatureMergeBlock(nn.Module):
    """Merge RGB and alpha features (B, F, T', h, w) each into a raw latent (B, z, T', h, w).

    Args:
        features: channels F of the encoder's mid-block output (384 in Wan2.1).
        z_dim: channels of the latent.
        residual_blocks: causal residual blocks; an attention layer (spatial, per frame) stands between each two.
    """

    def __init__(self, features: int, z_dim: int, residual_blocks: int = 3) -> None:
        super().__init__()
        self.conv_in = WanCausalConv3d(2 * features, features, 1)
        blocks: list[nn.Module] = [WanResidualBlock(features, features)]
        for _ in range(residual_blocks - 1):
            attention = WanAttentionBlock(features)
            _zero(attention.proj)
            blocks += [attention, WanResidualBlock(features, features)]
        self.blocks = nn.ModuleList(blocks)
        self.norm_out = WanRMS_norm(features, images=False)
        self.conv_out = WanCausalConv3d(features, z_dim, 3, padding=1)

    @torch.no_grad()
    def init_from_base(self, vae: AutoencoderKLWan) -> None:
        """Start exactly at the base: M(f_rgb, f_alpha) = latent mean of the base for f_rgb, whatever f_alpha is.

        The first convolution passes the RGB half through, residual branches are zero, and the head is the base's
        output norm followed by its output and quant convolutions folded into one.
        """
        features, z_dim = self.conv_in.out_channels, self.conv_out.out_channels
        _zero(self.conv_in)
        self.conv_in.weight[:, :features, 0, 0, 0] = torch.eye(features)
        for block in self.blocks:
            if isinstance(block, WanResidualBlock):
                _zero(block.conv2)
        self.norm_out.gamma.copy_(vae.encoder.norm_out.gamma)
        # Fold in float64: the product of two convolutions should cost no precision.
        quant, conv = vae.quant_conv, vae.encoder.conv_out
        matrix = quant.weight[:z_dim, :, 0, 0, 0].double()
        self.conv_out.weight.copy_(torch.einsum("zm,mfthw->zfthw", matrix, conv.weight.double()))
        biases = (cast(Tensor, layer.bias) for layer in (self.conv_out, conv, quant))
        own_bias, conv_bias, quant_bias = biases
        own_bias.copy_(matrix @ conv_bias.double() + quant_bias[:z_dim].double())

    def forward(self, rgb: Tensor, alpha: Tensor, run: Runner = run_plain) -> Tensor:
        """(B, F, T', h, w) twice -> raw latent (B, z, T', h, w), the whole clip at once."""
        x = self.conv_in(torch.cat([rgb, alpha], dim=1))
        for block in self.blocks:
            x = run(block, x)
        return self.conv_out(F.silu(self.norm_out(x)))

    def stream(self, rgb: Tensor, alpha: Tensor, cache: FeatureCache) -> Tensor:
        """The same for the next latent frames of a long clip; `cache` remembers the two frames before them."""
        cache.rewind()
        x = self.conv_in(torch.cat([rgb, alpha], dim=1))
        for block in self.blocks:
            x = block(x, cache.features, cache.index) if isinstance(block, WanResidualBlock) else block(x)
        return cache.conv(self.conv_out, F.silu(self.norm_out(x)))


def _zero(conv: nn.Conv2d | nn.Conv3d) -> None:
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)


def build_merge_block(vae: AutoencoderKLWan, init: MergeInit = "base", residual_blocks: int = 3) -> FeatureMergeBlock:
    """A merge block that fits `vae`: `init='base'` starts exactly at the base's latent, `'random'` is the paper's."""
    if init not in ("base", "random"):
        raise ValueError(f"merge.init is {init!r}; it must be 'base' (start at the base's latent) or 'random' (paper)")
    block = FeatureMergeBlock(vae.encoder.conv_out.in_channels, vae.config["z_dim"], residual_blocks).to(vae.dtype)
    if init == "base":
        block.init_from_base(vae)
    return block
