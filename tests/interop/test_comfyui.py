"""What ComfyUI looks for in a file, written again from its source (model_detection.py, sd.py, ldm/wan, lora.py).

ComfyUI itself is not run here.  The names are spelled out by the structure of its classes, not by our tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from small_world import random_base, random_transformer
from torch import Tensor

from wan_alpha.interop.dit_adapters import DitAdapter, LayerUpdate
from wan_alpha.interop.dit_formats import adapter_tensors
from wan_alpha.interop.export import COMFYUI_DIT, COMFYUI_VAE, unlike
from wan_alpha.interop.naming import wan_name
from wan_alpha.interop.wan_dit import dit_to_wan


def layers(names: Iterable[str], *parts: str) -> set[str]:
    return {f"{name}.{part}" for name in names for part in parts or ("weight", "bias")}


def dit_names(blocks: int) -> set[str]:
    """Parameters of ComfyUI's WanModel."""
    names = layers(["patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2",
                    "time_projection.1", "head.head"]) | {"head.modulation"}  # fmt: skip
    for block in (f"blocks.{n}" for n in range(blocks)):
        for attention in ("self_attn", "cross_attn"):
            names |= layers(f"{block}.{attention}.{x}" for x in "qkvo")
            names |= layers((f"{block}.{attention}.norm_{x}" for x in "qk"), "weight")
        names |= layers([f"{block}.norm3", f"{block}.ffn.0", f"{block}.ffn.2"]) | {f"{block}.modulation"}
    return names


def detected(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """ComfyUI's reading of sizes from a file with `head.modulation`."""
    dim = weights["head.modulation"].shape[-1]
    return {
        "dim": dim, "out_dim": weights["head.head.weight"].shape[0] // 4, "num_heads": dim // 128,
        "ffn_dim": weights["blocks.0.ffn.0.weight"].shape[0], "in_dim": weights["patch_embedding.weight"].shape[1],
        "num_layers": len({key.split(".")[1] for key in weights if key.startswith("blocks.")}),
    }  # fmt: skip


def test_the_transformer_has_comfyuis_names_and_its_sizes_are_found() -> None:
    with torch.device("meta"):
        model = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=3)  # 1.3B, fewer blocks
    weights = dit_to_wan(model.state_dict())
    assert weights.keys() == dit_names(3)
    assert weights["blocks.0.modulation"].shape == (1, 6, 1536)
    assert weights["head.modulation"].shape == (1, 2, 1536)
    assert detected(weights) == {"dim": 1536, "out_dim": 16, "num_heads": 12, "ffn_dim": 8960, "in_dim": 16,
                                 "num_layers": 3}  # fmt: skip
    assert unlike("transformer", model.config, COMFYUI_DIT) == []
    (note,) = unlike("transformer", random_transformer(4).config, COMFYUI_DIT)
    assert note.startswith("ComfyUI will not load this transformer: attention_head_dim 12 (there: 128), freq_dim 32")


def vae_names() -> set[str]:
    """Parameters of ComfyUI's WanVAE at Wan2.1's depth: stages of 2 residual blocks (decoder: 3) and a resampler."""

    def block(name: str, shortcut: bool) -> set[str]:
        found = layers([f"{name}.residual.2", f"{name}.residual.6", *([f"{name}.shortcut"] if shortcut else [])])
        return found | layers([f"{name}.residual.0", f"{name}.residual.3"], "gamma")

    def ends(side: str) -> set[str]:
        found = layers([f"{side}.conv1", f"{side}.head.2"]) | {f"{side}.head.0.gamma"}
        found |= block(f"{side}.middle.0", False) | block(f"{side}.middle.2", False)
        attention = f"{side}.middle.1"
        return found | layers([f"{attention}.to_qkv", f"{attention}.proj"]) | {f"{attention}.norm.gamma"}

    names = layers(["conv1", "conv2"]) | ends("encoder") | ends("decoder")
    for at in (0, 1, 3, 4, 6, 7, 9, 10):  # 96 -> 96, 192, 384, 384: a shortcut where the width changes
        names |= block(f"encoder.downsamples.{at}", at in (3, 6))
    for at, temporal in ((2, False), (5, True), (8, True)):
        names |= layers([f"encoder.downsamples.{at}.resample.1"])
        names |= layers([f"encoder.downsamples.{at}.time_conv"]) if temporal else set()
    for at in (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14):  # upsampling halves the width: 384, 192 -> 384, 192, 96
        names |= block(f"decoder.upsamples.{at}", at == 4)
    for at, temporal in ((3, True), (7, True), (11, False)):
        names |= layers([f"decoder.upsamples.{at}.resample.1"])
        names |= layers([f"decoder.upsamples.{at}.time_conv"]) if temporal else set()
    return names


def test_the_vae_has_comfyuis_names() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    named = {wan_name(name, 2): tensor for name, tensor in vae.state_dict().items()}
    assert named.keys() == vae_names()
    # It is told by one name, its width is read from another, and Wan2.2's by a third that must not be there.
    assert "decoder.middle.0.residual.0.gamma" in named
    assert named["decoder.head.0.gamma"].shape[0] == 96
    assert named["encoder.conv1.weight"].shape[1] == named["decoder.head.2.weight"].shape[0] == 3
    assert "decoder.upsamples.0.upsamples.0.residual.2.weight" not in named
    assert unlike("VAE", vae.config, COMFYUI_VAE) == []
    assert "z_dim 4 (there: 16), num_res_blocks 1" in unlike("VAE", random_base("wan21").config, COMFYUI_VAE)[0]


@pytest.mark.parametrize("dora", [True, False])
def test_a_lora_is_found_under_the_models_own_names(dora: bool) -> None:
    """`load_lora` asks for KEY.lora_up.weight, KEY.lora_down.weight and KEY.dora_scale, KEY being a weight's name."""
    base = random_transformer(4).state_dict()
    module = "blocks.1.attn2.to_out.0"
    width = base[f"{module}.weight"].shape[0]
    update = LayerUpdate(torch.randn(2, width), torch.randn(width, 2), torch.rand(width) if dora else None)
    tensors, _ = adapter_tensors(DitAdapter({module: update}, 3), "comfyui", base)
    key = "diffusion_model.blocks.1.cross_attn.o"
    assert key.removeprefix("diffusion_model.") + ".weight" in dit_names(2)
    assert tensors[f"{key}.lora_up.weight"].shape == (width, 2)
    assert tensors[f"{key}.lora_down.weight"].shape == (2, width)
    assert tensors.keys() - {f"{key}.lora_up.weight", f"{key}.lora_down.weight"} == (
        {f"{key}.dora_scale"} if dora else set()
    )
    if dora:  # its first side must be the layer's outputs: ComfyUI tells by it along which axis to divide
        assert tensors[f"{key}.dora_scale"].shape == (width, 1)
