"""A DoRA or LoRA of the DiT in the spelling of its readers: the authors' code, diffusers, ComfyUI.

| format | keys | magnitude |
|---|---|---|
| `official` | `blocks.0.self_attn.q.lora_A.default.weight`, as in `t2v.safetensors` | m |
| `diffusers` | `transformer.blocks.0.attn1.to_q.lora_A.weight`, for `load_lora_weights` | the same |
| `comfyui` | `diffusion_model.blocks.0.self_attn.q.lora_down.weight`, `dora_scale` | m·||W||/||V|| |

DoRA is W' = m·V/||V||; ComfyUI divides by ||W||, the norm of the base, and so must get another magnitude.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor

from wan_alpha.interop.dit_adapters import COMFY_MAGNITUDES, DitAdapter, LayerUpdate, magnitude_ratio
from wan_alpha.interop.dit_naming import wan_dit_name
from wan_alpha.interop.weights import CheckpointError, few

Format = Literal["official", "diffusers", "comfyui"]
FORMATS: tuple[Format, ...] = get_args(Format)
# A, B and the magnitude, which ComfyUI needs scaled.
_PARTS: dict[Format, tuple[str, str, str | None]] = {
    "official": ("lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight"),
    "diffusers": ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"),
    "comfyui": ("lora_down.weight", "lora_up.weight", None),
}


def adapter_tensors(
    adapter: DitAdapter, format: Format, base: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The keys and tensors of one format, and the text entries for the file's header.

    Scales other than 1 are folded into B, because two of the three formats cannot say them.

    Args:
        adapter: by diffusers' module names.
        format: see the table above.
        base: the transformer's weights by diffusers' names; ComfyUI's magnitudes need them.

    Raises:
        CheckpointError: the format cannot hold what the adapter does.
    """
    if format != "comfyui" and (plain := sorted(m or "head" for m, update in adapter.layers.items() if update.added)):
        raise CheckpointError(
            f"format {format} knows LoRA and DoRA only; this adapter also adds to {few(plain)}: merge it, or "
            "take format comfyui"
        )
    tensors: dict[str, Tensor] = {}
    for module, update in adapter.layers.items():
        tensors |= _low_rank(module, update, format)
        if format == "comfyui":
            tensors |= _comfyui_only(module, update, base)
    return tensors, _header(adapter, format)


def _low_rank(module: str, update: LayerUpdate, format: Format) -> dict[str, Tensor]:
    """Down, up and, where it is the same in this format, the magnitude."""
    if update.a is None or update.b is None:
        return {}
    name, (down, up, magnitude) = _module(module, format), _PARTS[format]
    b = update.b if update.scale == 1.0 else (update.b.float() * update.scale).to(update.b.dtype)
    tensors = {f"{name}.{down}": update.a, f"{name}.{up}": b}
    return tensors | ({f"{name}.{magnitude}": update.magnitude} if magnitude and update.magnitude is not None else {})


def _comfyui_only(module: str, update: LayerUpdate, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ComfyUI's magnitude, and the differences that only it knows."""
    name = _module(module, "comfyui")
    tensors: dict[str, Tensor] = {}
    if update.magnitude is not None:
        ratio = magnitude_ratio(base[f"{module}.weight"], update)
        tensors[f"{name}.dora_scale"] = (update.magnitude.float() / ratio)[:, None]
    suffixes = {"weight": "diff", "bias": "diff_b", "scale_shift_table": "diff_m"}
    return tensors | {f"{name}.{suffixes[place]}": tensor for place, tensor in update.added.items()}


def _module(module: str, format: Format) -> str:
    if format == "diffusers":
        return f"transformer.{module}"
    wan = wan_dit_name(module) if module else "head"
    return f"diffusion_model.{wan}" if format == "comfyui" else wan


def _header(adapter: DitAdapter, format: Format) -> dict[str, str]:
    header = {"format": "pt"}
    if format == "comfyui" and adapter.is_dora:
        header[COMFY_MAGNITUDES] = "over-base-norm"
    if format == "diffusers":
        ranks = adapter.ranks
        rank = max(ranks)
        layers = sorted(module for module, update in adapter.layers.items() if update.a is not None)
        config = {"r": rank, "lora_alpha": rank, "use_dora": adapter.is_dora, "target_modules": layers}
        if len(ranks) == 1:  # another rank per layer would need rank_pattern; diffusers infers that from the shapes
            entries = {f"transformer.{key}": value for key, value in config.items()}
            header["lora_adapter_metadata"] = json.dumps(entries, indent=2, sort_keys=True)
    return header
