"""What alpha costs when generating, and against the paired-token way.

    python -m benchmarks.generation cost                                 # RGBA over plain RGB on the same base
    python -m benchmarks.generation paired                               # twice the tokens, three sizes, growing length
    python -m benchmarks.generation cost --model 14b --device cuda --dtype bfloat16
    python -m benchmarks.generation paired --model 14b --device cuda --dtype bfloat16
    python -m benchmarks.generation published --device cuda --dtype bfloat16     # the paper's comparison

Random weights: nothing here depends on what a model has learnt.  On a CPU seconds are those of the process, not of the
wall: other work on the machine counts less.  All forms run in turns; a ratio is the median over turns of the ratio
within a turn.

`paired` puts the tokens of an alpha latent behind those of the RGB latent, with the same rotary positions, through the
same transformer (TransPixeler's way, arXiv 2501.03006); its LoRA on half of the tokens and its attention mask are left
out, which favours it.  `published` compares a merged Wan 14B (81 frames, 480x832, 4 steps, no guidance) with
CogVideoX-5B and paired tokens (49 frames, 480x720, 50 steps with guidance), DiT only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, CogVideoXTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from wan_alpha.interop.dit_adapters import DitAdapter, LayerUpdate, merge_into
from wan_alpha.interop.dit_formats import adapter_tensors
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.streaming import decode_chunks
from wan_alpha.pipeline.codec import RgbaCodec

RESULTS = Path(__file__).parent / "results"
# heads, width of a head, ffn, layers, width of text; and the VAE's base_dim
MODELS = {
    "small": (4, 64, 1024, 2, 256, 8),
    "1.3b": (12, 128, 8960, 30, 4096, 96),
    "14b": (40, 128, 13824, 40, 4096, 96),
}
# latent frames, rows, columns: 480x832 is 60x104
SIZES = {"cpu": [(3, 16, 16), (5, 20, 24), (9, 24, 32)], "cuda": [(1, 60, 104), (9, 60, 104), (21, 60, 104)]}
LENGTHS = {"cpu": [1, 3, 5, 9], "cuda": [1, 5, 9, 13, 21]}
TEXT_TOKENS = 512
TARGETS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v",
           "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2")  # fmt: skip


class TwicePositions(nn.Module):
    """Rotary positions of two halves that are the same."""

    def __init__(self, rope: nn.Module) -> None:
        super().__init__()
        self.rope = rope

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.rope(z[:, :, : z.shape[2] // 2])
        return torch.cat([cos, cos], dim=1), torch.cat([sin, sin], dim=1)


class PairedTokens(nn.Module):
    """A Wan transformer over RGB and alpha tokens at once: two halves of the sequence with the same positions."""

    def __init__(self, dit: WanTransformer3DModel) -> None:
        super().__init__()
        self.dit, self.rope, self.twice = dit, dit.rope, TwicePositions(dit.rope)

    def forward(self, z: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """z (B, z, T', h, w) of RGB; alpha's latent has the same size."""
        self.dit.rope = self.twice
        try:
            return self.dit(torch.cat([z, z], dim=2), timestep, context, return_dict=False)[0]
        finally:
            self.dit.rope = self.rope


def transformer(args: argparse.Namespace) -> WanTransformer3DModel:
    heads, width, ffn, layers, text, _ = MODELS[args.model]
    torch.manual_seed(0)
    with torch.device(args.device):
        dit = WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=width, ffn_dim=ffn, num_layers=layers, text_dim=text
        )
    return dit.to(getattr(torch, args.dtype)).requires_grad_(False).eval()


def inputs(args: argparse.Namespace, size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    dtype, text = getattr(torch, args.dtype), MODELS[args.model][4]
    z = torch.randn(1, 16, *size, device=args.device, dtype=dtype)
    return (
        z,
        torch.tensor([500], device=args.device),
        torch.randn(1, TEXT_TOKENS, text, device=args.device, dtype=dtype),
    )


def dora(dit: WanTransformer3DModel, rank: int = 32) -> DitAdapter:
    """A random DoRA on every layer that the paper adapts."""
    layers = {}
    for name, module in dit.named_modules():
        if name.endswith(TARGETS):
            a = torch.randn(rank, module.in_features, device=module.weight.device) / module.in_features**0.5
            b = torch.randn(module.out_features, rank, device=module.weight.device) * 0.01
            layers[name] = LayerUpdate(a, b, module.weight.float().norm(dim=1))
    return DitAdapter(layers, 3 * len(layers))


@torch.no_grad()
def in_turns(forms: dict[str, Callable[[], Any]], turns: int, device: str) -> dict[str, list[float]]:
    """Seconds of each form in each turn; one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(turns + 1):
        for name, run in forms.items():
            spent = _seconds(run, device)
            if turn:
                seconds[name].append(spent)
    return seconds


def _seconds(run: Callable[[], Any], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def ratio(seconds: dict[str, list[float]], form: str, over: str) -> float:
    return round(statistics.median(a / b for a, b in zip(seconds[form], seconds[over], strict=True)), 4)


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 5) for name, values in seconds.items()}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())


