"""What alpha costs when generating: RGBA over plain RGB on the same base, in time, memory and arithmetic.

`cost` runs one DiT step, one decoding and whole clips, from text embeddings to pixels, on one base: plain, with RGBA
adapters merged, and (steps and decoding) with the adapters apart.  On a CPU memory counts the tensors alive between
operations, finished frames included.  `counted` adds up the floating-point operations of models too large to run here
(torch's counter on the meta device: no weights, no time), which says what a whole clip costs where arithmetic is what
takes the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel, UniPCMultistepScheduler
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.wan_models import base_vae, in_turns, inputs, medians, ratio, transformer
from wan_alpha import AlphaWanPipeline
from wan_alpha.interop.dit_adapters import DitAdapter, LayerUpdate, merge_into
from wan_alpha.interop.dit_formats import adapter_tensors
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.streaming import decode_chunks
from wan_alpha.models.tiny_decoder import TinyDecoder
from wan_alpha.pipeline.codec import RgbaCodec
from wan_alpha.training.memory import LiveBytes

FULL = (21, 60, 104)  # 81 frames of 480x832
TARGETS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v",
           "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2")  # fmt: skip


def dora(dit: WanTransformer3DModel, rank: int = 32) -> DitAdapter:
    """A random DoRA on every layer that the paper adapts."""
    layers = {}
    for name, module in dit.named_modules():
        if name.endswith(TARGETS):
            a = torch.randn(rank, module.in_features, device=module.weight.device) / module.in_features**0.5
            b = torch.randn(module.out_features, rank, device=module.weight.device) * 0.01
            layers[name] = LayerUpdate(a, b, module.weight.float().norm(dim=1))
    return DitAdapter(layers, 3 * len(layers))


# ----- time and memory, in one run --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """One way to run a base: `vae` is the plain one, or holds both decoders."""

    dit: WanTransformer3DModel
    vae: AutoencoderKLWan | RgbaCodec

    def decode(self, z: Tensor) -> None:
        """Use up the frames and keep nothing, as a writer of files does."""
        for _ in self.vae.stream(z) if isinstance(self.vae, RgbaCodec) else decode_chunks(self.vae, z):
            pass

    def pipeline(self) -> WanPipeline:
        """Prompt embeddings to pixels."""
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        kind = AlphaWanPipeline if isinstance(self.vae, RgbaCodec) else WanPipeline
        pipe = kind(None, None, self.vae, scheduler, self.dit)  # type: ignore[arg-type]
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def weights(self) -> int:
        """Bytes, what is held twice counted once."""
        tensors = {id(p): p for part in (self.dit, self.vae) for p in part.parameters()}.values()
        return sum(p.numel() * p.element_size() for p in tensors)


def measure_cost(args: argparse.Namespace) -> dict[str, Any]:
    """A DiT step, decoding and whole clips: plain RGB, RGBA merged, and RGBA with the adapters apart."""
    models = {"rgb": Model(transformer(args), base_vae(args))}
    adapter = dora(models["rgb"].dit)
    models["rgba"] = Model(merged(args, adapter), codec(args, merge=True))
    models["rgba_apart"] = Model(apart(args, adapter), codec(args, merge=False))
    size = {"cpu": (3, 8, 8), "cuda": FULL}[args.device]
    z, t, text = inputs(args, size)
    latent = torch.randn_like(z)
    runs: dict[str, dict[str, Callable[[], Any]]] = {
        "dit_step": {n: lambda m=m: m.dit(z, t, text, return_dict=False) for n, m in models.items()},
        "decode": {n: lambda m=m: m.decode(latent) for n, m in models.items()},
    }
    pipes = {name: models[name].pipeline() for name in ("rgb", "rgba")}
    for name, options in (("clip_50_steps", {"num_inference_steps": 50, "guidance_scale": 5.0}),
                          ("clip_4_steps", {"num_inference_steps": 4, "guidance_scale": 1.0})):  # fmt: skip
        runs[name] = {n: clip(pipe, text, size, options) for n, pipe in pipes.items()}
    result: dict[str, Any] = {"latent": size, "weights_mib": {n: _mib(m.weights) for n, m in models.items()}}
    for part, forms in runs.items():
        seconds = in_turns(forms, args.turns, args.device)
        peaks = {name: _peak(run, args.device) for name, run in forms.items()}
        result[part] = {
            "seconds": medians(seconds),
            "peak_mib": {name: _mib(peak) for name, peak in peaks.items()},
            "over_rgb": {
                name: {
                    "time": ratio(seconds, name, "rgb"),
                    "memory": round(peaks[name] / peaks["rgb"], 4),
                    "memory_with_weights": round(
                        (peaks[name] + models[name].weights) / (peaks["rgb"] + models["rgb"].weights), 4
                    ),
                }
                for name in forms if name != "rgb"
            },
        }  # fmt: skip
    return result


def merged(args: argparse.Namespace, adapter: DitAdapter) -> WanTransformer3DModel:
    """With the DoRA folded in."""
    dit = transformer(args)
    merge_into(dit, [(adapter, 1.0)])
    return dit


def apart(args: argparse.Namespace, adapter: DitAdapter) -> WanTransformer3DModel:
    """With the DoRA as diffusers runs it beside the weights."""
    dit = transformer(args)
    tensors, _ = adapter_tensors(adapter, "diffusers", dit.state_dict())
    dit.load_lora_adapter({k.removeprefix("transformer."): v for k, v in tensors.items()}, prefix=None)
    return dit


def codec(args: argparse.Namespace, merge: bool) -> RgbaCodec:
    """Both decoders on the base, with adapters that do something: equal decoders would be held once."""
    alpha_vae = AlphaVAE(base_vae(args), AdapterSpec(rank=args.rank))
    for key, parameter in alpha_vae.adapter_parameters().items():
        if not key.startswith("merge."):
            parameter.data.normal_(std=0.02)
    return RgbaCodec(alpha_vae.to(args.device, getattr(torch, args.dtype)), merge)


def clip(pipe: WanPipeline, text: Tensor, size: tuple[int, int, int], options: dict[str, Any]) -> Callable[[], Any]:
    """A whole call, with the text encoded before: that part is the same for all."""
    cell = pipe.vae_scale_factor_spatial
    more = {} if isinstance(pipe, AlphaWanPipeline) else {"output_type": "pt"}
    return lambda: pipe(
        prompt_embeds=text, negative_prompt_embeds=text, num_frames=4 * size[0] - 3, height=size[1] * cell,
        width=size[2] * cell, **options, **more,
    )  # fmt: skip


@torch.no_grad()
def _peak(run: Callable[[], Any], device: str) -> int:
    """Bytes of tensors alive at once while it runs, without the weights; on a GPU those on the GPU."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        run()
    return live.peak


