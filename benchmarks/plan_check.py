"""What `plan=true` predicts against what a step takes: peak memory of a process, at a few small sizes.

    python -m benchmarks.plan_check [SIZE ...]

Sizes are measured one by one and their rows kept in benchmarks/results/plan_check_cpu.json.  Each runs in a process of
its own: transformer and adapters are built, and two steps are taken with AdamW and an average as in training.  Two
figures: `tensors`, the bytes of all tensors alive at the fullest moment (weights, state, and what the step makes), and
`resident`, the growth of the process above what Python and its libraries need, which also holds the processor library's
own buffers and what the allocator does not give back.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from benchmarks.vae_step import memory_kib
from wan_alpha.models.dit_adapters import add_dit_adapters
from wan_alpha.training.memory import LiveBytes, bytes_of
from wan_alpha.training.plan import StepShape, plan_step

RESULTS = Path(__file__).parent / "results"
SIZES: dict[str, tuple[dict[str, Any], StepShape]] = {
    "wide": (
        {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048, "num_layers": 4, "text_dim": 256},
        StepShape((1, 16, 3, 24, 32), 64, 32),
    ),
    "long": (
        {"num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 1024, "num_layers": 4, "text_dim": 256},
        StepShape((2, 16, 5, 32, 32), 64, 32),
    ),
    "checkpointed": (
        {"num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 1024, "num_layers": 8, "text_dim": 256},
        StepShape((2, 16, 5, 32, 32), 64, 32, checkpointing=True),
    ),
    "lora": (
        {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048, "num_layers": 4, "text_dim": 256},
        StepShape((2, 16, 3, 32, 32), 64, 16, kind="lora"),
    ),
}


def measured_mib(architecture: dict[str, Any], shape: StepShape) -> tuple[float, float]:
    """(tensors, resident) at their peaks, over building and two steps."""
    small = WanTransformer3DModel(**(architecture | {"num_layers": 1, "ffn_dim": 64}))
    run(small, StepShape((1, 16, 1, 4, 4), 4, 2))  # loads what a first step loads
    del small
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the first step left free would be used again, and not counted
    before = memory_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
    run(WanTransformer3DModel(**architecture), shape)
    resident = (memory_kib("VmHWM") - before) / 1024
    gc.collect()
    dit = WanTransformer3DModel(**architecture)
    with LiveBytes() as live:
        run(dit, shape)
    return (live.peak + bytes_of(dit, trained=False)) / 2**20, resident


def run(transformer: WanTransformer3DModel, shape: StepShape) -> None:
    """Two steps as in training: AdamW over the adapters and an average of them."""
    lean = not shape.checkpointing
    trained = list(
        add_dit_adapters(transformer, shape.rank, shape.rank, shape.kind, lean).values()  # type: ignore[arg-type]
    )
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


def row(name: str) -> dict[str, Any]:
    """Plan and measurement of one size, the latter in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.plan_check", "--measure", name]
    # Large blocks straight from the system, and back to it: glibc would keep more of them the longer it runs.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    tensors, resident = float(said[-2]), float(said[-1])
    plan = plan_step(*SIZES[name])
    parts = {part: round(size / 2**20, 1) for part, size in plan.parts.items()}
    planned = plan.total / 2**20
    print(f"{name:14s} planned {planned:.1f} MiB, tensors {tensors:.1f}, resident {resident:.1f}  {parts}", flush=True)
    return {
        "planned_mib": round(planned, 1), "tensors_mib": round(tensors, 1), "resident_mib": round(resident, 1),
        "over_tensors": round(planned / tensors, 3), "over_resident": round(planned / resident, 3), "parts": parts,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=list(SIZES), metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("--measure", choices=SIZES, help="print what one size takes and stop")
    args = parser.parse_args()
    if args.measure:
        print(*measured_mib(*SIZES[args.measure]))
        return
    file = RESULTS / "plan_check_cpu.json"
    for name in args.sizes:
        made = row(name)
        report = json.loads(file.read_text()) if file.exists() else {"sizes": {}}
        report |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        report["sizes"][name] = made
        file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
