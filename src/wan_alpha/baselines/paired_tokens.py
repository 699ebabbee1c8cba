"""TransPixeler's method on a Wan base: alpha as a second half of the tokens (arXiv 2501.03006).

    Z = [E(R), E(A)] along time,   positions of both halves equal,   alpha tokens: + domain embedding, + LoRA

The base's own VAE makes two latents; the transformer sees twice as many tokens.  In Wan text does not attend to
anything, so the paper's mask (text must not see alpha) has nothing to do here.  As in the paper RGB tokens see alpha
tokens; `rgb_sees_alpha=False` makes the RGB half exactly the base's.  LoRA sits where the method's authors put it on
Wan: q, k, v, o of self-attention, q of cross-attention, the feed-forward layers.  Everything starts as the base.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wan_alpha.baselines.paired_layers import TokenLayout, add_alpha_lora, attend
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.codecs import ColourCodec
from wan_alpha.models.dit_adapters import dit_layout
from wan_alpha.models.folded_text import rotate
from wan_alpha.models.whole_clip import encode_features, latent_mean
from wan_alpha.rendering import alpha_to_rgb, hard_render

FILE, KEY = "paired_tokens.safetensors", "wan_alpha_paired_tokens"
TARGETS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "ffn.net.0.proj", "ffn.net.2")


@dataclass(frozen=True)
class PairedSpec:
    """Rank and alpha of the LoRA (the update is scaled by alpha / rank), and whether RGB tokens see alpha tokens."""

    rank: int = 128
    alpha: float = 1.0
    rgb_sees_alpha: bool = True


class PairedRope(nn.Module):
    """The base's rotary positions of the first half, for both halves."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.base_layer(x[:, :, : x.shape[2] // 2])
        return torch.cat([cos, cos], dim=1), torch.cat([sin, sin], dim=1)


