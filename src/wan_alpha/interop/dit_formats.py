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

from .dit_adapters import COMFY_MAGNITUDES, DitAdapter, LayerUpdate, magnitude_ratio
from .dit_naming import wan_dit_name
from .weights import CheckpointError, few

Format = Literal["official", "diffusers", "comfyui"]
FORMATS: tuple[Format, ...] = get_args(Format)


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
    write = {"official": _official, "diffusers": _diffusers, "comfyui": _comfyui}[format]
    tensors: dict[str, Tensor] = {}
    for module, update in adapter.layers.items():
        tensors |= write(module, update, base)
    return tensors, _header(adapter, format)


def _scaled_b(update: LayerUpdate) -> Tensor:
    assert update.b is not None
    return update.b if update.scale == 1.0 else (update.b.float() * update.scale).to(update.b.dtype)


def _official(module: str, update: LayerUpdate, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name = wan_dit_name(module)
    if update.a is None:
        return {}
    tensors = {f"{name}.lora_A.default.weight": update.a, f"{name}.lora_B.default.weight": _scaled_b(update)}
    if update.magnitude is not None:
        tensors[f"{name}.lora_magnitude_vector.default.weight"] = update.magnitude
    return tensors


def _diffusers(module: str, update: LayerUpdate, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name = f"transformer.{module}"
    if update.a is None:
        return {}
    tensors = {f"{name}.lora_A.weight": update.a, f"{name}.lora_B.weight": _scaled_b(update)}
    if update.magnitude is not None:
        tensors[f"{name}.lora_magnitude_vector"] = update.magnitude
    return tensors


def _comfyui(module: str, update: LayerUpdate, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name = f"diffusion_model.{wan_dit_name(module) if module else 'head'}"
    tensors: dict[str, Tensor] = {}
    if update.a is not None:
        tensors |= {f"{name}.lora_down.weight": update.a, f"{name}.lora_up.weight": _scaled_b(update)}
    if update.magnitude is not None:
        ratio = magnitude_ratio(base[f"{module}.weight"], update)
        tensors[f"{name}.dora_scale"] = (update.magnitude.float() / ratio)[:, None]
    suffixes = {"weight": "diff", "bias": "diff_b", "scale_shift_table": "diff_m"}
    return tensors | {f"{name}.{suffixes[place]}": tensor for place, tensor in update.added.items()}


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
