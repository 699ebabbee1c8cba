"""Wan's own transformer file <-> diffusers' WanTransformer3DModel, of any width and depth.

The shapes say what the model is, but for the number of attention heads: every released Wan has heads of 128 channels;
for another width it is read from the JSON beside the file, or must be given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from wan_alpha.interop.dit_naming import dit_table, wan_dit_name
from wan_alpha.interop.wan_vae import check_shapes
from wan_alpha.interop.weights import CheckpointError, few

HEAD_DIM = 128
_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
# The image prompt of Wan2.1 I2V, which diffusers builds only when asked for.
_POSITIONS = "img_emb.emb_pos"


def strip_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wan's own names, as they are or under ComfyUI's `model.diffusion_model.`."""
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in weights):
            return {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return dict(weights)


def heads_beside(path: Path) -> int | None:
    """`num_heads` from the `config.json` (Wan's releases) or `meta.json` in the same folder, if there is one."""
    for name in ("config.json", "meta.json"):
        try:
            heads = json.loads((path.parent / name).read_text()).get("num_heads")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(heads, int) and heads > 0:
            return heads
    return None


def infer_dit_config(weights: Mapping[str, Tensor], heads: int | None = None) -> dict[str, Any]:
    """The arguments of WanTransformer3DModel that fit the shapes of a Wan transformer in Wan's own names.

    Args:
        weights: see `strip_prefix`; values may be on the meta device.
        heads: number of attention heads; None takes heads of 128 channels.

    Raises:
        CheckpointError: this is no such transformer, or its heads cannot be told.
    """
    if "condition_embedder.time_proj.weight" in weights:
        raise CheckpointError("the base is in diffusers' names already; give Wan's own file, or use it as it is")
    needed = {"patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight", "head.head.weight"}
    if missing := sorted(needed - weights.keys()):
        raise CheckpointError(
            f"the base is no Wan transformer: it has no {few(missing)}, but {few(sorted(weights))}; "
            "give diffusion_pytorch_model.safetensors of Wan2.1-T2V"
        )
    patch = weights["patch_embedding.weight"]
    dim, size = patch.shape[0], tuple(patch.shape[2:])
    heads = heads or (dim // HEAD_DIM if dim % HEAD_DIM == 0 else None)
    if heads is None or dim % heads or (dim // heads) % 2:
        raise CheckpointError(
            f"the transformer is {dim} wide, and its number of attention heads ({heads}) cannot be told from its "
            "weights; give --heads N, or put a config.json with num_heads beside the file"
        )
    config: dict[str, Any] = {
        "patch_size": size,
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": patch.shape[1],
        "out_channels": weights["head.head.weight"].shape[0] // (size[0] * size[1] * size[2]),
        "text_dim": weights["text_embedding.0.weight"].shape[1],
        "freq_dim": weights["time_embedding.0.weight"].shape[1],
        "ffn_dim": weights["blocks.0.ffn.0.weight"].shape[0] if "blocks.0.ffn.0.weight" in weights else 0,
        "num_layers": 1 + max((int(k.split(".")[1]) for k in weights if k.startswith("blocks.")), default=-1),
        "cross_attn_norm": "blocks.0.norm3.weight" in weights,
    }
    if "img_emb.proj.0.weight" in weights:
        config["image_dim"] = weights["img_emb.proj.0.weight"].shape[0]
        config["added_kv_proj_dim"] = dim
    if _POSITIONS in weights:
        config["pos_embed_seq_len"] = weights[_POSITIONS].shape[1]
    return config


def dit_from_wan(weights: Mapping[str, Tensor], heads: int | None = None) -> WanTransformer3DModel:
    """Build diffusers' transformer from Wan's own weights; the tensors are taken over as they are, not copied.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape.
    """
    weights = strip_prefix(weights)
    config = infer_dit_config(weights, heads)
    with torch.device("meta"):
        expected = WanTransformer3DModel(**config).state_dict()
    table = dit_table(expected)
    missing, unknown = sorted(table.keys() - weights.keys()), sorted(weights.keys() - table.keys())
    if missing or unknown:
        raise CheckpointError(f"the base is no Wan transformer: missing {few(missing)}; unknown {few(unknown)}")
    check_shapes({key: expected[name] for key, name in table.items()}, weights, "the base")
    return build_dit(config, {name: weights[key] for key, name in table.items()})


def build_dit(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> WanTransformer3DModel:
    """A frozen transformer on given tensors (by diffusers' names), without a copy and without initialising weights."""
    with torch.device("meta"):
        model = WanTransformer3DModel(**config)
    model.load_state_dict(dict(weights), strict=True, assign=True)
    # Buffers that no file holds were left on the meta device.
    fresh = type(model.rope)(config["attention_head_dim"], config["patch_size"], config.get("rope_max_seq_len", 1024))
    model.rope = fresh
    return model.requires_grad_(False).eval()


def dit_to_wan(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' weights by Wan's own names."""
    return {wan_dit_name(name): tensor for name, tensor in weights.items()}
