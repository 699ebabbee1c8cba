"""TransPixeler's open model on diffusers' CogVideoX, with its released weights file (arXiv 2501.03006).

    sequence: text, RGB tokens, alpha tokens;   text sees text and RGB, RGB and alpha see everything

Both halves have the same rotary positions; alpha tokens carry a learned domain embedding, and LoRA acts on them alone.
The file, `rgba_lora.safetensors`: `transformer.transformer_blocks.N.attn1.{to_q,to_k,to_v,to_out.0}.lora_{A,B}.weight`
and `domain_emb`; the update is scaled by 1 / rank.  Neither it nor CogVideoX-5B comes with the project, and the file's
licence is non-commercial.  With `write_weights` one's own training can leave the same file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXDPMScheduler
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wan_alpha.baselines.interface import Sampling
from wan_alpha.baselines.paired_layers import TokenLayout, add_alpha_lora, attend
from wan_alpha.baselines.wan_sampler import to_rgba
from wan_alpha.data.resize import Frames
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import BaseError, SizeError

PREFIX, DOMAIN = "transformer.", "domain_emb"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
SUFFIX = ", isolated background"
PUBLISHED = Sampling(num_frames=49, height=480, width=720, steps=50, guidance=6.0)
FPS = 8.0


class DomainEmbedding(nn.Module):
    """CogVideoX's patch embedding, with a learned vector added to the alpha half of the video tokens."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__()
        self.base_layer = base
        self.vector = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, text: Tensor, video: Tensor) -> Tensor:
        x = self.base_layer(text, video)
        first = TokenLayout(text.shape[1]).alpha_from(x.shape[1])
        return torch.cat([x[:, :first], x[:, first:] + self.vector.to(x)], dim=1)


class PairedProcessor:
    """CogVideoX's joint attention in which text does not see alpha."""

    def __init__(self, layout: TokenLayout) -> None:
        self.layout = layout

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        text = self.layout.text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (f(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)
                             for f in (attn.to_q, attn.to_k, attn.to_v))  # fmt: skip
        query, key = _placed(attn.norm_q, query, text, image_rotary_emb), _placed(attn.norm_k, key, text,
                                                                                  image_rotary_emb)  # fmt: skip
        mixed = attend(query, key, value, text, self.layout.alpha_from(x.shape[1]))
        y = attn.to_out[1](attn.to_out[0](mixed))
        return y[:, text:], y[:, :text]


