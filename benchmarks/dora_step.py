"""What DoRA costs over LoRA: one training step of a Wan transformer, time and memory.

    python -m benchmarks.dora_step                                       # one block of 2 cores' size
    python -m benchmarks.dora_step --model 1.3b --layers 2 --device cuda # blocks of the real sizes

Four forms on the same random weights and the same input, in turns in one process: peft's LoRA, this project's DoRA,
peft's DoRA, and no adapters at all (frozen weights, gradient to the input only).  The first two lines to compare are
`dora` over `lora`.  On a CPU seconds are those of the process, not of the wall: other work on the machine counts less.
A ratio is the median over turns of the ratio within a turn.  Kept bytes are what autograd holds after the forward
pass, weights left out.
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
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from peft import LoraConfig
from torch import Tensor

from benchmarks.vae_step import kept_mib
from wan_alpha.models.dit_adapters import TARGETS, add_dit_adapters

RESULTS = Path(__file__).parent / "results"
FORMS = ("lora", "dora", "peft_dora", "frozen")
# heads, width of a head, ffn, layers; z 16, text 4096 wide: the released models, and a small one
MODELS: dict[str, tuple[int, int, int, int]] = {
    "small": (4, 64, 1024, 2),
    "1.3b": (12, 128, 8960, 30),
    "14b": (40, 128, 13824, 40),
}


def build(form: str, args: argparse.Namespace) -> WanTransformer3DModel:
    """A transformer with random weights and one form of adapters, disturbed so that all of them do something."""
    heads, width, ffn, layers = MODELS[args.model]
    torch.manual_seed(0)
    with torch.device(args.device):
        dit = WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=width, ffn_dim=ffn, num_layers=args.layers or layers,
            text_dim=256,
        )  # fmt: skip
    dit.to(getattr(torch, args.dtype)).requires_grad_(False).train()
    if form == "dora":
        add_dit_adapters(dit, args.rank, args.rank, lean=not args.checkpointing)
    elif form != "frozen":
        names = [f"blocks.{n}.{target}" for n in range(len(dit.blocks)) for target in TARGETS]
        config = LoraConfig(r=args.rank, lora_alpha=args.rank, use_dora=form == "peft_dora", target_modules=names)
        dit.add_adapter(config)
    generator = torch.Generator(args.device).manual_seed(1)
    for name, p in dit.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                p.copy_(0.02 * torch.randn(p.shape, generator=generator, device=p.device, dtype=torch.float32))
    if args.checkpointing:
        dit.enable_gradient_checkpointing()
    if args.compile:
        dit.compile_repeated_blocks()
    return dit


def make_step(dit: WanTransformer3DModel, args: argparse.Namespace) -> Callable[[], Tensor]:
    """A forward pass that ends in a loss."""
    t, h, w = args.latent
    generator = torch.Generator(args.device).manual_seed(2)
    options: dict[str, Any] = {"generator": generator, "device": args.device, "dtype": getattr(torch, args.dtype)}
    x = torch.randn(1, 16, t, h, w, **options).requires_grad_()
    text = torch.randn(1, args.text, 256, **options)
    timestep = torch.full((1,), 500.0, device=args.device)
    return lambda: dit(x, timestep, text, return_dict=False)[0].float().square().mean()


def time_step(step: Callable[[], Tensor], dit: WanTransformer3DModel, device: str) -> dict[str, float]:
    """Forward, then forward and backward: seconds, the loss, MiB kept, and on a GPU the peak."""
    synchronize = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    dit.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    loss = step()
    loss.backward()
    synchronize()
    row = {"seconds": clock() - start, "loss": loss.item()}
    if device == "cuda":
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def measure(args: argparse.Namespace) -> dict[str, dict]:
    """All forms in turns; the first turn warms up."""
    models = {form: build(form, args) for form in FORMS}
    steps = {form: make_step(dit, args) for form, dit in models.items()}
    rows: dict[str, dict] = {form: {"seconds": []} for form in FORMS}
    for turn in range(args.repeats + 1):
        for form in FORMS:
            row = time_step(steps[form], models[form], args.device)
            if turn:
                rows[form]["seconds"].append(row["seconds"])
            rows[form] |= {name: value for name, value in row.items() if name != "seconds"}
    for form, row in rows.items():
        row["median_seconds"] = statistics.median(row["seconds"])
        row["time_over_lora"] = statistics.median(
            own / lora for own, lora in zip(row["seconds"], rows["lora"]["seconds"], strict=True)
        )
        if not args.compile:  # saved tensors inside compiled code are not seen
            row["kept_mib"] = kept_mib(steps[form])
    for row in rows.values():
        for name in ("kept_mib", "peak_mib"):
            if name in row:
                row[f"{name.removesuffix('_mib')}_over_lora"] = row[name] / rows["lora"][name]
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--layers", type=int, help="so many blocks; by default the model's own number")
    parser.add_argument(
        "--latent", type=int, nargs=3, default=(5, 24, 32), help="frames, height, width; 21 60 104 is 480p"
    )
    parser.add_argument("--text", type=int, default=64, help="tokens of text")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile the repeated block")
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    args = parse()
    rows = measure(args)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    machine = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads()}
    RESULTS.mkdir(exist_ok=True)
    t, h, w = args.latent
    flags = "".join(f"_{flag}" for flag in ("checkpointing", "compile") if getattr(args, flag))
    file = RESULTS / f"dora_step_{args.model}_r{args.rank}_{t}x{h}x{w}_{args.dtype}{flags}_{args.device}.json"
    file.write_text(json.dumps({"settings": vars(args), "commit": commit, "machine": machine, **rows}, indent=2) + "\n")
    for form, row in rows.items():
        kept = f"{row.get('kept_mib', float('nan')):8.1f} MiB kept (x{row.get('kept_over_lora', float('nan')):.3f})"
        print(
            f"{form:10s} {row['median_seconds']:.3f} s (x{row['time_over_lora']:.3f})  {kept}  loss {row['loss']:.6f}"
        )
    print(file)


if __name__ == "__main__":
    main()
