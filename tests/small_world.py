"""Small random bases and small generated clips, instead of downloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from PIL import Image
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from wan_alpha.interop.dit_naming import dit_table
from wan_alpha.interop.weights import write_weights
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE

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


def random_transformer(z_dim: int, in_channels: int | None = None, seed: int = 0, **more: int) -> WanTransformer3DModel:
    """A fresh small transformer with random weights; an image-to-video one has more input channels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=in_channels or z_dim,
            out_channels=z_dim,
            text_dim=16,
            freq_dim=32,
            ffn_dim=48,
            num_layers=2,
            **more,  # type: ignore[arg-type]
        )
        with torch.no_grad():  # at their defaults nothing would move
            model.proj_out.weight.normal_(std=0.3)
            for name, parameter in model.named_parameters():
                if "scale_shift_table" in name or name.endswith("bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False).eval()


def random_pipeline(root: Path, architecture: str = "wan21", seed: int = 0, **transformer: int) -> Path:
    """A complete small base with random weights in diffusers' layout: text encoder, tokenizer, transformer, VAE."""
    vae = random_base(architecture, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=384, **size)).eval()
    dit = random_transformer(vae.config["z_dim"], seed=seed, **transformer)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    WanPipeline(ByT5Tokenizer(), text_encoder, vae, scheduler, dit).save_pretrained(root)  # type: ignore[arg-type]
    return root


def random_vae_adapters(base: Path, out: Path, rank: int = 2, std: float = 0.05) -> Path:
    """Adapters of stage vae that do something."""
    model = AlphaVAE.from_pretrained(base, spec=AdapterSpec(rank=rank, lora_alpha=float(rank)))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in model.adapter_parameters().items():
            if not name.startswith("merge."):
                parameter.normal_(std=std)
    model.save_adapters(out)
    return out


def random_dora(base: Path, out: Path, rank: int = 3, prefix: str = "", magnitude: bool = True, seed: int = 2) -> Path:
    """A DoRA (or LoRA) of the transformer in Wan's own names that does something."""
    weights = WanTransformer3DModel.from_pretrained(base, subfolder="transformer").state_dict()
    table = {
        wan: name for wan, name in dit_table(weights).items() if wan.startswith("blocks.") and weights[name].dim() == 2
    }
    tensors: dict[str, torch.Tensor] = {}
    draw = torch.Generator().manual_seed(seed)
    for wan, name in table.items():
        module, (out_width, in_width) = wan.removesuffix(".weight"), weights[name].shape
        tensors[f"{prefix}{module}.lora_A.weight"] = 0.3 * torch.randn(rank, in_width, generator=draw)
        tensors[f"{prefix}{module}.lora_B.weight"] = 0.3 * torch.randn(out_width, rank, generator=draw)
        if magnitude:
            norm = weights[name].norm(dim=1)
            tensors[f"{prefix}{module}.lora_magnitude_vector.weight"] = norm * (
                1 + 0.2 * torch.randn(len(norm), generator=draw)
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_weights(out, tensors)
    return out


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
