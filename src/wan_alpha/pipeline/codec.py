"""The RGBA VAE as one component of a diffusers pipeline: streaming both decoders, merged or not."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from wan_alpha.models.alpha_vae import AlphaVAE
from wan_alpha.models.base import spatial_stride
from wan_alpha.models.lora import merge_adapter
from wan_alpha.models.streaming import decoder_chunks
from wan_alpha.models.tiny_decoder import TinyDecoder
from wan_alpha.pipeline.loading import PreviewError
from wan_alpha.pipeline.tiling import decode_tiled, exact_halo, to_host
from wan_alpha.rendering import rgb_to_alpha

log = logging.getLogger(__name__)


class RgbaCodec(nn.Module):
    """Encoder, merge block and the two decoders, under the names that diffusers' WanPipeline asks of a VAE.

    Merged, there are two decoders with weights of their own; everything that no adapter touches (norms, biases, the
    post-quant convolution) is shared.  Not merged, it is one decoder with two LoRA adapters.

    Args:
        vae: taken over, not copied.
        merge: fold the adapters into the weights, in float32.
    """

    def __init__(self, vae: AlphaVAE, merge: bool = True) -> None:
        super().__init__()
        self.alpha_vae = vae
        self.merged = merge
        self.tile: int | None = None
        self.halo: int | None = None
        self.preview: TinyDecoder | None = None
        self.alpha_decoder: WanDecoder3d | None = None
        if merge:
            self.alpha_decoder = copy.deepcopy(vae.base.decoder)
            merge_adapter(self.alpha_decoder, "alpha")
            merge_adapter(vae.base.decoder, "rgb")
            _share_equal_parameters(vae.base.decoder, self.alpha_decoder)
        self.requires_grad_(False)

    @property
    def config(self) -> Any:
        """The base VAE's configuration."""
        return self.alpha_vae.base.config

    @property
    def dtype(self) -> torch.dtype:
        return self.alpha_vae.base.dtype

    @property
    def device(self) -> torch.device:
        return self.alpha_vae.base.device

    def enable_tiling(self, tile: int = 32, halo: int | None = None) -> None:
        """Decode in tiles of `tile` x `tile` latent cells; `halo` cells around each (None: as many as are exact)."""
        if tile < 1 or (halo is not None and halo < 0):
            raise ValueError(f"a tile is at least 1 latent cell wide and its halo at least 0, not {tile} and {halo}")
        self.tile, self.halo = tile, halo

    def disable_tiling(self) -> None:
        """Decode whole frames again."""
        self.tile = None

    def use_preview(self, decoder: TinyDecoder | None) -> None:
        """Let `decode` take a tiny decoder instead of the two; None takes them again.

        Raises:
            PreviewError: it was made for another latent.
        """
        base = self.alpha_vae.base
        wanted = base.config["z_dim"], spatial_stride(base)
        if decoder is not None and (decoder.z_dim, decoder.spatial_stride) != wanted:
            raise PreviewError(
                f"the preview decoder takes latents of {decoder.z_dim} channels and gives {decoder.spatial_stride} "
                f"pixels a cell; this base has {wanted[0]} and {wanted[1]}: take the file made for it"
            )
        if decoder is not None and decoder.channels == 3:
            log.warning("the preview decoder knows colour alone: its alpha is 1 everywhere")
        self.preview = None if decoder is None else decoder.to(self.device, self.dtype)

    @apply_forward_hook
    @torch.no_grad()
    def encode(self, rgb: Tensor, alpha: Tensor, background: Sequence[float] = (1.0, -1.0, 1.0)) -> Tensor:
        """RGBA clip -> normalised latent; see `AlphaVAE.encode`."""
        return self.alpha_vae.normalize(self.alpha_vae.encode(rgb, alpha, background))

    @torch.no_grad()
    def stream(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode frame by frame with memory that does not grow with the length of the clip.

        Args:
            z: raw latent (B, z, T', h, w).

        Yields:
            rgb (B, 3, t, H, W) in [-1, 1] and alpha (B, 1, t, H, W) in [0, 1]: t = 1, then 4 per latent frame.
        """
        self.alpha_vae.check_latent(z)
        _run_offload_hook(self)
        base = self.alpha_vae.base
        z = base.post_quant_conv(z)
        decoders = (base.decoder, self.alpha_decoder or base.decoder)
        rgb_chunks, grey_chunks = (decoder_chunks(base, decoder, z) for decoder in decoders)
        for _ in range(z.shape[2]):
            # One after the other: only one decoder's activations are alive at a time.
            with self._adapter("rgb"):
                rgb = next(rgb_chunks)
            with self._adapter("alpha"):
                grey = next(grey_chunks)
            yield rgb.clamp_(-1, 1), rgb_to_alpha(grey).clamp_(0, 1)

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Raw latent -> rgb (B, 3, T, H, W) in [-1, 1] and alpha (B, 1, T, H, W) in [0, 1], both clamped.

        Finished frames go to main memory in float32 at once: on the latent's device memory does not grow with the clip.
        """
        if self.preview is not None:
            _run_offload_hook(self)
            pictures = torch.cat([to_host(chunk) for chunk in self.preview.stream(self.alpha_vae.normalize(z))], dim=2)
            alpha = pictures[:, 3:] if self.preview.channels == 4 else torch.ones_like(pictures[:, :1])
            return 2 * pictures[:, :3] - 1, alpha
        if self.tile is None:
            chunks = [(to_host(rgb), to_host(alpha)) for rgb, alpha in self.stream(z)]
            return torch.cat([rgb for rgb, _ in chunks], dim=2), torch.cat([alpha for _, alpha in chunks], dim=2)
        self.alpha_vae.check_latent(z)
        _run_offload_hook(self)
        base = self.alpha_vae.base
        halo = exact_halo(base) if self.halo is None else self.halo
        with self._adapter("rgb"):
            rgb_video = decode_tiled(base, z, base.decoder, self.tile, halo)
        with self._adapter("alpha"):
            grey = decode_tiled(base, z, self.alpha_decoder or base.decoder, self.tile, halo)
        return rgb_video.clamp_(-1, 1), rgb_to_alpha(grey).clamp_(0, 1)

    def _adapter(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.merged else self.alpha_vae.adapters.use(name)


def _share_equal_parameters(source: nn.Module, target: nn.Module) -> None:
    """Let `target` use the tensors of `source` wherever both hold the same numbers."""
    for name, parameter in list(target.named_parameters()):
        original = source.get_parameter(name)
        if torch.equal(parameter, original):
            parent, _, leaf = name.rpartition(".")
            setattr(target.get_submodule(parent), leaf, original)


def _run_offload_hook(module: nn.Module) -> None:
    """What diffusers' `apply_forward_hook` does, for a generator: model offloading moves the weights in now."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(module)
