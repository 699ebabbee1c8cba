"""A base and adapters as one merged model, for programs that know nothing of this project.

    python -m wan_alpha.interop.export --format diffusers --base BASE --adapters ADAPTERS --out DIR
    python -m wan_alpha.interop.export --format comfyui   --base BASE --adapters ADAPTERS --out DIR
    python -m wan_alpha.interop.export --format official  --base BASE --adapters ADAPTERS --out DIR

| format | what is in DIR |
|---|---|
| diffusers | a WanPipeline: transformer merged, `vae/` decodes colour, and a second VAE, `vae_alpha/`, alpha |
| comfyui | `diffusion_models/`, `vae/` (colour and alpha) merged, and `loras/` with the DoRA alone |
| official | `t2v.safetensors` and `Wan-Alpha-VAE.bin` in the authors' layout, not merged (and no distillation LoRA) |

Everything is folded in float32, then cast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from rich.console import Console

from wan_alpha.interop.adapter_files import AdapterFiles, find_adapters
from wan_alpha.interop.dit_adapters import DitAdapter, merge_into, read_dit_adapter
from wan_alpha.interop.dit_formats import adapter_tensors
from wan_alpha.interop.naming import wan_name
from wan_alpha.interop.official_dit import DTYPES
from wan_alpha.interop.official_vae import export_vae, load_rgba_vae
from wan_alpha.interop.wan_dit import dit_to_wan
from wan_alpha.interop.weights import CheckpointError, refuse_existing, write_weights
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import BaseError, locate_base
from wan_alpha.models.lora import merge_adapter

NAME = "wan_alpha"
# What ComfyUI does not read from a file's shapes (its model_detection.py and sd.py).
COMFYUI_DIT = {"attention_head_dim": 128, "patch_size": [1, 2, 2], "freq_dim": 256, "text_dim": 4096}
COMFYUI_VAE = {"z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}


def merged_vae(base: str | Path, adapters: Path, decoder: str, dtype: torch.dtype | None = None) -> AutoencoderKLWan:
    """The base's VAE with one decoder adapter folded in: exactly the base's modules and parameters.

    Args:
        base: see `locate_base`.
        adapters: of stage vae.
        decoder: `rgb` or `alpha`; alpha is the mean of the three decoded channels, mapped from [-1, 1] to [0, 1].
        dtype: of the result; None keeps float32.
    """
    vae: Any = load_rgba_vae(base, adapters).base  # diffusers' `to` has no types
    merge_adapter(vae.decoder, decoder)
    return vae.to(dtype) if dtype else vae


def merged_transformer(
    base: str | Path, files: AdapterFiles, dtype: torch.dtype | None = None
) -> tuple[WanTransformer3DModel, DitAdapter]:
    """The base's transformer with DoRA and distillation LoRA folded in, and the DoRA as it was read."""
    if files.dit is None:
        raise AdapterError("the adapters hold nothing for the transformer: give those of stage dit, too")
    try:
        transformer = WanTransformer3DModel.from_pretrained(locate_base(base), subfolder="transformer")
    except OSError as error:
        raise BaseError(f"base {str(base)!r} has no transformer: {str(error).splitlines()[0]}") from error
    weights = transformer.state_dict()
    dora = read_dit_adapter(files.dit, weights)
    stack = [(dora, 1.0)]
    if files.distill is not None:
        stack.append((read_dit_adapter(files.distill, weights), 1.0))
    merge_into(transformer, stack)
    return (transformer.to(dtype) if dtype else transformer), dora


def export_diffusers(base: str | Path, files: AdapterFiles, out: Path, dtype: torch.dtype | None = None) -> list[str]:
    """A folder that `WanPipeline.from_pretrained` opens, with a second VAE beside it."""
    vae = _need_vae(files)
    transformer, _ = merged_transformer(base, files, dtype)
    rgb = merged_vae(base, vae, "rgb", dtype)
    pipe = WanPipeline.from_pretrained(locate_base(base), transformer=transformer, vae=rgb)
    pipe.save_pretrained(out)
    merged_vae(base, vae, "alpha", dtype).save_pretrained(out / "vae_alpha")
    return []


