"""What `plan=true` predicts against what a step takes: peak memory of a process, at a few small sizes.

    python -m benchmarks.plan_check

Each size runs in a process of its own: transformer and adapters are built, two steps are taken with AdamW and an
average as in training, and the growth of the resident set above what Python and its libraries need is measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from benchmarks.vae_step import memory_kib
from wan_alpha.models.dit_adapters import add_dit_adapters
from wan_alpha.training.plan import StepShape, plan_step

RESULTS = Path(__file__).parent / "results"
SIZES: dict[str, tuple[dict[str, Any], StepShape]] = {
    "wide": (
        {"num_attention_heads": 8, "attention_head_dim": 96, "ffn_dim": 3072, "num_layers": 4, "text_dim": 256},
        StepShape((1, 16, 5, 24, 32), 64, 32),
    ),
    "long": (
        {"num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 1024, "num_layers": 4, "text_dim": 256},
        StepShape((2, 16, 9, 32, 32), 64, 32),
    ),
    "checkpointed": (
        {"num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 1024, "num_layers": 8, "text_dim": 256},
        StepShape((2, 16, 9, 32, 32), 64, 32, checkpointing=True),
    ),
    "lora": (
        {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048, "num_layers": 4, "text_dim": 256},
        StepShape((2, 16, 5, 32, 32), 64, 16, kind="lora"),
    ),
}


def measured_mib(architecture: dict[str, Any], shape: StepShape) -> float:
    """Growth of the resident set at its peak, over building and two steps."""
    small = WanTransformer3DModel(**(architecture | {"num_layers": 1, "ffn_dim": 64}))
    run(small, StepShape((1, 16, 1, 4, 4), 4, 2))  # loads what a first step loads
    del small
    gc.collect()
    before = memory_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
    run(WanTransformer3DModel(**architecture), shape)
    return (memory_kib("VmHWM") - before) / 1024


def run(transformer: WanTransformer3DModel, shape: StepShape) -> None:
    """Two steps as in training: AdamW over the adapters and an average of them."""
    trained = list(add_dit_adapters(transformer, shape.rank, shape.rank, shape.kind).values())  # type: ignore[arg-type]
    if shape.checkpointing:
        transformer.enable_gradient_checkpointing()
    optimiser = torch.optim.AdamW(trained)
    average = [p.detach().clone() for p in trained]
    x, timestep = torch.randn(shape.latent), torch.rand(shape.latent[0])
    text = torch.randn(shape.latent[0], shape.text_tokens, transformer.config["text_dim"])
    for _ in range(2):
        transformer(x, timestep, text, return_dict=False)[0].square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        torch._foreach_lerp_(average, [p.detach() for p in trained], 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SIZES, help="print what one size takes and stop")
    args = parser.parse_args()
    if args.only:
        print(measured_mib(*SIZES[args.only]))
        return
    rows = {}
    for name, size in SIZES.items():
        command = [sys.executable, "-m", "benchmarks.plan_check", "--only", name]
        measured = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        plan = plan_step(*size)
        parts = {part: round(bytes_ / 2**20, 1) for part, bytes_ in plan.parts.items()}
        planned = plan.total / 2**20
        ratio = planned / measured
        rows[name] = {"planned_mib": planned, "measured_mib": measured, "ratio": ratio, "parts": parts}
        print(f"{name:14s} planned {planned:7.1f} MiB  measured {measured:7.1f} MiB  ratio {ratio:.3f}  {parts}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    RESULTS.mkdir(exist_ok=True)
    report = {"commit": commit, "torch": torch.__version__, "threads": torch.get_num_threads(), "sizes": rows}
    (RESULTS / "plan_check_cpu.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
