"""RMS norm and SiLU of Wan's VAE as one operation.

    silu(sqrt(C) gamma x / |x|)        over the C channels

diffusers has it in nine operations, under bf16 autocast in float32 for the most part; each reads and writes the whole
clip, and with the copies around them they are about half of a step's time on a GPU.  Compiled they are one kernel that
reads and writes the type of the convolutions, and keeps nothing but its input.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d, WanEncoder3d, WanResidualBlock, WanRMS_norm
from torch import Tensor, nn
from torch.nn import functional as F

from wan_alpha.models.device import allow_variants

BEFORE_SILU: dict[type[nn.Module], tuple[str, ...]] = {
    WanResidualBlock: ("norm1", "norm2"),
    WanEncoder3d: ("norm_out",),
    WanDecoder3d: ("norm_out",),
}


def norm_silu(x: Tensor, gain: Tensor, dtype: torch.dtype) -> Tensor:
    """silu(gain x / |x|) over dimension 1, computed in float32 or better, in `dtype`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.silu(F.normalize(wide, dim=1) * gain).to(dtype)


_compiled = torch.compile(norm_silu, dynamic=True)


class NormSilu(nn.Module):
    """A norm of Wan's together with the SiLU after it; the parameter keeps its name."""

    def __init__(self, norm: WanRMS_norm) -> None:
        super().__init__()
        self.gamma, self.scale = norm.gamma, norm.scale

    def forward(self, x: Tensor) -> Tensor:
        place = x.device.type
        dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else x.dtype
        return _compiled(x, self.gamma * self.scale, dtype)


def fuse_norms(model: nn.Module) -> None:
    """Let all residual blocks of `model`, and what its encoders and decoders end with, use `NormSilu`."""
    allow_variants()
    # Within DDP, torch cuts what it compiles where gradients are sent; here no parameter lies within.  And on that way
    # torch 2.11 compiles under the checkpoint's own mode, which ends in a TypeError.
    torch._dynamo.config.optimize_ddp = False
    for block in list(model.modules()):
        for name in BEFORE_SILU.get(type(block), ()):
            setattr(block, name, NormSilu(getattr(block, name)))
            block.nonlinearity = nn.Identity()
