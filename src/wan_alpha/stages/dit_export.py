"""What stage=dit leaves: adapters that diffusers and our pipeline read, or a complete base."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from wan_alpha.models.codecs import AlphaCodec, Codec
from wan_alpha.models.dit import Expert
from wan_alpha.models.dit_adapters import save_dit_adapters
from wan_alpha.models.text import TextEncoder


def export_adapters(
    directory: Path, transformer: WanTransformer3DModel, codec: Codec, dtype: torch.dtype, expert: Expert
) -> None:
    """Everything that turns a base into an RGBA generator: the DiT's adapters beside those of the VAE.

    `pytorch_lora_weights.safetensors` is what diffusers' `load_lora_weights` reads.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(codec, AlphaCodec):
        codec.alpha_vae.save_adapters(directory, torch.float16 if dtype == torch.float16 else None)
    save_dit_adapters(transformer, directory, dtype, expert)


def export_base(
    directory: Path,
    transformer: WanTransformer3DModel,
    text: TextEncoder,
    vae: AutoencoderKLWan,
    scheduler: UniPCMultistepScheduler,
    dtype: torch.dtype,
) -> None:
    """A folder that `WanPipeline.from_pretrained` of plain diffusers loads."""
    ours: Any = (transformer, text.encoder, vae)
    parts = [torch.nn.Module.to(copy.deepcopy(part), dtype) for part in ours]  # diffusers' own `to` warns for no reason
    pipeline: Any = WanPipeline(
        tokenizer=text.tokenizer,
        transformer=parts[0],
        text_encoder=parts[1],
        vae=parts[2],
        scheduler=scheduler,
    )
    pipeline.save_pretrained(directory)
    _name_portably(directory)


def _name_portably(directory: Path) -> None:
    """No paths of this machine; and a tokenizer class that transformers 4 knows as well as 5."""
    for file in directory.glob("*/config.json"):
        _rewrite(file, {k: v for k, v in json.loads(file.read_text()).items() if k != "_name_or_path"})
    config, index = directory / "tokenizer" / "tokenizer_config.json", directory / "model_index.json"
    name, content = "PreTrainedTokenizerFast", json.loads(config.read_text()) if config.exists() else {}
    if content.get("tokenizer_class") == "TokenizersBackend":
        _rewrite(config, content | {"tokenizer_class": name})
        _rewrite(index, json.loads(index.read_text()) | {"tokenizer": ["transformers", name]})


def _rewrite(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
