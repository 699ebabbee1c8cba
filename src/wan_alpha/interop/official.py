"""Checkpoints of Wan and of the Wan-Alpha authors, in and out.

    python -m wan_alpha.interop.official vae --base Wan2.1_VAE.pth --checkpoint Wan-Alpha-VAE.bin --out DIR
    python -m wan_alpha.interop.official vae-export --base DIR/base --adapters DIR/adapters --out Wan-Alpha-VAE.bin
    python -m wan_alpha.interop.official dit --base FILE --dora t2v.safetensors [--distill FILE] --out DIR
    python -m wan_alpha.interop.official dit-adapter --base FILE --dora FILE --format diffusers --out FILE

`vae` writes `DIR/base` and `DIR/adapters`, which `AlphaVAE.from_pretrained` takes; `dit` writes a transformer that
plain diffusers loads.  Each command is a function that adds its parser and names the function that runs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wan_alpha.interop.official_dit import add_dit, add_dit_adapter
from wan_alpha.interop.official_vae import Converted, convert_vae, export_vae
from wan_alpha.interop.weights import CheckpointError, few, read_weights, refuse_existing, write_weights
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import BaseError

_EXPECTED_ERRORS = (CheckpointError, AdapterError, BaseError, OSError)


def add_vae(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`vae`: the authors' RGBA VAE -> a base and adapters."""
    parser = commands.add_parser("vae", help="the authors' RGBA VAE -> DIR/base and DIR/adapters")
    parser.add_argument("--base", type=Path, required=True, help="Wan2.1_VAE.pth or .safetensors, in Wan's own names")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Wan-Alpha-VAE.bin or .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="directory for base/ and adapters/")
    parser.add_argument(
        "--lora-alpha", type=float, default=1.0, help="LoRA scale is this / rank (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-other-base", action="store_true", help="accept a base that differs from the checkpoint's"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is in DIR/base and DIR/adapters")
    parser.set_defaults(run=run_vae)


def add_vae_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`vae-export`: a base and adapters -> one file in the authors' layout."""
    parser = commands.add_parser("vae-export", help="a base and adapters -> the authors' RGBA VAE file")
    parser.add_argument("--base", required=True, help="a Wan2.1 base: directory, known name or hub id")
    parser.add_argument("--adapters", required=True, help="exported adapters or a run directory")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .bin or .safetensors")
    parser.add_argument("--lora-alpha", type=float, default=1.0, help="what the reader assumes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_vae_export)


COMMANDS = (add_vae, add_vae_export, add_dit, add_dit_adapter)


def run_vae(args: argparse.Namespace, console: Console) -> None:
    """Convert, write, and say what became of every key."""
    for folder in (args.out / "base", args.out / "adapters"):
        refuse_existing(folder, args.overwrite)
    with console.status("reading"):
        base, checkpoint = read_weights(args.base), read_weights(args.checkpoint)
    with console.status("comparing with the base"):
        converted = convert_vae(base, checkpoint, args.lora_alpha, args.allow_other_base)
    with console.status("writing"):
        converted.save(args.out)
    console.print(summary(converted, len(checkpoint)))
    for note in converted.report.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print(
        f"wrote {args.out / 'base'} and {args.out / 'adapters'}", markup=False, highlight=False, soft_wrap=True
    )


def run_vae_export(args: argparse.Namespace, console: Console) -> None:
    """Export and write."""
    refuse_existing(args.out, args.overwrite)
    with console.status("reading"):
        weights = export_vae(args.base, args.adapters, args.lora_alpha)
    with console.status("writing"):
        write_weights(args.out, weights)
    console.print(f"wrote {len(weights)} tensors to {args.out}", markup=False, highlight=False, soft_wrap=True)


def summary(converted: Converted, checkpoint_keys: int) -> Table:
    """One row per group of keys: how many, and what became of them."""
    report, spec, config = converted.report, converted.spec, converted.vae.config
    table = Table("keys", "count", "what became of them", title="Wan-Alpha VAE")
    shape = f"width {config['base_dim']} x {list(config['dim_mult'])}, z {config['z_dim']}"
    table.add_row("base", f"{report.base_keys}", f"all converted ({shape})")
    table.add_row("checkpoint", f"{checkpoint_keys}", "of these:")
    table.add_row("- trained", f"{report.adapter_keys}", f"adapters (rank {spec.rank}, lora_alpha {spec.lora_alpha:g})")
    at = f" at {report.differs_most}" if report.differs_most else ""
    compared = f"compared, not stored: largest difference {report.largest_difference:.3g}{at}"
    table.add_row("- copies of the base", f"{report.copies}", compared)
    if report.ignored:
        table.add_row("- other models", f"{len(report.ignored)}", f"ignored: {few(report.ignored)}")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 refused with a sentence on stderr (2: argparse's, wrong usage)."""
    parser = argparse.ArgumentParser(prog="python -m wan_alpha.interop.official", description="Checkpoints in and out.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args, Console())
    except _EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
