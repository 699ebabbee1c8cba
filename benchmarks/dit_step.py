"""One training step of the DiT on a GPU: seconds, MFU, peak memory.  Random weights: nothing is downloaded.

    python -m benchmarks.dit_step --model 1.3b --device cuda     # 81 frames at 480x832, each form in turn
    python -m benchmarks.dit_step --model 14b --device cuda
    python -m benchmarks.dit_step --model 1.3b --device cuda --stored none fp8 nf4 --compile off
    python -m benchmarks.dit_step --model tiny                   # does it run? a few seconds on a CPU

Forms: `checkpointing` and `compile` on or off, the frozen base in bf16 or stored as `model.frozen.quantise` has it, in
fp8 (torchao) or nf4 (bitsandbytes): such a base is written to a temporary folder and loaded as training loads it.  DoRA
of rank 32, AdamW.  A form that runs out of memory says so in its row.
MFU counts the matrix products of a forward and a backward pass (`training.plan.step_flops`), not what checkpointing
computes again, over the peak of --peak-tflops; without it MFU is left out.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from wan_alpha.models.dit import load_transformer
from wan_alpha.models.dit_adapters import add_dit_adapters
from wan_alpha.training.plan import KNOWN, StepShape, plan_step, step_flops

RESULTS = Path(__file__).parent / "results"
TINY = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "num_layers": 2, "text_dim": 32}
SWITCHES = ("checkpointing", "compile")
LATENTS = {"tiny": (1, 16, 3, 8, 8), "1.3b": (1, 16, 21, 60, 104), "14b": (1, 16, 21, 60, 104)}
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "4090": 165.0, "5090": 209.0}  # dense bf16


def architecture(model: str) -> dict[str, Any]:
    """Arguments of the transformer."""
    return dict(TINY) if model == "tiny" else dict(KNOWN[f"wan2.1-{model}"][0])


def build(args: argparse.Namespace, form: dict[str, Any]) -> WanTransformer3DModel:
    """A transformer with random weights, and DoRA on it."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # 14B in float32 would not fit before it is cast
    try:
        with torch.device(args.device):
            dit = WanTransformer3DModel(**architecture(args.model))
    finally:
        torch.set_default_dtype(before)
    if form["stored"] != "none":
        with tempfile.TemporaryDirectory() as folder:
            dit.save_pretrained(folder)
            del dit
            dit = load_transformer(folder, torch.bfloat16, form["stored"]).to(args.device)
    dit.requires_grad_(False).train()
    add_dit_adapters(dit, args.rank, args.rank, lean=not form["checkpointing"])
    if form["checkpointing"]:
        dit.enable_gradient_checkpointing()
    if form["compile"]:
        dit.compile_repeated_blocks()
    return dit


def measure(args: argparse.Namespace, form: dict[str, Any]) -> dict[str, Any]:
    """Steps of one form; the first two warm up."""
    cuda = args.device == "cuda"
    dit = build(args, form)
    trained = [p for p in dit.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    options: dict[str, Any] = {"device": args.device, "dtype": torch.bfloat16}
    x = torch.randn(LATENTS[args.model], **options)
    text = torch.randn(1, args.text, architecture(args.model)["text_dim"], **options)
    timestep = torch.full((1,), 500.0, device=args.device)
    seconds = []
    for _ in range(args.repeats + 2):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        start = time.perf_counter()
        loss = dit(x, timestep, text, return_dict=False)[0].float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    row = {"seconds": statistics.median(seconds[2:]), "loss": loss.item()}
    if cuda:
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def forms(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is measured: all that was not switched off."""
    switches = ({"both": (False, True), "on": (True,), "off": (False,)}[getattr(args, name)] for name in SWITCHES)
    choices = itertools.product(*switches, args.stored)
    return [dict(zip((*SWITCHES, "stored"), choice, strict=True)) for choice in choices]


def report(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, each with its form."""
    shape = StepShape(LATENTS[args.model], args.text, args.rank, dtype=torch.bfloat16, gpu=args.device == "cuda")
    flops = step_flops(architecture(args.model), shape)
    rows = []
    for form in forms(args):
        row: dict[str, Any] = dict(form)
        try:
            row |= measure(args, form)
            if args.peak_tflops:
                row["mfu"] = flops / row["seconds"] / (args.peak_tflops * 1e12)
        except torch.OutOfMemoryError as error:
            row["out_of_memory"] = str(error).splitlines()[0]
        if form["stored"] == "none":
            planned = replace(shape, checkpointing=form["checkpointing"])
            row["planned_gib"] = plan_step(architecture(args.model), planned).total / 2**30
        rows.append(row)
        print(json.dumps(row))
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
    return rows


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=LATENTS, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--text", type=int, default=512, help="tokens")
    parser.add_argument("--repeats", type=int, default=3)
    for name in SWITCHES:
        parser.add_argument(f"--{name}", choices=("both", "on", "off"), default="both")
    parser.add_argument("--stored", choices=("none", "fp8", "nf4"), nargs="+", default=["none"], help="the frozen base")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16; by default that of the card, if it is known")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and args.peak_tflops is None:
        card = torch.cuda.get_device_name()
        args.peak_tflops = next((peak for name, peak in PEAK_TFLOPS.items() if name in card), None)
    return args


def main() -> None:
    args = parse()
    rows = report(args)
    if args.device == "cuda":  # a CPU's figures would say nothing
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        RESULTS.mkdir(exist_ok=True)
        content = {"settings": vars(args), "commit": commit, "machine": machine, "rows": rows}
        stored = "" if args.stored == ["none"] else "_stored"
        (RESULTS / f"dit_step_{args.model}{stored}_cuda.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