# ----- RGBA over plain RGB on the same base --------------------------------------------------------------------------


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
    decoding, decoder_counts = _decoding(args, size if args.device == "cuda" else (size[0], 8, 8))
    step, decode = medians(dit), medians(decoding)
    # On a CPU the decoder runs on a smaller latent, so a whole clip cannot be added up from the two.
    clip = (
        None
        if args.device == "cpu"
        else {
            f"{steps}_steps": round(
                (steps * step["merged"] + decode["merged"]) / (steps * step["plain"] + decode["plain"]), 4
            )
            for steps in (4, 50)
        }
    )
    return {
        "latent": size,
        "seconds": {"dit_step": step, "decode": decode},
        "parameters": counts | decoder_counts,
        "ratios": {
            "dit_step_merged_over_plain": ratio(dit, "merged", "plain"),
            "dit_step_apart_over_plain": ratio(dit, "apart", "plain"),
            "decode_merged_over_plain": ratio(decoding, "merged", "plain"),
            "decode_apart_over_plain": ratio(decoding, "apart", "plain"),
            "whole_clip_merged_over_plain": clip,
        },
    }


def _decoding(args: argparse.Namespace, size: tuple[int, int, int]) -> tuple[dict[str, list[float]], dict[str, int]]:
    def vae() -> AutoencoderKLWan:
        torch.manual_seed(0)
        model = AutoencoderKLWan(base_dim=MODELS[args.model][5])
        return model.to(args.device, getattr(torch, args.dtype)).requires_grad_(False).eval()

    plain = vae()
    codecs = {}
    for name, merge in (("merged", True), ("apart", False)):
        alpha_vae = AlphaVAE(vae(), AdapterSpec(rank=args.rank))
        for key, parameter in alpha_vae.adapter_parameters().items():
            if not key.startswith("merge."):  # fresh adapters do nothing, and equal decoders would be held once
                parameter.data.normal_(std=0.02)
        codecs[name] = RgbaCodec(alpha_vae.to(args.device, getattr(torch, args.dtype)), merge)
    z = torch.randn(1, 16, *size, device=args.device, dtype=getattr(torch, args.dtype))
    forms: dict[str, Callable[[], Any]] = {"plain": lambda: list(decode_chunks(plain, z))}
    forms |= {name: lambda c=codec: list(c.stream(z)) for name, codec in codecs.items()}
    counts = {"decoder_plain": parameters(plain.decoder)}
    both = nn.ModuleList([codecs["merged"].alpha_vae.base.decoder, codecs["merged"].alpha_decoder])
    counts["decoders_merged"] = parameters(both)
    counts["decoder_with_adapters"] = parameters(codecs["apart"].alpha_vae.base.decoder)
    return in_turns(forms, args.turns, args.device), counts


# ----- against paired tokens -----------------------------------------------------------------------------------------


def measure_paired(args: argparse.Namespace) -> dict[str, Any]:
    """One DiT step with paired tokens over one with ours: at three sizes, and growing with the number of frames."""
    dit = transformer(args)
    paired = PairedTokens(dit)

    def row(size: tuple[int, int, int]) -> dict[str, Any]:
        z, t, text = inputs(args, size)
        forms = {"ours": lambda: dit(z, t, text, return_dict=False), "paired": lambda: paired(z, t, text)}
        seconds = in_turns(forms, args.turns, args.device)
        tokens = size[0] * size[1] * size[2] // 4
        return {"latent": size, "tokens": tokens, **medians(seconds), "ratio": ratio(seconds, "paired", "ours")}

    middle = SIZES[args.device][1]
    return {
        "sizes": [row(size) for size in SIZES[args.device]],
        "frames": [row((length, *middle[1:])) for length in LENGTHS[args.device]],
    }


def measure_published(args: argparse.Namespace) -> dict[str, Any]:
    """The paper's comparison by measurement of one step of each DiT, times the number of steps."""
    args.model = "14b"
    models = {"ours": transformer(args)}
    z, t, text = inputs(args, (21, 60, 104))
    seconds = in_turns({"ours": lambda: models["ours"](z, t, text, return_dict=False)}, args.turns, args.device)
    models.clear()  # both at once do not fit every card
    dtype = getattr(torch, args.dtype)
    with torch.device(args.device):
        cog = CogVideoXTransformer3DModel(
            num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True, time_embed_dim=512
        )
    cog = cog.to(dtype).requires_grad_(False).eval()
    frames, rows, columns = 13, 60, 90
    video = torch.randn(2, 2 * frames, 16, rows, columns, device=args.device, dtype=dtype)  # 2: guidance
    length = frames * rows * columns // 4
    half = tuple(torch.randn(length, 64, device=args.device) for _ in range(2))
    rotary = tuple(torch.cat([part, part]) for part in half)
    words = torch.randn(2, 226, 4096, device=args.device, dtype=dtype)
    steps = torch.tensor([500, 500], device=args.device)
    forms = {"paired": lambda: cog(video, words, steps, image_rotary_emb=rotary, return_dict=False)}
    seconds |= in_turns(forms, args.turns, args.device)
    per_step = medians(seconds)
    total = {"ours": 4 * per_step["ours"], "paired": 50 * per_step["paired"]}
    return {"seconds_per_step": per_step, "seconds": total, "ratio": round(total["paired"] / total["ours"], 2),
            "ratio_per_frame": round(total["paired"] / 49 / (total["ours"] / 81), 2)}  # fmt: skip


MEASURES = {"cost": measure_cost, "paired": measure_paired, "published": measure_published}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rank", type=int, default=16, help="of the decoder adapters (paper: 128)")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else "1 CPU core"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "measure": args.measure, "model": args.model, "dtype": args.dtype, "machine": machine, "turns": args.turns,
        "torch": torch.__version__, "commit": commit.stdout.strip(), **MEASURES[args.measure](args),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    name = f"generation_{args.measure}_{args.model}_{args.dtype}_{args.device}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
