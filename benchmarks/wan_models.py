"""Wan transformers and VAEs with random weights, and timing in turns: what the benchmarks of generation share.

On a CPU seconds are those of the process, not of the wall: other work on the machine counts less.  All forms run in
turns, each turn beginning with another form; a ratio is taken within a turn, and its median and quartiles over turns
are reported.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from wan_alpha.models.base import load_vae, locate_base

# heads, width of a head, ffn, layers, width of text; and the VAE's base_dim
MODELS = {
    "tiny": (4, 64, 768, 8, 192, 24),  # the shipped base
    "small": (4, 64, 1024, 2, 256, 8),
    "1.3b": (12, 128, 8960, 30, 4096, 96),
    "14b": (40, 128, 13824, 40, 4096, 96),
}
# latent frames, rows, columns: 480x832 is 60x104
SIZES = {"cpu": [(3, 16, 16), (5, 20, 24), (9, 24, 32)], "cuda": [(1, 60, 104), (9, 60, 104), (21, 60, 104)]}
LENGTHS = {"cpu": [1, 3, 5, 9], "cuda": [1, 5, 9, 13, 21]}
TEXT_TOKENS = 512


def transformer(args: argparse.Namespace) -> WanTransformer3DModel:
    if args.model == "tiny":
        dit = WanTransformer3DModel.from_pretrained(locate_base("tiny"), subfolder="transformer")
        return dit.to(args.device, getattr(torch, args.dtype)).requires_grad_(False).eval()
    heads, width, ffn, layers, text, _ = MODELS[args.model]
    torch.manual_seed(0)
    with torch.device(args.device):
        dit = WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=width, ffn_dim=ffn, num_layers=layers, text_dim=text
        )
    return dit.to(getattr(torch, args.dtype)).requires_grad_(False).eval()


def inputs(args: argparse.Namespace, size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    dtype, text = getattr(torch, args.dtype), MODELS[args.model][4]
    z = torch.randn(1, 48 if args.model == "tiny" else 16, *size, device=args.device, dtype=dtype)
    return (
        z,
        torch.tensor([500], device=args.device),
        torch.randn(1, TEXT_TOKENS, text, device=args.device, dtype=dtype),
    )


def base_vae(args: argparse.Namespace) -> AutoencoderKLWan:
    """The VAE that goes with the model, of Wan2.1's form but for the shipped one."""
    if args.model == "tiny":
        return load_vae("tiny", getattr(torch, args.dtype)).to(args.device)
    torch.manual_seed(0)
    with torch.device(args.device):
        model = AutoencoderKLWan(base_dim=MODELS[args.model][5])
    model.type(getattr(torch, args.dtype))  # `to` warns for no reason
    return model.requires_grad_(False).eval()


@torch.no_grad()
def in_turns(forms: dict[str, Callable[[], Any]], turns: int, device: str) -> dict[str, list[float]]:
    """Seconds of each form in each turn; one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    names = list(forms)
    for turn in range(turns + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            spent = _seconds(forms[name], device)
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


def ratio(seconds: dict[str, list[float]], form: str, over: str) -> dict[str, float]:
    """Median and quartiles over turns of the ratio within a turn."""
    each = [a / b for a, b in zip(seconds[form], seconds[over], strict=True)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return {"median": round(middle, 4), "lower_quartile": round(low, 4), "upper_quartile": round(high, 4)}


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 5) for name, values in seconds.items()}
