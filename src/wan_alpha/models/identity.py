"""Which weights made a thing: short hashes by which stored latents are told apart."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from wan_alpha.models.base import fingerprint
from wan_alpha.models.codecs import AlphaCodec, Codec


def codec_identity(codec: Codec) -> dict[str, Any]:
    """What latents depend on: `base` and `adapters` (None for opaque video) by their hashes, and z."""
    adapters = tensors_fingerprint(codec.alpha_vae.adapter_state()) if isinstance(codec, AlphaCodec) else None
    config = codec.vae.config
    statistics = json.dumps([list(config[name]) for name in ("latents_mean", "latents_std")])
    base = hashlib.sha256(f"{fingerprint(codec.vae)} {statistics}".encode()).hexdigest()[:16]
    return {"base": base, "adapters": adapters, "z": int(config["z_dim"])}


def tensors_fingerprint(tensors: dict[str, Tensor]) -> str:
    """A short hash of tensors by name, of all their numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def text_identity(encoder: nn.Module, sample: int = 4096) -> str:
    """A short hash of a text encoder: names, shapes and the first numbers of every weight, in bf16."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        head = tensor.detach().flatten()[:sample].to(torch.bfloat16).cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + head.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
