"""What alpha costs when generating, and against the paired-token way.

    python -m benchmarks.generation cost --model tiny                    # RGBA over plain RGB: step, decoding, clips
    python -m benchmarks.generation counted                              # operations of the full-size models
    python -m benchmarks.generation paired                               # twice the tokens, three sizes, growing length
    python -m benchmarks.generation cost --model 14b --device cuda --dtype bfloat16
    python -m benchmarks.generation paired --model 14b --device cuda --dtype bfloat16
    python -m benchmarks.generation published --device cuda --dtype bfloat16     # the paper's comparison

Weights are random, or the shipped base (`tiny`): nothing here depends on what a model has learnt.  How time is taken
says `benchmarks/wan_models.py`.

`paired` puts the tokens of an alpha latent behind those of the RGB latent, with the same rotary positions, through the
same transformer (TransPixeler's way, arXiv 2501.03006); its LoRA on half of the tokens and its attention mask are left
out, which favours it.  `published` compares a merged Wan 14B (81 frames, 480x832, 4 steps, no guidance) with
CogVideoX-5B and paired tokens (49 frames, 480x720, 50 steps with guidance), DiT only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from benchmarks.alpha_cost import FULL, cogvideox, measure_cost, measure_counted
from benchmarks.wan_models import LENGTHS, MODELS, SIZES, in_turns, inputs, medians, ratio, transformer

RESULTS = Path(__file__).parent / "results"


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
    models = {"ours": transformer(args)}
    z, t, text = inputs(args, FULL)
    seconds = in_turns({"ours": lambda: models["ours"](z, t, text, return_dict=False)}, args.turns, args.device)
    models.clear()  # both at once do not fit every card
    cog, (video, words, steps, rotary) = cogvideox(args.device, getattr(torch, args.dtype))
    forms = {"paired": lambda: cog(video, words, steps, image_rotary_emb=rotary, return_dict=False)}
    seconds |= in_turns(forms, args.turns, args.device)
    per_step = medians(seconds)
    total = {"ours": 4 * per_step["ours"], "paired": 50 * per_step["paired"]}
    return {"seconds_per_step": per_step, "seconds": total, "ratio": round(total["paired"] / total["ours"], 2),
            "ratio_per_frame": round(total["paired"] / 49 / (total["ours"] / 81), 2)}  # fmt: skip


MEASURES = {"cost": measure_cost, "counted": measure_counted, "paired": measure_paired,
            "published": measure_published}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rank", type=int, default=16, help="of the decoder adapters (paper: 128)")
    parser.add_argument("--turns", type=int, default=7, help="at least 2")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    if args.measure == "published":
        args.model = "14b"
    machine = torch.cuda.get_device_name() if args.device == "cuda" else "1 CPU core"
    if args.measure == "counted":
        args.device, machine, args.turns = "meta", "none: counted, not run", 0
    model = "full" if args.measure == "counted" else args.model
    name = f"generation_{args.measure}_{model}_{args.dtype}_{args.device}.json"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "measure": args.measure, "model": model, "dtype": args.dtype, "machine": machine, "turns": args.turns,
        "torch": torch.__version__, "commit": commit.stdout.strip(), **MEASURES[args.measure](args),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
