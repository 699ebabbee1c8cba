"""TransPixeler on a tiny random CogVideoX: its weights file, its masked attention, its pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from wan_alpha.baselines.interface import Sampling, UnknownSystemError
from wan_alpha.baselines.paired_layers import attend
from wan_alpha.baselines.registry import Setting, load_generator
from wan_alpha.baselines.transpixeler import (
    PUBLISHED,
    TransPixelerGenerator,
    load_weights,
    pair_cogvideox,
    write_weights,
)
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import BaseError, SizeError

SAMPLING = Sampling(num_frames=9, height=16, width=16, steps=2, guidance=3.0)
TEXT = 6


def transformer(seed: int = 0, **changes: object) -> CogVideoXTransformer3DModel:
    sizes: dict = {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8,
        "text_embed_dim": 12, "num_layers": 2, "sample_width": 8, "sample_height": 8, "sample_frames": 5,
        "max_text_seq_length": TEXT, "use_rotary_positional_embeddings": True, "patch_size": 2,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CogVideoXTransformer3DModel(**sizes | changes).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CogVideoX with random weights in diffusers' layout."""
    root = tmp_path_factory.mktemp("cogvideox")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
            temporal_compression_ratio=4,
        )  # fmt: skip
        text = T5EncoderModel(T5Config(vocab_size=384, d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    parts = (ByT5Tokenizer(), text.eval(), vae.eval(), transformer(), CogVideoXDDIMScheduler())
    CogVideoXPipeline(*parts).save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the released form: every tensor has something to say."""
    file = tmp_path_factory.mktemp("weights") / "rgba_lora.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = {"domain_emb": torch.randn(1, 1, 32, generator=generator)}
    for n in range(2):
        for layer in ("to_q", "to_k", "to_v", "to_out.0"):
            for half, shape in (("A", (3, 32)), ("B", (32, 3))):
                name = f"transformer.transformer_blocks.{n}.attn1.{layer}.lora_{half}.weight"
                tensors[name] = torch.randn(shape, generator=generator)
    save_file(tensors, file)
    return file


def inputs(frames: int = 2) -> dict:
    generator = torch.Generator().manual_seed(2)
    tokens = frames * 4
    angles = torch.rand(tokens, 8, generator=generator).repeat_interleave(2, dim=1)
    return {
        "hidden_states": torch.randn(1, frames, 4, 4, 4, generator=generator),
        "encoder_hidden_states": torch.randn(1, TEXT, 12, generator=generator),
        "timestep": torch.tensor([300]),
        "image_rotary_emb": (angles.cos(), angles.sin()),
        "return_dict": False,
    }


def paired(plain: dict, other: torch.Tensor | None = None) -> dict:
    """Two halves at the same positions."""
    rgb = plain["hidden_states"]
    rotary = tuple(torch.cat([x, x]) for x in plain["image_rotary_emb"])
    both = torch.cat([rgb, rgb if other is None else other], dim=1)
    return plain | {"hidden_states": both, "image_rotary_emb": rotary}


def test_attention_with_a_blind_beginning_is_masked_attention() -> None:
    q, k, v = torch.randn(3, 1, 2, 7, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    mask = torch.ones(7, 7, dtype=torch.bool)
    mask[:3, 5:] = False
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(q, k, v, 3, 5), expected)


def test_text_does_not_see_alpha_and_lora_is_for_alpha_alone(weights: Path) -> None:
    plain, model = inputs(), transformer()
    assert load_weights(model, weights) == 3
    texts: list[torch.Tensor] = []
    hook = model.transformer_blocks[0].attn1.register_forward_hook(lambda *a: texts.append(a[-1][1]))
    one = model(**paired(plain, plain["hidden_states"] * 0))[0]
    two = model(**paired(plain, plain["hidden_states"] * 2))[0]
    hook.remove()
    assert torch.equal(texts[0], texts[1])
    assert (one[:, :2] - two[:, :2]).abs().max() > 1e-4  # RGB sees alpha
    # What text and RGB become in the first layer's projections is the base's.
    base_q = transformer().transformer_blocks[0].attn1.to_q
    x = torch.randn(1, TEXT + 16, 32)
    layer = model.transformer_blocks[0].attn1.to_q
    moved = layer(x) - base_q(x)
    assert torch.equal(moved[:, : TEXT + 8], torch.zeros_like(moved[:, : TEXT + 8]))
    file = load_file(weights)
    prefix = "transformer.transformer_blocks.0.attn1.to_q.lora_"
    expected = x[:, TEXT + 8 :] @ file[f"{prefix}A.weight"].T @ file[f"{prefix}B.weight"].T / 3
    torch.testing.assert_close(moved[:, TEXT + 8 :], expected, rtol=1e-4, atol=1e-5)
    embedded = model.patch_embed(plain["encoder_hidden_states"], paired(plain)["hidden_states"])
    twice = embedded[:, TEXT + 8 :] - embedded[:, TEXT : TEXT + 8]
    torch.testing.assert_close(twice, file["domain_emb"].expand_as(twice), rtol=1e-4, atol=1e-5)


def test_without_anything_learned_both_halves_see_what_one_would() -> None:
    plain, model = inputs(), transformer()
    expected = model(**plain)[0]
    pair_cogvideox(model, 2)
    # Video tokens see the video twice but text once: not quite the base, nor far from it.
    rgb, alpha = model(**paired(plain))[0].chunk(2, dim=1)
    torch.testing.assert_close(rgb, alpha)
    assert (rgb - expected).abs().max() < 0.5 * expected.abs().max()


def test_weights_round_trip_and_wrong_ones_are_refused(weights: Path, tmp_path: Path) -> None:
    model = transformer()
    trained = pair_cogvideox(model, 3)
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(load_file(weights)[name if name == "domain_emb" else f"transformer.{name}"])
    write_weights(trained, tmp_path / "mine.safetensors")
    mine, theirs = load_file(tmp_path / "mine.safetensors"), load_file(weights)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(t, theirs[n]) for n, t in mine.items())
    with pytest.raises(AdapterError, match="does not fit this CogVideoX: 8 names differ"):
        load_weights(transformer(num_layers=1), weights)
    save_file({n: t for n, t in theirs.items() if n != "domain_emb"}, tmp_path / "half.safetensors")
    with pytest.raises(AdapterError, match="domain_emb; is it TransPixeler's"):
        load_weights(transformer(), tmp_path / "half.safetensors")
    with pytest.raises(AdapterError, match="cannot be read"):
        load_weights(transformer(), tmp_path / "nothing.safetensors")
    with pytest.raises(BaseError, match="is for CogVideoX-5B"):
        load_weights(transformer(use_rotary_positional_embeddings=False), weights)


def test_the_published_model_generates_from_files(base: Path, weights: Path) -> None:
    setting = Setting("tiny", Sampling(9, 64, 64), torch.device("cpu"), asked=vars(SAMPLING))
    generator = load_generator(f"transpixeler={base},{weights}", setting)
    assert isinstance(generator, TransPixelerGenerator)
    assert generator.pipe.scheduler.config["timestep_spacing"] == "trailing"
    assert (generator.fps, PUBLISHED.num_frames, PUBLISHED.guidance) == (8.0, 49, 6.0)
    video = generator.generate("a disc", 0)
    assert video.shape == (9, 16, 16, 4)
    assert np.array_equal(video, generator.generate("a disc", 0))
    assert not np.array_equal(video, generator.generate("a disc", 1))
    # Alpha has noise of its own.
    assert np.abs(video[..., :3].astype(int).mean(-1) - video[..., 3]).max() > 0
    for argument, error, message in (
        (f"{base}", UnknownSystemError, "transpixeler=COGVIDEOX_DIR,WEIGHTS_FILE"),
        (f"nowhere/at/all,{weights}", BaseError, "no CogVideoX at 'nowhere/at/all'"),
        (f"{base},nowhere", AdapterError, "cannot be read"),
    ):
        with pytest.raises(error, match=message):
            load_generator(f"transpixeler={argument}", setting)
    odd = Setting("tiny", Sampling(9, 64, 64), torch.device("cpu"), asked={"height": 16, "width": 16, "num_frames": 5})
    with pytest.raises(SizeError, match=r"takes 1 \+ 8k frames with sides that are multiples of 16, not 5x16x16"):
        load_generator(f"transpixeler={base},{weights}", odd)