def _mib(size: int) -> float:
    return round(size / 2**20, 2)


# ----- arithmetic, counted -------------------------------------------------------------------------------------------


def measure_counted(args: argparse.Namespace) -> dict[str, Any]:
    """Operations of DiT and decoder at 81 frames of 480x832, and of CogVideoX-5B with paired tokens."""
    args.device = "meta"
    decoder = base_vae(argparse.Namespace(**vars(args) | {"model": "14b"}))
    decode = _operations(lambda: list(decode_chunks(decoder, torch.empty(1, 16, *FULL, device="meta"))))
    tiny = TinyDecoder(16, (256, 128, 64, 64)).to("meta")
    preview = _operations(lambda: list(tiny.stream(torch.empty(1, 16, *FULL, device="meta"))))
    rows: dict[str, Any] = {"decode_rgb": decode, "decode_rgba": 2 * decode, "decode_preview": preview}
    for args.model in ("1.3b", "14b"):
        dit = transformer(args)
        z, t, text = (x.to("meta") for x in inputs(args, FULL))
        step = _operations(lambda: dit(z, t, text, return_dict=False))  # noqa: B023
        clips = {"50_steps_with_guidance": 100, "50_steps": 50, "4_steps": 4}
        ratios = {name: round((n * step + 2 * decode) / (n * step + decode), 4) for name, n in clips.items()}
        rows[args.model] = {"dit_step": step, "whole_clip_rgba_over_rgb": ratios}
    cog, (video, words, steps, rotary) = cogvideox("meta", torch.float32)
    rows["cogvideox_5b_paired_step_with_guidance"] = paired = _operations(
        lambda: cog(video, words, steps, image_rotary_emb=rotary, return_dict=False)
    )
    ours, theirs = 4 * rows["14b"]["dit_step"], 50 * paired
    rows["published_comparison"] = {"ours_14b_4_steps": ours, "paired_50_steps": theirs,
                                    "ratio": round(theirs / ours, 2),
                                    "ratio_per_frame": round(theirs / 49 / (ours / 81), 2)}  # fmt: skip
    return {"unit": "TFLOP", "latent": FULL, **rows}


@torch.no_grad()
def _operations(run: Callable[[], Any]) -> float:
    """10^12 floating-point operations: multiplications and additions of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        run()
    return round(counter.get_total_flops() / 1e12, 2)


def cogvideox(device: str, dtype: torch.dtype) -> tuple[CogVideoXTransformer3DModel, tuple[Any, ...]]:
    """CogVideoX-5B, and inputs with paired tokens: 49 frames of 480x720 twice, with guidance."""
    with torch.device(device):
        cog = CogVideoXTransformer3DModel(
            num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True, time_embed_dim=512
        )
    cog = cog.to(dtype).requires_grad_(False).eval()
    frames, rows, columns = 13, 60, 90
    video = torch.randn(2, 2 * frames, 16, rows, columns, device=device, dtype=dtype)  # 2: guidance
    length = frames * rows * columns // 4
    half = tuple(torch.randn(length, 64, device=device) for _ in range(2))
    rotary = tuple(torch.cat([part, part]) for part in half)
    words = torch.randn(2, 226, 4096, device=device, dtype=dtype)
    steps = torch.tensor([500, 500], device=device)
    return cog, (video, words, steps, rotary)
