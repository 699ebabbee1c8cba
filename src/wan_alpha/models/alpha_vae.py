"""AlphaVAE: one frozen Wan VAE, a feature merge block, and two decoder adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from wan_alpha.models.adapters import AdapterError, load_adapters, save_adapters
from wan_alpha.models.base import load_vae
from wan_alpha.models.lora import AdapterSwitch, add_decoder_adapters
from wan_alpha.models.merge import MergeInit, build_merge_block
from wan_alpha.models.rgba_vae import RgbaVAE
from wan_alpha.models.streaming import FeatureCache, chunks, decode_chunks, encode_features_chunk
from wan_alpha.models.whole_clip import Runner, decode_clip, encode_features, run_plain
from wan_alpha.rendering import alpha_to_rgb, hard_render, rgb_to_alpha


@dataclass(frozen=True)
class AdapterSpec:
    """The shape of everything that training adds to a base."""

    rank: int = 128
    lora_alpha: float = 1.0
    merge_init: MergeInit = "base"
    residual_blocks: int = 3


class AlphaVAE(RgbaVAE):
    """Encode and decode RGBA video in the latent space of a Wan base.

        Z = M(E(R^h), E(A)),   rgb = D_rgb(Z),   alpha = mean of the channels of D_alpha(Z)

    E is the base's frozen encoder up to its mid-block, M the feature merge block, D_rgb and D_alpha the base's frozen
    decoder with one LoRA adapter each.  Z lives in the base's raw latent space.

    Args:
        base: a Wan VAE in diffusers' form; its weights are frozen and shared, not copied.
        spec: LoRA rank and scale, start of the merge block.
        checkpointing: compute all but convolutions again in the backward pass (whole-clip passes only).
    """

    kind = "alpha_vae"

    def __init__(self, base: AutoencoderKLWan, spec: AdapterSpec | None = None, checkpointing: bool = True) -> None:
        super().__init__(base, checkpointing)
        self.spec = spec or AdapterSpec()
        self.merge = build_merge_block(base, self.spec.merge_init, self.spec.residual_blocks)
        add_decoder_adapters(base.decoder, self.spec.rank, self.spec.lora_alpha)
        self.adapters = AdapterSwitch(base.decoder)

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path = "tiny",
        adapters: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        spec: AdapterSpec | None = None,
    ) -> AlphaVAE:
        """Load a base and, if given, trained adapters.

        Args:
            base: `tiny` (shipped), `wan2.1-1.3b`, `wan2.1-14b`, `wan2.2-5b`, a hub id or a path.
            adapters: a directory of exported adapters, a run directory, `tiny` (shipped), or None for fresh ones.
            dtype: of base and adapters.
            spec: shape of fresh adapters (with `adapters=None` only).

        Raises:
            BaseError: no such base.
            AdapterError: the adapters are missing, damaged or made for another layout.
        """
        vae = load_vae(base, dtype)
        if adapters is None:
            return cls(vae, spec).to(dtype).eval()
        loaded = load_adapters(adapters, vae)
        try:
            spec = AdapterSpec(**loaded.spec)
        except TypeError as error:
            raise AdapterError(f"adapters {adapters} are damaged, or of a newer version: spec: {error}") from error
        model = cls(vae, spec).to(dtype)
        model.load_adapter_state(loaded.tensors)
        return model.eval()

    # ----- encoding ---------------------------------------------------------------------------------------------

    def encode(
        self,
        rgb: Tensor,
        alpha: Tensor,
        background: Sequence[float] | Tensor = (1.0, -1.0, 1.0),
        streaming: bool = True,
    ) -> Tensor:
        """RGBA clip -> raw latent.

        Args:
            rgb: straight colour (B, 3, T, H, W) in [-1, 1]; T = 1 + 4k, H and W multiples of the spatial stride.
            alpha: opacity (B, 1, T, H, W) in [0, 1].
            background: the colour of the hard render, (3,) or one per sample (B, 3), in [-1, 1].
            streaming: frame by frame in constant memory; False runs the whole clip at once (training).

        Returns:
            (B, z, 1 + (T-1)/4, H/s, W/s).

        Raises:
            ValueError: shapes a Wan VAE cannot take, or (with `streaming` only) values outside these ranges or in
                another precision than the weights'.
        """
        self.check_clip(rgb, alpha)
        colour = as_colour(background, rgb)
        if streaming:  # a training step must not wait for the device
            check_ranges(rgb, alpha, colour)
            self.check_precision("the clip", torch.promote_types(rgb.dtype, alpha.dtype))
        hard, grey = hard_render(rgb, alpha, colour), alpha_to_rgb(alpha)
        if not streaming:
            return self._encode_clip(hard, grey)
        return torch.cat(list(self._encode_stream(hard, grey)), dim=2)

    def _encode_clip(self, hard: Tensor, grey: Tensor) -> Tensor:
        # The encoder is frozen and its inputs need no gradient: nothing of this pass is kept.
        with torch.no_grad():
            features = encode_features(self.base, torch.cat([hard, grey]))
        rgb_features, alpha_features = features.chunk(2)
        return self.merge(rgb_features, alpha_features, self.run)

    @torch.no_grad()
    def _encode_stream(self, hard: Tensor, grey: Tensor) -> Iterator[Tensor]:
        encoder_cache, merge_cache = FeatureCache(self.base.encoder), FeatureCache(self.merge)
        both = torch.cat([hard, grey])
        for frames in chunks(both.shape[2]):
            features = encode_features_chunk(self.base, both[:, :, frames], encoder_cache)
            rgb_features, alpha_features = features.chunk(2)
            yield self.merge.stream(rgb_features, alpha_features, merge_cache)

    # ----- decoding ---------------------------------------------------------------------------------------------

    def decode(self, z: Tensor, streaming: bool = True) -> tuple[Tensor, Tensor]:
        """Raw latent (B, z, T', h, w) -> rgb (B, 3, T, H, W), about [-1, 1], and alpha (B, 1, T, H, W), about [0, 1].

        Both unclamped.  `streaming=False` decodes the whole clip at once, with gradients.
        """
        self.check_latent(z)
        if streaming:
            self.check_precision("the latent", z.dtype)
            return self._decode_stream(z, "rgb"), rgb_to_alpha(self._decode_stream(z, "alpha"))
        rgb = decode_clip(self.base, z, self.adapters.runner("rgb", self.run))
        grey = decode_clip(self.base, z, self.adapters.runner("alpha", self.run))
        return rgb, rgb_to_alpha(grey)

    @torch.no_grad()
    def _decode_stream(self, z: Tensor, adapter: str) -> Tensor:
        with self.adapters.use(adapter):
            return torch.cat(list(decode_chunks(self.base, z)), dim=2)

    def base_runner(self) -> Runner:
        return self.adapters.runner(None, run_plain)

    # ----- adapters -------------------------------------------------------------------------------------------------

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Everything that is trained, by its name in an adapter file: `merge.*`, `rgb.*`, `alpha.*`."""
        named = {f"merge.{name}": p for name, p in self.merge.named_parameters()}
        for name, p in self.base.decoder.named_parameters():
            if ".lora_" in name:
                layer, _, rest = name.partition(".lora_")
                matrix, adapter, _ = rest.split(".")
                named[f"{adapter}.{layer}.lora_{matrix}"] = p
        return named

    def save_adapters(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `adapters.safetensors` and `adapters.json`, in `dtype` if given."""
        tensors = {name: t.to(dtype or t.dtype) for name, t in self.adapter_state().items()}
        save_adapters(directory, self.base, asdict(self.spec), tensors)


def check_ranges(rgb: Tensor, alpha: Tensor, background: Tensor) -> None:
    """Colours must lie in [-1, 1], alpha in [0, 1]; NaN does not.  The device is waited for once."""
    picture = "map 8-bit values with x / 127.5 - 1"
    grey = "divide 8-bit values by 255, map a decoded grey picture with (x + 1) / 2"
    ranges = {"rgb": (rgb, -1, picture), "alpha": (alpha, 0, grey), "background": (background, -1, picture)}
    bounds = torch.stack([torch.stack(values.aminmax()).float() for values, _, _ in ranges.values()]).tolist()
    for (name, (_, lowest, advice)), (low, high) in zip(ranges.items(), bounds, strict=True):
        if not (low >= lowest and high <= 1):
            raise ValueError(
                f"{name} lies in [{low:g}, {high:g}]; expected [{lowest}, 1]: {advice}, and clamp what a decoder gave"
            )


def as_colour(background: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """A colour, or one per sample, as a tensor beside `like`."""
    try:
        return torch.as_tensor(background, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"background is {background!r}; expected three numbers in [-1, 1] or a tensor (B, 3): (1, -1, 1) is magenta"
        ) from error
