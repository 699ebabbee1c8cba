"""What alpha costs when generating: RGBA over plain RGB on the same base, in time, memory and arithmetic.

`cost` times one DiT step and one decoding, apart; `clip` times whole calls of two pipelines, prompt to pixels, on the
shipped base; `counted` adds up the floating-point operations of models too large to run here (torch's counter on the
meta device: no weights, no time), which says what a whole clip costs where arithmetic is what takes the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decoding import LiveBytes
from benchmarks.wan_models import SIZES, base_vae, in_turns, inputs, medians, parameters, ratio, transformer
from wan_alpha import AlphaWanPipeline
from wan_alpha.interop.dit_adapters import DitAdapter, LayerUpdate, merge_into
from wan_alpha.interop.dit_formats import adapter_tensors
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import locate_base
from wan_alpha.models.streaming import decode_chunks
from wan_alpha.models.tiny_decoder import TinyDecoder
from wan_alpha.pipeline.codec import RgbaCodec

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


# ----- the parts, timed ----------------------------------------------------------------------------------------------


def measure_cost(args: argparse.Namespace) -> dict[str, Any]:
    """One DiT step (plain, merged, adapters apart) and decoding (plain, both merged, both apart)."""
    size = SIZES[args.device][0 if args.device == "cpu" else -1]
    plain, merged, apart = transformer(args), transformer(args), transformer(args)
    adapter = dora(plain)
    merge_into(merged, [(adapter, 1.0)])
    tensors, _ = adapter_tensors(adapter, "diffusers", plain.state_dict())
    apart.load_lora_adapter({k.removeprefix("transformer."): v for k, v in tensors.items()}, prefix=None)
    z, t, text = inputs(args, size)
    forms = {"plain": plain, "merged": merged, "apart": apart}
    dit = in_turns({n: lambda m=m: m(z, t, text, return_dict=False) for n, m in forms.items()}, args.turns, args.device)
    counts = {f"dit_{name}": parameters(model) for name, model in forms.items()}
    del plain, merged, apart
    codecs, decoders = _decoders(args)
    latent = torch.randn(1, 16, *(size if args.device == "cuda" else (size[0], 8, 8)), device=args.device).to(z.dtype)
    runs = {name: lambda d=decode: _exhaust(d(latent)) for name, decode in decoders.items()}
    decoding = in_turns(runs, args.turns, args.device)
    both = nn.ModuleList([codecs["merged"].alpha_vae.base.decoder, codecs["merged"].alpha_decoder])
    counts |= {
        "decoder_plain": parameters(base_vae(args).decoder),
        "decoders_merged": parameters(both),
        "decoder_with_adapters": parameters(codecs["apart"].alpha_vae.base.decoder),
    }
    return {
        "latent": size,
        "latent_decoded": list(latent.shape[2:]),
        "seconds": {"dit_step": medians(dit), "decode": medians(decoding)},
        "parameters": counts,
        "decode_peak_mib": {name: _peak(run, args.device) for name, run in runs.items()},
        "ratios": {
            "dit_step_merged_over_plain": ratio(dit, "merged", "plain"),
            "dit_step_apart_over_plain": ratio(dit, "apart", "plain"),
            "decode_merged_over_plain": ratio(decoding, "merged", "plain"),
            "decode_apart_over_plain": ratio(decoding, "apart", "plain"),
        },
    }


def _decoders(args: argparse.Namespace) -> tuple[dict[str, RgbaCodec], dict[str, Callable[[Tensor], Any]]]:
    plain = base_vae(args)
    codecs = {}
    for name, merge in (("merged", True), ("apart", False)):
        alpha_vae = AlphaVAE(base_vae(args), AdapterSpec(rank=args.rank))
        for key, parameter in alpha_vae.adapter_parameters().items():
            if not key.startswith("merge."):  # fresh adapters do nothing, and equal decoders would be held once
                parameter.data.normal_(std=0.02)
        codecs[name] = RgbaCodec(alpha_vae.to(args.device, getattr(torch, args.dtype)), merge)
    return codecs, {"plain": lambda z: decode_chunks(plain, z)} | {n: c.stream for n, c in codecs.items()}


def _exhaust(chunks: Any) -> None:
    """Use up an iterator and keep nothing, as a writer of files does."""
    for _ in chunks:
        pass


@torch.no_grad()
def _peak(run: Callable[[], Any], device: str) -> float:
    """MiB of tensors alive at once while it runs, without the weights."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 2)
    with LiveBytes() as live:
        run()
    return round(live.peak / 2**20, 2)


# ----- whole clips, timed --------------------------------------------------------------------------------------------


def measure_clip(args: argparse.Namespace) -> dict[str, Any]:
    """Prompt to pixels on the shipped base: plain WanPipeline and ours, the same steps and guidance."""
    dtype = getattr(torch, args.dtype)
    plain = WanPipeline.from_pretrained(locate_base("tiny"), dtype=dtype).to(args.device)
    ours = AlphaWanPipeline.from_pretrained("tiny", "tiny", dtype=dtype).to(args.device)
    size = {"num_frames": 9, "height": 64, "width": 64}
    rows = {}
    for name, options in (("50_steps", {"num_inference_steps": 50, "guidance_scale": 5.0}),
                          ("4_steps", {"num_inference_steps": 4, "guidance_scale": 1.0})):  # fmt: skip
        for pipe in (plain, ours):
            pipe.set_progress_bar_config(disable=True)
        forms = {
            "rgb": lambda o=options: plain("a red heart", output_type="pt", **size, **o),
            "rgba": lambda o=options: ours("a red heart", **size, **o),
        }
        seconds = in_turns(forms, args.turns, args.device)
        rows[name] = {"seconds": medians(seconds), "rgba_over_rgb": ratio(seconds, "rgba", "rgb")}
    return {"base": "tiny", **size, **rows}


# ----- arithmetic, counted -------------------------------------------------------------------------------------------


def measure_counted(args: argparse.Namespace) -> dict[str, Any]:
    """Operations of DiT and decoder at 81 frames of 480x832, and of CogVideoX-5B with paired tokens."""
    args.device = "meta"
    decoder = base_vae(argparse.Namespace(**vars(args) | {"model": "14b"}))
    decode = _operations(lambda: _exhaust(decode_chunks(decoder, torch.empty(1, 16, *FULL, device="meta"))))
    tiny = TinyDecoder(16, (256, 128, 64, 64)).to("meta")
    preview = _operations(lambda: _exhaust(tiny.stream(torch.empty(1, 16, *FULL, device="meta"))))
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