def export_comfyui(base: str | Path, files: AdapterFiles, out: Path, dtype: torch.dtype | None = None) -> list[str]:
    """Files for ComfyUI's folders of the same names, in Wan's own names."""
    adapters = _need_vae(files)
    plain = WanTransformer3DModel.from_pretrained(locate_base(base), subfolder="transformer").state_dict()
    transformer, dora = merged_transformer(base, files, dtype)
    tensors, header = adapter_tensors(dora, "comfyui", plain)
    write_weights(out / "loras" / f"{NAME}_dora.safetensors", tensors, header)
    write_weights(out / "diffusion_models" / f"{NAME}.safetensors", dit_to_wan(transformer.state_dict()))
    notes = unlike("transformer", transformer.config, COMFYUI_DIT)
    for decoder in ("rgb", "alpha"):
        vae = merged_vae(base, adapters, decoder, dtype)
        if vae.config["is_residual"]:
            return [*notes, "the VAE is left out: it is of Wan2.2's form, whose own names are not known here"]
        if decoder == "rgb":
            notes += unlike("VAE", vae.config, COMFYUI_VAE)
        named = {wan_name(name, vae.config["num_res_blocks"]): t for name, t in vae.state_dict().items()}
        write_weights(out / "vae" / f"{NAME}_{decoder}.safetensors", named)
    return notes


def unlike(what: str, config: Mapping[str, Any], granted: Mapping[str, Any]) -> list[str]:
    """A note if ComfyUI, which reads some sizes from a file and takes others for granted, will not load this one."""
    found = {key: list(v) if isinstance(v := config[key], tuple) else v for key in granted}
    other = [f"{key} {found[key]} (there: {value})" for key, value in granted.items() if found[key] != value]
    return [f"ComfyUI will not load this {what}: {', '.join(other)}"] if other else []


def export_official(base: str | Path, files: AdapterFiles, out: Path, dtype: torch.dtype | None = None) -> list[str]:
    """The authors' two files; nothing is merged."""
    adapters, notes = _need_vae(files), []
    if files.distill is not None:
        notes.append(f"{files.distill.name} is left out: the authors' code takes a distillation LoRA as a third file")
    plain = WanTransformer3DModel.from_pretrained(locate_base(base), subfolder="transformer").state_dict()
    if files.dit is None:
        raise AdapterError("the adapters hold nothing for the transformer: give those of stage dit, too")
    tensors, header = adapter_tensors(read_dit_adapter(files.dit, plain), "official", plain)
    write_weights(out / "t2v.safetensors", {k: t.to(dtype) if dtype else t for k, t in tensors.items()}, header)
    try:
        write_weights(out / "Wan-Alpha-VAE.bin", export_vae(base, adapters))
    except CheckpointError as error:
        notes.append(f"the VAE is left out: {error}")
    return notes


EXPORTS = {"diffusers": export_diffusers, "comfyui": export_comfyui, "official": export_official}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 refused with a sentence on stderr (2: argparse's, wrong usage)."""
    parser = argparse.ArgumentParser(prog="python -m wan_alpha.interop.export", description="One merged model.")
    parser.add_argument("--format", choices=EXPORTS, required=True, help="for whom")
    parser.add_argument("--base", default="tiny", help="tiny, a known name, a hub id or a path (default: %(default)s)")
    parser.add_argument("--adapters", nargs="+", default=["tiny"], help="exported adapters or runs, one or several")
    parser.add_argument("--distill", type=Path, help="distillation LoRA, merged after the DoRA (official: stays apart)")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of merged weights (default: float32), or of the official DoRA (its own)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is in DIR")
    args = parser.parse_args(argv)
    console, dtype = Console(), DTYPES[args.dtype] if args.dtype else None
    try:
        refuse_existing(args.out, args.overwrite)
        found = find_adapters(args.adapters)
        if found.dit_2 is not None:
            raise AdapterError(
                f"{found.dit_2} is for a base's second expert; exports are of bases with one transformer"
            )
        files = replace(found, distill=args.distill or found.distill)
        with console.status("merging and writing"):
            notes = EXPORTS[args.format](args.base, files, args.out, dtype)
    except (AdapterError, BaseError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {args.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _need_vae(files: AdapterFiles) -> Path:
    if files.vae is None:
        raise AdapterError("the adapters hold nothing for the VAE: give those of stage vae, too")
    return files.vae


if __name__ == "__main__":
    sys.exit(main())
