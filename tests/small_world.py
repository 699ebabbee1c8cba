"""Small random bases and small generated clips, instead of downloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image

WAN21 = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.2, 0.3, -0.4],
    "latents_std": [1.5, 0.5, 2.0, 1.0],
}
WAN22 = {
    "base_dim": 8,
    "z_dim": 6,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 8,
    "latents_mean": [0.1, -0.2, 0.3, -0.4, 0.5, -0.6],
    "latents_std": [1.5, 0.5, 2.0, 1.0, 0.8, 1.2],
}
ARCHITECTURES = {"wan21": WAN21, "wan22": WAN22}


def random_base(architecture: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> AutoencoderKLWan:
    """A fresh small base with random weights, the same for the same seed: `wan21` or `wan22`.

    Scales and biases are drawn too: at their defaults of 1 and 0 a forgotten one would not be noticed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(**ARCHITECTURES[architecture])  # type: ignore[arg-type]
        with torch.no_grad():
            for name, parameter in vae.named_parameters():
                if name.endswith(("gamma", "bias")):
                    parameter.add_(0.1 * torch.randn_like(parameter))
    vae.type(dtype)  # `to` warns for no reason
    return vae.requires_grad_(False).eval()


def write_clips(root: Path, count: int, frames: int = 5, side: int = 20) -> Path:
    """A folder of RGBA clips: a translucent disc in a colour of its own that wanders to the right."""
    y, x = np.mgrid[:side, :side]
    for number in range(count):
        folder = root / f"disc{number}"
        folder.mkdir(parents=True)
        for t in range(frames):
            distance = np.hypot(y - side / 2, x - side / 3 - t - 0.3 * number)
            frame = np.zeros((side, side, 4), np.uint8)
            frame[..., 3] = np.clip((side / 3 - distance) * 60, 0, 255)
            frame[..., :3] = [(50 * number) % 256, 40 * t, (255 - 30 * number) % 256]
            Image.fromarray(frame).save(folder / f"{t}.png")
    return root
