"""Loading a frozen Wan base: by name, hub id or path, always in diffusers' pipeline layout."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from wan_alpha.models.assets import asset

KNOWN_FINGERPRINT = "_wan_alpha_fingerprint"
"""Where a model whose weights are spread over ranks keeps the fingerprint that it had when they were whole."""
HUB = {
    "wan2.1-1.3b": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "wan2.1-14b": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "wan2.2-5b": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}
LAYOUT_KEYS = (
    "z_dim",
    "base_dim",
    "decoder_base_dim",
    "dim_mult",
    "num_res_blocks",
    "attn_scales",
    "temperal_downsample",
    "is_residual",
    "patch_size",
)


class BaseError(ValueError):
    """The base cannot be found, or does not fit."""


class SizeError(ValueError):
    """A clip is of a length or size that the base cannot take."""


def locate_base(base: str | Path) -> str:
    """The path or hub id of a base: `tiny` (shipped), a known name, a hub id `owner/name`, or a local path."""
    if base == "tiny":
        return str(asset("tiny-wan"))
    if Path(base).exists():
        return str(base)
    if str(base) in HUB:
        return HUB[str(base)]
    if str(base).count("/") == 1 and not str(base).startswith((".", "/", "~")):
        return str(base)
    known = ", ".join(["tiny", *HUB])
    raise BaseError(f"base {str(base)!r} is no known name ({known}), no hub id (owner/name) and no existing path")


def load_vae(base: str | Path, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """The base's VAE, frozen, in eval mode.

    Args:
        base: see `locate_base`; a directory holds the VAE in its sub-folder `vae/`, or is itself the VAE's folder.
        dtype: of the weights.

    Raises:
        BaseError: there is none, or its weights are damaged or do not fit its config.json.
    """
    where = locate_base(base)
    weights = "diffusion_pytorch_model.safetensors"
    subfolder = None if (Path(where) / weights).exists() else "vae"
    try:
        vae = AutoencoderKLWan.from_pretrained(where, subfolder=subfolder, dtype=dtype)
    except (OSError, ValueError, RuntimeError) as error:
        if not Path(where).exists():
            hint = "no such folder here; as a hub id it could not be reached"
        elif (Path(where) / (subfolder or "") / weights).exists():
            hint = f"{weights} is damaged, or does not fit the config.json beside it"
        else:
            hint = "check the path"
        raise BaseError(f"no Wan VAE at {where!r}: {hint} ({str(error).splitlines()[0]})") from error
    return vae.requires_grad_(False).eval()


def temporal_stride(vae: AutoencoderKLWan) -> int:
    """Frames per latent frame after the first (4 for every released Wan)."""
    return 2 ** sum(vae.config["temperal_downsample"])


def spatial_stride(vae: AutoencoderKLWan) -> int:
    """Pixels per latent cell along each side: 8 in Wan2.1, 16 in Wan2.2."""
    return 2 ** (len(vae.config["dim_mult"]) - 1) * (vae.config["patch_size"] or 1)


def frame_rate(vae: AutoencoderKLWan) -> float:
    """Frames per second that the base was trained for: 16, or 24 for Wan2.2's 5B, which alone has 16x16 cells."""
    return 24.0 if spatial_stride(vae) == 16 else 16.0


def check_size(vae: AutoencoderKLWan, num_frames: int, height: int, width: int) -> None:
    """Raise SizeError unless the base takes clips of T = 1 + 4k frames with sides that are multiples of its stride."""
    t, s = temporal_stride(vae), spatial_stride(vae)
    if (num_frames - 1) % t:
        nearest = 1 + t * max(0, round((num_frames - 1) / t))
        raise SizeError(f"a clip has {num_frames} frames; Wan takes 1 + {t}k, for example {nearest}")
    if height % s or width % s:
        near = " x ".join(str(s * max(1, round(side / s))) for side in (height, width))
        raise SizeError(f"frames are {height} x {width}; this base takes multiples of {s}, for example {near}")


def layout(vae: AutoencoderKLWan) -> dict[str, Any]:
    """What adapters depend on: the shape of the base, JSON-able."""
    return {key: vae.config.get(key) for key in LAYOUT_KEYS}


def fingerprint(vae: AutoencoderKLWan) -> str:
    """A short hash of the base's layout and weights, taken in bf16: the same for a base loaded in any precision."""
    if (known := vae.__dict__.get(KNOWN_FINGERPRINT)) is not None:
        return known
    digest = hashlib.sha256(json.dumps(layout(vae), sort_keys=True).encode())
    frozen = {k: v for k, v in vae.state_dict().items() if ".lora_" not in k}
    for name in sorted(frozen):
        digest.update(name.replace(".base_layer", "").encode())
        digest.update(_digest_bytes(frozen[name]))
    return digest.hexdigest()[:16]


def remember_fingerprint(vae: AutoencoderKLWan) -> None:
    """Before the weights are sharded over ranks, after which none of them has all."""
    vae.__dict__[KNOWN_FINGERPRINT] = fingerprint(vae)


def _digest_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes()
