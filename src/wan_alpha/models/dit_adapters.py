"""Adapters of the transformer: put on, read from and written to files, merged.

The file is what diffusers calls a LoRA file, `pytorch_lora_weights.safetensors`: `pipe.load_lora_weights(DIR)` reads it
without this project.  Its header also says for which transformer the adapters were trained.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from peft import LoraConfig, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import KNOWN_FINGERPRINT
from wan_alpha.models.dit import Expert
from wan_alpha.models.dora import FastDoraLinear, is_plain

log = logging.getLogger(__name__)

Kind = Literal["dora", "lora"]
FILE = "pytorch_lora_weights.safetensors"
ADAPTER = "default"
PREFIX = "transformer."
DIFFUSERS_KEY, OWN_KEY = "lora_adapter_metadata", "wan_alpha"  # in the header of the file
VERSION = 1
TARGETS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
           "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
           "ffn.net.0.proj", "ffn.net.2")  # fmt: skip
RECOMPUTED = "attn2.to_out.0"  # goes into a sum, which keeps nothing; of the three such layers one of the two smallest
LAYOUT_KEYS = ("patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim",
               "ffn_dim", "num_layers", "image_dim", "added_kv_proj_dim")  # fmt: skip


def add_dit_adapters(
    transformer: WanTransformer3DModel, rank: int, alpha: float, kind: Kind = "dora", lean: bool = True
) -> dict[str, nn.Parameter]:
    """Freeze a Wan transformer and give q, k, v, o of both attentions and both FFN layers of every block an adapter.

    DoRA layers are `FastDoraLinear`; the adapters are kept in float32 (float64 on a float64 base), whatever the
    precision of the base.  They start as the base: B is 0 and every magnitude is the norm of its row.

    Args:
        transformer: the base; it may be quantised.
        rank, alpha: r and alpha; the update is scaled by alpha / r (authors: 32 and 32).
        kind: `dora`, or `lora` without magnitudes.
        lean: of DoRA: keep one output less per block for the backward pass and compute it again there.  Not worth it
            with activation checkpointing, which keeps none of them.

    Returns:
        The trained parameters by their name in the adapter file, without its prefix.

    Raises:
        AdapterError: the rank or alpha is not positive, or the transformer has adapters already.
    """
    if rank < 1 or alpha <= 0:
        raise AdapterError(f"rank={rank}, alpha={alpha}: expected a rank of at least 1 and a positive alpha")
    if getattr(transformer, "peft_config", None):
        raise AdapterError("this transformer has adapters already: merge them or load the base again")
    transformer.requires_grad_(False)
    names = [f"blocks.{n}.{target}" for n in range(len(transformer.blocks)) for target in TARGETS]
    _inject(transformer, LoraConfig(r=rank, lora_alpha=cast(int, alpha), use_dora=kind == "dora", target_modules=names))
    for name, layer in dit_layers(transformer).items():
        layer.keeps_output = not (lean and name.endswith(RECOMPUTED))
    return dit_adapter_parameters(transformer)


def _inject(transformer: WanTransformer3DModel, config: LoraConfig) -> None:
    config._register_custom_module({nn.Linear: FastDoraLinear})
    transformer.add_adapter(config, ADAPTER)
    for layer in dit_layers(transformer).values():
        for name, p in layer.named_parameters():
            if "lora_" in name:
                p.data = p.data.to(torch.promote_types(p.dtype, torch.float32))


def dit_layers(transformer: nn.Module) -> dict[str, FastDoraLinear]:
    """The adapter layers of a transformer by module name."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, FastDoraLinear)}


def dit_adapter_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """Everything that is trained, by its name in an adapter file: `blocks.0.attn1.to_q.lora_A.weight`, ..."""
    named = ((name, p) for name, p in transformer.named_parameters() if ".lora_" in name)
    return {file_name(name): p for name, p in named}


