"""Seconds that `plan=true` predicts against those of real steps, on this processor.

    python -m benchmarks.plan_time

The plan divides the FLOPs of a step by a share (MFU) of a peak.  Here the peak is measured, with square matrix products
of float32 on one thread, and so is each step: what is reported is the share that each size reaches, and how far off the
time would be if the share of the first size had been assumed for all.  Times are those that the processor spent on this
process, so that other work on the machine disturbs them less.  Results: benchmarks/results/plan_time_cpu.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from benchmarks.plan_check import SIZES
from wan_alpha.models.dit_adapters import add_dit_adapters
from wan_alpha.training.plan import StepShape, step_flops

RESULTS = Path(__file__).parent / "results"
SIDE, REPEATS = 1024, 5


def peak_gflops() -> float:
    """10^9 FLOPs per second of a product of two matrices of SIDE x SIDE."""
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    times = []
    for _ in range(3 + REPEATS):
        started = time.process_time()
        for _ in range(5):
            a @ b
        times.append((time.process_time() - started) / 5)
    return 2 * SIDE**3 / statistics.median(times[3:]) / 1e9


def step_seconds(architecture: dict, shape: StepShape) -> float:
    """Of a forward and a backward pass; the first is not counted."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(**architecture)
    lean = not shape.checkpointing
    add_dit_adapters(transformer, shape.rank, shape.rank, shape.kind, lean)  # type: ignore[arg-type]
    if shape.checkpointing:
        transformer.enable_gradient_checkpointing()
    x, timestep = torch.randn(shape.latent), torch.rand(shape.latent[0])
    text = torch.randn(shape.latent[0], shape.text_tokens, architecture["text_dim"])
    times = []
    for _ in range(1 + REPEATS):
        started = time.process_time()
        transformer(x, timestep, text, return_dict=False)[0].square().mean().backward()
        times.append(time.process_time() - started)
        transformer.zero_grad()
    return statistics.median(times[1:])


def main() -> None:
    torch.set_num_threads(1)
    peak = peak_gflops()
    rows: dict[str, dict[str, float]] = {}
    for name, (architecture, shape) in SIZES.items():
        gflop = step_flops(architecture, shape) / 1e9
        seconds = step_seconds(architecture, shape)
        rows[name] = {"gflop": round(gflop, 2), "seconds": round(seconds, 3), "mfu": round(gflop / seconds / peak, 3)}
        share = next(iter(rows.values()))["mfu"]
        rows[name]["predicted_over_measured"] = round(gflop / (share * peak) / seconds, 3)
        print(name, rows[name], flush=True)
    report = {"peak_gflops": round(peak, 1), "torch": torch.__version__, "processor": platform.machine(), "threads": 1}
    (RESULTS / "plan_time_cpu.json").write_text(json.dumps(report | {"sizes": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
