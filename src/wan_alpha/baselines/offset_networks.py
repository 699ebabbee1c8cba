"""The two small networks of a latent-offset VAE, causal in time like the base, and the padding of invisible colour."""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from torch import Tensor, nn
from torch.nn import functional as F

from wan_alpha.models.whole_clip import Runner, run_plain

PATCH = 2
"""Both networks work on patches of 2 x 2 pixels: full resolution would be most of their cost."""


def pad_colour(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Replace colour where alpha is 0 by that of the visible pixels around, blurred the more the further away.

    Averages of visible pixels over 2 x 2, 4 x 4, ... fill what finer levels leave empty.  What lies hidden under
    alpha 0 has no influence; a frame without any visible pixel becomes mid-grey.

    Args:
        rgb: (B, 3, T, H, W) in [-1, 1].
        alpha: (B, 1, T, H, W) in [0, 1].
    """
    b, _, t = rgb.shape[:3]
    visible = (alpha > 0).to(rgb).transpose(1, 2).flatten(0, 1)
    levels = [(rgb.transpose(1, 2).flatten(0, 1) * visible, visible)]
    while min(levels[-1][0].shape[-2:]) > 1:
        colour, weight = levels[-1]
        levels.append((F.avg_pool2d(colour, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True)))
    filled = torch.zeros_like(levels[-1][0])
    for colour, weight in reversed(levels):
        below = F.interpolate(filled, colour.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 0, colour / weight.clamp_min(1e-8), below)
    return filled.unflatten(0, (b, t)).transpose(1, 2)


def _widths(width: int, downs: int) -> list[int]:
    return [width * min(2**n, 4) for n in range(downs + 1)]


def _stride(level: int, downs: int, temporal: int) -> tuple[int, int, int]:
    """The last `temporal` of `downs` halve time, too: 1 + 2k frames become 1 + k."""
    return (2 if level >= downs - temporal else 1, 2, 2)


class OffsetEncoder(nn.Module):
    """RGBA clip -> what is added to the base's latent; zero at the start.

    Args:
        z_dim: channels of the latent.
        width: channels at the finest level.
        downs: halvings in space after the patches: log2(stride) - 1.
        temporal: how many of them halve time.
    """

    def __init__(self, z_dim: int, width: int, downs: int, temporal: int) -> None:
        super().__init__()
        sizes = _widths(width, downs)
        self.conv_in = WanCausalConv3d(4 * PATCH**2, sizes[0], 3, padding=1)
        self.blocks = nn.ModuleList([WanResidualBlock(c, c) for c in sizes])
        self.downs = nn.ModuleList(
            WanCausalConv3d(sizes[n], sizes[n + 1], 3, stride=_stride(n, downs, temporal), padding=1)
            for n in range(downs)
        )
        self.conv_out = WanCausalConv3d(sizes[-1], z_dim, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, rgba: Tensor, run: Runner = run_plain) -> Tensor:
        """(B, 4, T, H, W) in [-1, 1] -> (B, z, T', h, w)."""
        x = self.conv_in(patchify(rgba, PATCH))
        for block, down in zip(self.blocks[:-1], self.downs, strict=True):
            x = down(run(block, x))
        return self.conv_out(F.silu(run(self.blocks[-1], x)))


class TransparencyDecoder(nn.Module):
    """A U-Net over the decoded colour, with the latent let in at its bottom; at the start it says "opaque".

    Args: see `OffsetEncoder`.
    """

    def __init__(self, z_dim: int, width: int, downs: int, temporal: int) -> None:
        super().__init__()
        sizes = _widths(width, downs)
        self.strides = [_stride(n, downs, temporal) for n in range(downs)]
        self.conv_in = WanCausalConv3d(3 * PATCH**2, sizes[0], 3, padding=1)
        self.down_blocks = nn.ModuleList([WanResidualBlock(c, c) for c in sizes[:-1]])
        self.downs = nn.ModuleList(
            WanCausalConv3d(sizes[n], sizes[n + 1], 3, stride=self.strides[n], padding=1) for n in range(downs)
        )
        self.latent_in = WanCausalConv3d(z_dim, sizes[-1], 1)
        self.middle = WanResidualBlock(sizes[-1], sizes[-1])
        self.up_blocks = nn.ModuleList(
            [WanResidualBlock(sizes[n + 1] + sizes[n], sizes[n]) for n in reversed(range(downs))]
        )
        self.conv_out = WanCausalConv3d(sizes[0], 4 * PATCH**2, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, decoded: Tensor, z: Tensor, run: Runner = run_plain) -> tuple[Tensor, Tensor]:
        """Decoded colour (B, 3, T, H, W) and raw latent (B, z, T', h, w) -> rgb, alpha; unclamped."""
        x = self.conv_in(patchify(decoded, PATCH))
        skips = []
        for block, down in zip(self.down_blocks, self.downs, strict=True):
            x = run(block, x)
            skips.append(x)
            x = down(x)
        x = run(self.middle, x + self.latent_in(z))
        for block, stride in zip(self.up_blocks, reversed(self.strides), strict=True):
            x = run(block, torch.cat([_double(x, stride), skips.pop()], dim=1))
        correction, alpha = unpatchify(self.conv_out(F.silu(x)), PATCH).split([3, 1], dim=1)
        return decoded + correction, 1 + alpha


def _double(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """The inverse of a strided convolution's sizes: the first frame apart, like the base."""
    if stride[0] == 2:
        x = torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(2, dim=2)], dim=2)
    return F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