class PairedPatches(nn.Module):
    """The base's patch embedding, with a learned vector added to the alpha half; zero at the start."""

    def __init__(self, base: nn.Conv3d) -> None:
        super().__init__()
        self.base_layer = base
        dtype = torch.promote_types(base.weight.dtype, torch.float32)
        self.lora_domain = nn.Parameter(torch.zeros(base.out_channels, dtype=dtype, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        half = y.shape[2] // 2
        return torch.cat([y[:, :, :half], y[:, :, half:] + self.lora_domain.to(y).view(-1, 1, 1, 1)], dim=2)


class OneWayProcessor(WanAttnProcessor):
    """Self-attention in which RGB tokens do not see alpha tokens."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        half = hidden_states.shape[1] // 2
        query = rotate(attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)), rotary_emb)
        key = rotate(attn.norm_k(attn.to_k(hidden_states)).unflatten(2, (attn.heads, -1)), rotary_emb)
        value = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        mixed = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), half, half)
        return attn.to_out[1](attn.to_out[0](mixed.type_as(hidden_states)))


def pair_tokens(transformer: WanTransformer3DModel, spec: PairedSpec) -> dict[str, nn.Parameter]:
    """Freeze a Wan transformer and let it read RGB and alpha latents one behind the other along time.

    Returns:
        What is trained, by name.

    Raises:
        AdapterError: the rank or alpha is not positive, or its patches would mix the halves.
    """
    if spec.rank < 1 or spec.alpha <= 0:
        raise AdapterError(f"rank={spec.rank}, alpha={spec.alpha}: expected a rank of at least 1 and a positive alpha")
    if transformer.config["patch_size"][0] != 1:
        raise AdapterError("paired tokens need a transformer whose patches hold one latent frame")
    transformer.requires_grad_(False)
    parts: Any = transformer
    parts.rope, parts.patch_embedding = PairedRope(parts.rope), PairedPatches(parts.patch_embedding)
    names = [f"blocks.{n}.{target}" for n in range(len(transformer.blocks)) for target in TARGETS]
    add_alpha_lora(transformer, names, spec.rank, spec.alpha, TokenLayout())
    set_one_way(transformer, spec)
    return paired_parameters(transformer)


def set_one_way(transformer: WanTransformer3DModel, spec: PairedSpec) -> None:
    """Whoever sets attention processors later must call this again."""
    if not spec.rgb_sees_alpha:
        for block in transformer.blocks:
            block.attn1.set_processor(OneWayProcessor())  # type: ignore[operator, union-attr]


def paired_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """What `pair_tokens` added, by name."""
    return {name: p for name, p in transformer.named_parameters() if ".lora_" in name}


class PairedCodec(ColourCodec):
    """RGBA video as two latents of the base's VAE, one behind the other: the hard render, and alpha in grey."""

    @torch.no_grad()
    def encode(self, batch: dict[str, Any]) -> Tensor:
        halves = hard_render(batch["rgb"], batch["alpha"], batch["background"]), alpha_to_rgb(batch["alpha"])
        z = torch.cat([latent_mean(self.vae, encode_features(self.vae, half)) for half in halves], dim=2)
        return (z - self.latents_mean) / self.latents_std

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}-paired"

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha is the greatest of its three decoded channels, as in TransPixeler's release."""
        rgb, grey = (super(PairedCodec, self).decode(half)[0] for half in z.chunk(2, dim=2))
        return rgb, (grey.amax(1, keepdim=True) + 1) / 2

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        z, t, h, w = super().latent_shape(num_frames, height, width)
        return z, 2 * t, h, w


# ----- files ------------------------------------------------------------------------------------------------------


def save_paired(
    transformer: WanTransformer3DModel, spec: PairedSpec, directory: str | Path, dtype: torch.dtype | None = None
) -> Path:
    """Write `paired_tokens.safetensors` atomically, in `dtype` if given; returns its path."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to(dtype or p.dtype).cpu().contiguous()
               for name, p in paired_parameters(transformer).items()}  # fmt: skip
    about = {"version": 1, "spec": asdict(spec), "layout": dit_layout(transformer)}
    partial = directory / f"{FILE}.tmp"
    save_file(tensors, partial, metadata={"format": "pt", KEY: json.dumps(about)})
    os.replace(partial, directory / FILE)
    return directory / FILE


def locate_paired(path: str | Path) -> Path:
    """The file: itself, in a directory, or in `adapters/` of a run."""
    for candidate in (Path(path), Path(path) / FILE, Path(path) / "adapters" / FILE):
        if candidate.is_file():
            return candidate
    raise AdapterError(f"no {FILE} in {path} or {Path(path) / 'adapters'}: give a run with model.adapter.kind=paired")


@torch.no_grad()
def load_paired(transformer: WanTransformer3DModel, path: str | Path) -> PairedSpec:
    """Turn a base into a paired one with trained weights.

    Raises:
        AdapterError: the file is missing or damaged, or was made for another base.
    """
    file = locate_paired(path)
    try:
        with safe_open(file, framework="pt") as handle:
            about = json.loads((handle.metadata() or {})[KEY])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        spec = PairedSpec(**about["spec"])
    except KeyError:
        raise AdapterError(f"{file} says nothing of paired tokens in its header: give a file of this project") from None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise AdapterError(f"{file} is damaged: {error}") from error
    check_layout(file, about["layout"], dit_layout(transformer))
    own = pair_tokens(transformer, spec)
    check_names(file, own, tensors)
    for name, p in own.items():
        p.copy_(tensors[name])
    return spec


def check_layout(file: Path, made_for: dict[str, Any], have: dict[str, Any]) -> None:
    """Raise AdapterError if a file was made for a transformer of another shape."""
    differing = [f"{k}: file {made_for.get(k)}, base {have[k]}" for k in have if made_for.get(k) != have[k]]
    if differing:
        raise AdapterError(f"{file} was made for another base: {'; '.join(differing)}")


def check_names(file: Path, own: dict[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    """Raise AdapterError unless names and shapes are the same."""
    differing: Sequence[str] = sorted(own.keys() ^ tensors.keys()) or [
        n for n, p in own.items() if tensors[n].shape != p.shape
    ]
    if differing:
        raise AdapterError(f"{file} does not fit: {len(differing)} tensors differ, {', '.join(differing[:2])} ...")