def file_name(name: str) -> str:
    """A parameter's name as peft writes it: without the name of the adapter, a magnitude without `.weight`."""
    name = name.replace(f".{ADAPTER}", "")
    return name.removesuffix(".weight") if "lora_magnitude_vector" in name else name


# ----- files ------------------------------------------------------------------------------------------------------


def save_dit_adapters(
    transformer: WanTransformer3DModel,
    directory: str | Path,
    dtype: torch.dtype | None = None,
    expert: Expert = "transformer",
) -> Path:
    """Write `pytorch_lora_weights.safetensors` atomically, in `dtype` if given; returns its path.

    Names in it begin with `transformer.` for either expert, as diffusers' `load_lora_weights` has it; the header says
    which one they are for.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    tensors = {f"{PREFIX}{name}": t.detach().to(dtype or t.dtype).cpu().contiguous() for name, t in state.items()}
    own = {"version": VERSION, "layout": dit_layout(transformer), "fingerprint": dit_fingerprint(transformer)}
    own |= {} if expert == "transformer" else {"expert": expert}
    header = {"format": "pt", DIFFUSERS_KEY: json.dumps(_diffusers_metadata(transformer)), OWN_KEY: json.dumps(own)}
    partial = directory / f"{FILE}.tmp"
    save_file(tensors, partial, metadata=header)
    os.replace(partial, directory / FILE)
    return directory / FILE


def _diffusers_metadata(transformer: WanTransformer3DModel) -> dict[str, Any]:
    """The peft configuration as diffusers expects it; without it, alpha would be lost."""
    config = transformer.peft_config[ADAPTER].to_dict()
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    return {f"{PREFIX}{name}": value for name, value in config.items()}


def locate_dit_adapters(adapters: str | Path) -> Path:
    """The file: itself, or in a directory of exported adapters, or in `adapters/` of a run directory."""
    path = Path(adapters)
    for candidate in (path, path / FILE, path / "adapters" / FILE):
        if candidate.is_file():
            return candidate
    raise AdapterError(f"no {FILE} in {path} or {path / 'adapters'}: give an exported adapter directory or a run")


def load_dit_adapters(transformer: WanTransformer3DModel, adapters: str | Path) -> dict[str, nn.Parameter]:
    """Put trained adapters on a base; returns them as `add_dit_adapters` does.

    Raises:
        AdapterError: the file is missing or damaged, says nothing of its rank, or was made for another base.
    """
    file = locate_dit_adapters(adapters)
    try:
        with safe_open(file, framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {name.removeprefix(PREFIX): handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        config = {k.removeprefix(PREFIX): v for k, v in json.loads(header[DIFFUSERS_KEY]).items()}
    except KeyError:
        raise AdapterError(f"{file} has no {DIFFUSERS_KEY} in its header: rank and alpha are unknown") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"{file} is damaged: {error}") from error
    check_fits(transformer, own_header(header), file)
    kind: Kind = "dora" if config["use_dora"] else "lora"
    parameters = add_dit_adapters(transformer, config["r"], config["lora_alpha"], kind)
    load_dit_adapter_state(transformer, tensors, str(file))
    return parameters


def load_dit_adapter_state(transformer: WanTransformer3DModel, tensors: dict[str, Tensor], source: str) -> None:
    """Copy trained tensors in; every name and shape must match."""
    own = dit_adapter_parameters(transformer)
    if differing := sorted(own.keys() ^ tensors.keys()):
        raise AdapterError(f"{source} does not fit this transformer: {len(differing)} names differ, {differing[:2]} ..")
    for name, p in own.items():
        if tensors[name].shape != p.shape:
            raise AdapterError(
                f"{source} does not fit this transformer: {name} is {tuple(tensors[name].shape)}, "
                f"here it is {tuple(p.shape)}"
            )
    set_peft_model_state_dict(transformer, {k: t.to(own[k].dtype) for k, t in tensors.items()}, ADAPTER)


def own_header(header: Mapping[str, str]) -> dict[str, Any]:
    """What this project wrote into the header of an adapter file: layout, fingerprint, expert; {} of other files.

    Raises:
        AdapterError: the entry is there, and damaged.
    """
    try:
        return dict(json.loads(header.get(OWN_KEY, "{}")))
    except (ValueError, TypeError) as error:
        raise AdapterError(f"the header of the adapters is damaged: {OWN_KEY} is {header[OWN_KEY]!r}") from error


def check_fits(transformer: WanTransformer3DModel, own: Mapping[str, Any], file: Path) -> None:
    """Whether adapters are of this base; other weights in the same layout (a fine-tuned base, another release) warn.

    Args:
        own: see `own_header`; nothing is known of a file for which it is empty.

    Raises:
        AdapterError: they are of a transformer of another layout.
    """
    made_for, have = own.get("layout", {}), dit_layout(transformer)
    differing = [
        f"{k}: adapters {made_for[k]}, base {have[k]}" for k in have if k in made_for and made_for[k] != have[k]
    ]
    if differing:
        raise AdapterError(f"{file} was made for another base: {'; '.join(differing)}")
    if own and (theirs := own.get("fingerprint")) != (here := dit_fingerprint(transformer)):
        log.warning(
            "%s was trained on a transformer with other weights in the same layout (%s, here %s)", file, theirs, here
        )


def dit_layout(transformer: WanTransformer3DModel) -> dict[str, Any]:
    """What adapters depend on: the shape of the transformer, JSON-able."""
    config = {key: transformer.config.get(key) for key in LAYOUT_KEYS}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def dit_fingerprint(transformer: WanTransformer3DModel, sample: int = 512) -> str:
    """A short hash of layout and frozen weights, of which it reads the first numbers of every tensor, in bf16."""
    if (known := transformer.__dict__.get(KNOWN_FINGERPRINT)) is not None:
        return known
    digest = hashlib.sha256(json.dumps(dit_layout(transformer), sort_keys=True).encode())
    for name, tensor in sorted(_frozen(transformer)):
        if type(tensor.data) is not Tensor:  # torchao's, which reshape in few ways
            tensor = cast(Any, tensor).dequantize()
        head = tensor.detach().flatten()[:sample].to(torch.bfloat16).cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(head.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def remember_dit_fingerprint(transformer: WanTransformer3DModel) -> None:
    """Before the weights are sharded over ranks, after which none of them has all."""
    transformer.__dict__[KNOWN_FINGERPRINT] = dit_fingerprint(transformer)


def _frozen(transformer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, p in transformer.named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer", ""), p


# ----- merging ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def merge_dit_adapters(transformer: WanTransformer3DModel) -> None:
    """Fold the adapters into the base weights for good (in float32 or better, then cast); no adapter layer is left."""
    for name, layer in dit_layers(transformer).items():
        base = cast(nn.Linear, layer.get_base_layer())
        if not is_plain(base):
            raise AdapterError(f"{name} is quantised ({type(base).__name__}); merge into the base in bf16 or float32")
        base.weight.copy_(merged_weight(layer))
        parent, _, child = name.rpartition(".")
        parent_module = transformer.get_submodule(parent)
        setattr(parent_module, child, base)
    del transformer.peft_config
    transformer._hf_peft_config_loaded = False


def merged_weight(layer: FastDoraLinear) -> Tensor:
    """W + s B A, for DoRA with every row scaled to its magnitude; (out, in), in float32 or better."""
    weight = cast(nn.Linear, layer.get_base_layer()).weight
    wide = torch.promote_types(weight.dtype, torch.float32)
    a, b = (cast(Tensor, part[ADAPTER].weight).to(wide) for part in (layer.lora_A, layer.lora_B))
    v = weight.to(wide) + layer.scaling[ADAPTER] * (b @ a)
    if ADAPTER not in layer.lora_magnitude_vector:
        return v
    magnitude = cast(Tensor, layer.lora_magnitude_vector[ADAPTER].weight).to(wide)
    return v * (magnitude / v.norm(dim=1)).unsqueeze(1)