def _placed(norm: nn.Module | None, x: Tensor, text: int, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Queries or keys (B, heads, N, d), normed, the video's rotated to their positions."""
    x = x if norm is None else norm(x)
    if rotary is None:
        return x
    video = apply_rotary_emb(x[:, :, text:], rotary)  # type: ignore[arg-type]
    assert isinstance(video, Tensor)
    return torch.cat([x[:, :, :text], video], dim=2)


def pair_cogvideox(transformer: CogVideoXTransformer3DModel, rank: int, alpha: float = 1.0) -> dict[str, nn.Parameter]:
    """Freeze a CogVideoX transformer and let it read RGB and alpha latents one behind the other along time.

    Returns:
        What is trained, by its name in the weights file without `transformer.`.

    Raises:
        BaseError: it has learned positions (CogVideoX-2B) or patches of several frames (CogVideoX-1.5).
    """
    config = transformer.config
    if not config["use_rotary_positional_embeddings"] or config["patch_size_t"] is not None:
        raise BaseError("TransPixeler is for CogVideoX-5B: rotary positions, and patches of one latent frame")
    transformer.requires_grad_(False)
    layout, parts = TokenLayout(), transformer
    width = config["num_attention_heads"] * config["attention_head_dim"]
    parts.patch_embed = DomainEmbedding(parts.patch_embed, width).to(parts.dtype)  # type: ignore[assignment]
    names = [f"transformer_blocks.{n}.attn1.{t}" for n in range(len(transformer.transformer_blocks)) for t in TARGETS]
    added = add_alpha_lora(transformer, names, rank, alpha, layout)
    transformer.set_attn_processor(PairedProcessor(layout))  # type: ignore[arg-type]
    trained = {f"{name}.{half}.weight": getattr(layer, half).weight
               for name, layer in added.items() for half in ("lora_A", "lora_B")}  # fmt: skip
    return trained | {DOMAIN: parts.patch_embed.vector}


@torch.no_grad()
def load_weights(transformer: CogVideoXTransformer3DModel, file: str | Path) -> int:
    """Turn CogVideoX into TransPixeler; returns the rank.

    Raises:
        AdapterError: the file is missing or damaged, or does not fit.
        BaseError: see `pair_cogvideox`.
    """
    try:
        tensors = {name.removeprefix(PREFIX): t for name, t in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"TransPixeler's weights {file} cannot be read: {error}") from error
    ranks = {t.shape[0] for name, t in tensors.items() if name.endswith("lora_A.weight")}
    if DOMAIN not in tensors or len(ranks) != 1:
        raise AdapterError(
            f"{file}: expected lora_A and lora_B tensors of one rank, and {DOMAIN}; is it TransPixeler's?"
        )
    own = pair_cogvideox(transformer, rank := ranks.pop())
    if differing := sorted(own.keys() ^ tensors.keys()):
        raise AdapterError(f"{file} does not fit this CogVideoX: {len(differing)} names differ, {differing[:2]} ...")
    for name, p in own.items():
        if (name != DOMAIN and tensors[name].shape != p.shape) or tensors[name].numel() != p.numel():
            raise AdapterError(f"{file} does not fit: {name} is {tuple(tensors[name].shape)}, here {tuple(p.shape)}")
        p.copy_(tensors[name].view_as(p))
    return rank


def write_weights(trained: dict[str, nn.Parameter], file: str | Path) -> None:
    """What `pair_cogvideox` returned, as `load_weights` and TransPixeler's own code read it; atomically."""
    named = {n if n == DOMAIN else f"{PREFIX}{n}": p.detach().cpu().contiguous() for n, p in trained.items()}
    partial = Path(f"{file}.tmp")
    save_file(named, partial)
    os.replace(partial, file)


class TransPixelerPipeline(CogVideoXPipeline):
    """CogVideoX's pipeline with twice as many latent frames: RGB first, then alpha at the same positions."""

    def prepare_latents(self, *shape: Any) -> Tensor:
        """Noise of both halves, (B, 2 T', z, h, w); the last of `shape` are given latents, of both halves."""
        *shape_, given = shape
        if given is not None:
            return super().prepare_latents(*shape_, given)  # type: ignore[call-arg]
        return torch.cat([super(TransPixelerPipeline, self).prepare_latents(*shape_) for _ in range(2)], dim=1)

    def _prepare_rotary_positional_embeddings(
        self, height: int, width: int, num_frames: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        cos, sin = super()._prepare_rotary_positional_embeddings(height, width, num_frames // 2, device)
        return torch.cat([cos, cos]), torch.cat([sin, sin])


@dataclass
class TransPixelerGenerator:
    """`Generator`: TransPixeler as it was published: DPM, trailing timesteps, dynamic guidance.

    Attributes:
        pipe: with the weights in its transformer.
        sampling: how to sample.
        suffix: appended to every prompt.
    """

    pipe: TransPixelerPipeline
    sampling: Sampling = PUBLISHED
    suffix: str = SUFFIX
    fps: float = FPS

    @classmethod
    def load(
        cls, base: str | Path, weights: str | Path, sampling: Sampling = PUBLISHED,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ) -> TransPixelerGenerator:  # fmt: skip
        """CogVideoX from a folder in diffusers' layout, and the weights file.

        Raises:
            BaseError: no CogVideoX there.
            AdapterError: see `load_weights`.
            SizeError: CogVideoX does not take clips of that size.
        """
        try:
            pipe = TransPixelerPipeline.from_pretrained(base, dtype=dtype)
        except (OSError, ValueError) as error:
            raise BaseError(
                f"no CogVideoX at {str(base)!r} ({str(error).splitlines()[0]}): `hf download THUDM/CogVideoX-5b "
                "--local-dir DIR`, and give transpixeler=DIR,WEIGHTS"
            ) from error
        load_weights(pipe.transformer, weights)
        pipe.scheduler = CogVideoXDPMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
        step = pipe.vae_scale_factor_spatial * pipe.transformer.config["patch_size"]
        t = 2 * pipe.vae_scale_factor_temporal  # its VAE decodes latent frames two by two, after a single first one
        if sampling.height % step or sampling.width % step or (sampling.num_frames - 1) % t:
            raise SizeError(
                f"CogVideoX takes 1 + {t}k frames with sides that are multiples of {step}, not "
                f"{sampling.num_frames}x{sampling.height}x{sampling.width}"
            )
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe.to(device), sampling)

    @torch.no_grad()
    def generate(self, prompt: str, seed: int) -> Frames:
        """See `Generator.generate`; alpha is the greatest of its decoded channels, as in the published code."""
        s = self.sampling
        latents = self.pipe(
            f"{prompt}{self.suffix}", num_frames=s.num_frames, height=s.height, width=s.width,
            num_inference_steps=s.steps, guidance_scale=s.guidance, use_dynamic_cfg=True, output_type="latent",
            generator=torch.Generator("cpu").manual_seed(seed),
        ).frames  # fmt: skip
        rgb, grey = (self.pipe.decode_latents(half).float() for half in latents.chunk(2, dim=1))
        return np.ascontiguousarray(to_rgba(rgb, (grey.amax(1, keepdim=True) + 1) / 2))
