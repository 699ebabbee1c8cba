"""The kinds of RGBA VAE that there are, by the name in their adapter files, and how any of them is loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from wan_alpha.baselines.four_channel import FourChannelVAE
from wan_alpha.baselines.latent_offset import LatentOffsetVAE
from wan_alpha.models.adapters import AdapterError, adapter_kind, locate_adapters
from wan_alpha.models.alpha_vae import AlphaVAE
from wan_alpha.models.base import load_vae
from wan_alpha.models.codecs import AlphaCodec, Codec, ColourCodec
from wan_alpha.models.rgba_vae import RgbaVAE

VAES: dict[str, type[AlphaVAE] | type[LatentOffsetVAE] | type[FourChannelVAE]] = {
    vae.kind: vae for vae in (AlphaVAE, LatentOffsetVAE, FourChannelVAE)
}
"""What stage=vae trains, by the kind that adapter files name."""


def load_trained_vae(base: str | Path, adapters: str | Path, dtype: torch.dtype = torch.float32) -> RgbaVAE:
    """The RGBA VAE whose files lie in `adapters` (a directory, a run, or a shipped name), whatever its kind.

    Raises:
        BaseError: no such base.
        AdapterError: no adapters lie there, they are of a kind that this version does not know, damaged, or made for
            another base.
    """
    kind = adapter_kind(adapters)
    if kind not in VAES:
        where = locate_adapters(adapters)
        raise AdapterError(f"{where}: adapters of kind {kind}; this version knows {', '.join(VAES)}")
    return VAES[kind].from_pretrained(base, adapters, dtype)


def load_latent_codec(base: str | Path, adapters: str | Path | None) -> Codec:
    """The frozen VAE as the DiT sees it: with adapters of any kind for RGBA, without for opaque video.

    Raises:
        BaseError, AdapterError: as `load_trained_vae`.
    """
    return ColourCodec(load_vae(base)) if adapters is None else AlphaCodec(load_trained_vae(base, adapters))
