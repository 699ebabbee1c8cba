"""A complete small base: random VAE, transformer and text encoder, and a tokenizer of a few words."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from small_world import random_base
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from data_prep.tokenizer import train_tokenizer
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.dit import new_scheduler, new_transformer
from wan_alpha.models.text import TextEncoder, new_text_encoder
from wan_alpha.stages.dit_export import export_base

TRANSFORMER = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2,
    "freq_dim": 16,
}  # fmt: skip
TEXT_ENCODER = {
    "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1, "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
CAPTIONS = [f"disc{n}" for n in range(9)] + ["a red parrot on a green background"]


def random_text(seed: int = 0) -> TextEncoder:
    """A fresh text encoder, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return new_text_encoder(train_tokenizer(CAPTIONS, 400), TEXT_ENCODER).requires_grad_(False).eval()


def write_complete_base(root: Path, architecture: str = "wan22", seed: int = 0, adapters: bool = False) -> Path:
    """A base in diffusers' layout that says something: no layer of the transformer is zero.

    With `adapters`, `root/adapters` holds random ones of an RGBA VAE on it.
    """
    vae, text = random_base(architecture), random_text(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = new_transformer(TRANSFORMER, vae.config["z_dim"], text.dim)
        with torch.no_grad():
            for parameter in transformer.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    export_base(root, transformer, text, vae, new_scheduler(2.0), torch.float32)
    if adapters:
        alpha_vae = AlphaVAE(vae, AdapterSpec(2, 2.0, "base"))
        alpha_vae.save_adapters(root / "adapters")
    return root


CLIP = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 12,
        "patch_size": 4}  # fmt: skip
CLIP_TOKENS = 10


def write_image_transformer(root: Path, clip: bool = False) -> Path:
    """Turn a complete base into one for image to video; with `clip`, one that sees CLIP, too, as Wan2.1-I2V."""
    more = {"image_dim": CLIP["hidden_size"], "added_kv_proj_dim": 24} if clip else {}
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(**TRANSFORMER, in_channels=16, out_channels=6, text_dim=16, **more)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    transformer.save_pretrained(root / "transformer")
    if clip:
        CLIPVisionModel(CLIPVisionConfig(**CLIP)).save_pretrained(root / "image_encoder")
        side = {"height": CLIP["image_size"], "width": CLIP["image_size"]}
        CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(root / "image_processor")
        file = root / "image_processor" / "preprocessor_config.json"
        _change(file, image_processor_type="CLIPImageProcessor")
        parts = {"image_encoder": ["transformers", "CLIPVisionModel"],
                 "image_processor": ["transformers", "CLIPImageProcessor"]}  # fmt: skip
        if (root / "model_index.json").exists():
            _change(root / "model_index.json", _class_name="WanImageToVideoPipeline", **parts)
    return root


def _change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
