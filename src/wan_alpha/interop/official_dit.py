"""The authors' text-to-video release -> a transformer in diffusers' layout, and its adapters in every spelling."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from rich.console import Console
from rich.table import Table
from torch import Tensor

from wan_alpha.interop.dit_adapters import DitAdapter, merge_dit_adapters, read_dit_adapter
from wan_alpha.interop.dit_formats import FORMATS, adapter_tensors
from wan_alpha.interop.wan_dit import build_dit, dit_from_wan, heads_beside
from wan_alpha.interop.weights import CheckpointError, few, read_weights, refuse_existing, write_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def add_dit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`dit`: base, DoRA and distillation LoRA -> one merged transformer."""
    parser = commands.add_parser("dit", help="base + DoRA (+ distillation LoRA) -> a merged diffusers transformer")
    _add_base(parser)
    parser.add_argument("--dora", type=Path, help="t2v.safetensors, in any spelling; left out: the base alone")
    parser.add_argument("--distill", type=Path, help="LightX2V or CausVid LoRA, added after the DoRA")
    parser.add_argument("--distill-strength", type=float, default=1.0, help="its strength (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="directory for the transformer")
    parser.add_argument("--dtype", choices=DTYPES, help="of the merged weights (default: the base's)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in DIR")
    parser.set_defaults(run=run_dit)


def add_dit_adapter(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`dit-adapter`: a DoRA or LoRA file from one spelling to another."""
    parser = commands.add_parser("dit-adapter", help="a DoRA or LoRA of the DiT in another spelling")
    _add_base(parser)
    parser.add_argument("--dora", type=Path, required=True, help="the file to convert, in any spelling")
    parser.add_argument("--format", choices=FORMATS, required=True, help="whose spelling to write")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_dit_adapter)


def run_dit(args: argparse.Namespace, console: Console) -> None:
    """Merge, write, and say what became of every key."""
    refuse_existing(args.out, args.overwrite)
    with console.status("reading"):
        base = load_dit(args.base, args.heads)
        weights = base.state_dict()
        stack = []
        for path, strength in ((args.dora, 1.0), (args.distill, args.distill_strength)):
            if path is not None:
                stack.append((read_dit_adapter(path, weights, args.alpha), strength))
    with console.status("merging"):
        merged = merge_dit_adapters(weights, stack)
        dtype = DTYPES[args.dtype] if args.dtype else None
        model = build_dit(base.config, {name: t.to(dtype or t.dtype) for name, t in merged.items()})
    with console.status("writing"):
        model.save_pretrained(args.out)
    console.print(summary(base, [adapter for adapter, _ in stack]))
    console.print(f"wrote {args.out}", markup=False, highlight=False, soft_wrap=True)


def run_dit_adapter(args: argparse.Namespace, console: Console) -> None:
    """Convert one adapter file."""
    if args.out.suffix != ".safetensors":
        raise CheckpointError(f"{args.out}: adapters are written as .safetensors")
    refuse_existing(args.out, args.overwrite)
    with console.status("reading"):
        weights = load_dit(args.base, args.heads).state_dict()
        tensors, header = adapter_tensors(read_dit_adapter(args.dora, weights, args.alpha), args.format, weights)
    write_weights(args.out, tensors, header)
    console.print(f"wrote {len(tensors)} tensors to {args.out}", markup=False, highlight=False, soft_wrap=True)


def load_dit(base: Path, heads: int | None = None) -> WanTransformer3DModel:
    """A transformer from Wan's own file (or its folder of shards), or from a folder in diffusers' layout."""
    if base.is_dir():
        for folder in (base / "transformer", base):
            if (folder / "config.json").exists() and any(folder.glob("diffusion_pytorch_model*.safetensors*")):
                config = WanTransformer3DModel.load_config(folder)
                if "num_attention_heads" in config:
                    return WanTransformer3DModel.from_pretrained(folder).requires_grad_(False).eval()
        return dit_from_wan(_read_shards(base), heads or heads_beside(base / "any"))
    return dit_from_wan(read_weights(base), heads or heads_beside(base))


def summary(base: WanTransformer3DModel, adapters: list[DitAdapter]) -> Table:
    """One row per file: how many keys, and what became of them."""
    config = base.config
    table = Table("file", "keys", "what became of them", title="Wan-Alpha DiT")
    shape = f"{config['num_layers']} blocks, {config['num_attention_heads']} heads of {config['attention_head_dim']}"
    table.add_row("base", f"{len(base.state_dict())}", f"all converted ({shape})")
    for adapter in adapters:
        kind = "DoRA" if adapter.is_dora else "LoRA"
        ranks = "/".join(map(str, sorted(adapter.ranks)))
        table.add_row(f"- {kind}", f"{adapter.keys}", f"merged into {len(adapter.layers)} layers (rank {ranks})")
        if adapter.ignored:
            what = f"ignored, for the image prompt of I2V: {few(adapter.ignored)}"
            table.add_row("  - other", f"{len(adapter.ignored)}", what)
    return table


def _add_base(parser: argparse.ArgumentParser) -> None:
    what = "Wan's transformer: its own file, its folder of shards, or a folder in diffusers' layout"
    parser.add_argument("--base", type=Path, required=True, help=what)
    parser.add_argument("--heads", type=int, help="attention heads, where the width is no multiple of 128")
    parser.add_argument("--alpha", type=float, help="LoRA alpha where a file does not say it (default: its rank)")


def _read_shards(folder: Path) -> dict[str, Tensor]:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"no transformer in {folder}: expected *.safetensors, with config.json for diffusers")
    weights: dict[str, Tensor] = {}
    for shard in shards:
        weights |= read_weights(shard)
    return weights
