"""Paired tokens on Wan: both halves start as the base, only alpha learns, and a run can be generated with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating.test_generators import run as evaluate
from small_dit import dit_inputs, random_dit
from small_dit_base import write_complete_base
from small_world import random_base
from training.launch import compose

from wan_alpha.baselines.interface import Sampling, UnknownSystemError
from wan_alpha.baselines.paired_tokens import PairedCodec, PairedSpec, load_paired, pair_tokens, save_paired
from wan_alpha.baselines.registry import Setting, load_generator
from wan_alpha.command import ConfigError
from wan_alpha.evaluating.generators import trained_pieces
from wan_alpha.evaluating.record import RecordError
from wan_alpha.lineage import described
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.codecs import ColourCodec
from wan_alpha.rendering import COLOURS, alpha_to_rgb, hard_render
from wan_alpha.training import run

SPEC = PairedSpec(rank=2, alpha=2.0)


def paired_inputs(dit: torch.nn.Module) -> tuple[dict, dict]:
    """Inputs of the base, and the same with two different halves."""
    plain = dit_inputs(dit, torch.float64)  # type: ignore[arg-type]
    z = plain["hidden_states"]
    return plain, plain | {"hidden_states": torch.cat([z, z.flip(3) * 0.7], dim=2)}


def disturb(parameters: dict[str, torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in parameters.values():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def test_two_equal_halves_are_the_base_twice() -> None:
    """Equal positions, no domain embedding yet, no LoRA yet: each key is there twice, which attention cannot see."""
    dit = random_dit(torch.float64)
    plain, _ = paired_inputs(dit)
    expected = dit(**plain, return_dict=False)[0]
    for spec in (SPEC, PairedSpec(2, 2.0, rgb_sees_alpha=False)):
        paired = random_dit(torch.float64)
        pair_tokens(paired, spec)
        z = plain["hidden_states"]
        found = paired(**plain | {"hidden_states": torch.cat([z, z], dim=2)}, return_dict=False)[0]
        for half in found.chunk(2, dim=2):
            torch.testing.assert_close(half, expected, rtol=0, atol=1e-10)


def test_what_is_learned_reaches_rgb_only_through_attention() -> None:
    plain, both = paired_inputs(random_dit(torch.float64))
    base = random_dit(torch.float64)(**plain, return_dict=False)[0]
    for sees in (False, True):
        dit = random_dit(torch.float64)
        disturb(pair_tokens(dit, PairedSpec(2, 2.0, rgb_sees_alpha=sees)))
        rgb, alpha = dit(**both, return_dict=False)[0].chunk(2, dim=2)
        assert torch.allclose(rgb, base, rtol=0, atol=1e-10) is not sees
        other = torch.cat([plain["hidden_states"] * 1.1, both["hidden_states"].chunk(2, dim=2)[1]], dim=2)
        changed = dit(**both | {"hidden_states": other}, return_dict=False)[0].chunk(2, dim=2)[1]
        assert (changed - alpha).abs().max() > 1e-3  # alpha always sees RGB


def test_the_domain_embedding_marks_alpha_and_gradients_reach_all_that_is_trained() -> None:
    dit = random_dit(torch.float64)
    parameters = pair_tokens(dit, SPEC)
    _, both = paired_inputs(dit)
    before = dit.patch_embedding(both["hidden_states"])
    with torch.no_grad():
        parameters["patch_embedding.lora_domain"].fill_(0.5)
    moved = dit.patch_embedding(both["hidden_states"]) - before
    assert torch.equal(moved[:, :, :3], torch.zeros_like(moved[:, :, :3]))
    torch.testing.assert_close(moved[:, :, 3:], torch.full_like(moved[:, :, 3:], 0.5))
    disturb(parameters)
    dit(**both, return_dict=False)[0].square().mean().backward()
    assert [n for n, p in parameters.items() if p.grad is None or not p.grad.any()] == []
    assert {n for n, p in dit.named_parameters() if p.grad is not None} == set(parameters)


def test_the_codec_keeps_colour_and_alpha_apart() -> None:
    vae = random_base("wan22")
    codec = PairedCodec(vae)
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 3, 5, 16, 16, generator=generator) * 2 - 1
    alpha = torch.rand(1, 1, 5, 16, 16, generator=generator)
    batch = {"rgb": rgb, "alpha": alpha, "background": COLOURS[[2]]}
    z = codec.encode(batch)
    assert tuple(z.shape[1:]) == codec.latent_shape(5, 16, 16)
    single = ColourCodec(vae)
    for half, picture in zip(
        z.chunk(2, dim=2), (hard_render(rgb, alpha, COLOURS[2]), alpha_to_rgb(alpha)), strict=True
    ):
        opaque = {"rgb": picture, "alpha": torch.ones_like(alpha), "background": COLOURS[[2]]}
        torch.testing.assert_close(half, single.encode(opaque), rtol=0, atol=1e-5)
    colour, found = codec.decode(z)
    grey = single.decode(z.chunk(2, dim=2)[1])[0]
    torch.testing.assert_close(colour, single.decode(z.chunk(2, dim=2)[0])[0])
    torch.testing.assert_close(found, (grey.max(1, keepdim=True).values + 1) / 2)


def test_files_come_back_and_others_are_refused(tmp_path: Path) -> None:
    dit = random_dit(torch.float64)
    disturb(pair_tokens(dit, SPEC))
    file = save_paired(dit, SPEC, tmp_path)
    again = random_dit(torch.float64)
    assert load_paired(again, tmp_path) == SPEC
    _, both = paired_inputs(again)
    assert torch.equal(dit(**both, return_dict=False)[0], again(**both, return_dict=False)[0])
    with pytest.raises(AdapterError, match="made for another base: ffn_dim: file 40, base 20"):
        load_paired(random_dit(ffn_dim=20), file)
    with pytest.raises(AdapterError, match=r"no paired_tokens.safetensors in .*model.adapter.kind=paired"):
        load_paired(random_dit(), tmp_path / "nothing")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(AdapterError, match="is damaged"):
        load_paired(random_dit(), file)


def test_a_run_trains_and_is_generated_with(clips: Path, tmp_path: Path) -> None:
    base, out = write_complete_base(tmp_path / "base"), tmp_path / "run"
    small = [
        "stage=dit", "base=path", f"base.path={base}", "data=clips", f"data.root={clips}", f"run_dir={out}",
        "data.size=[16,16]", "data.num_frames=5", "data.batch_size=2", "data.num_workers=0", "data.val_clips=1",
        "model.adapter.kind=paired", "model.adapter.rank=2", "model.variants=1", "model.samples.prompts=[disc1]",
        "model.samples.steps=2", "trainer.precision=32-true", "trainer.threads=1", "trainer.max_steps=3",
        "trainer.val_every_n_steps=3", "callbacks.progress=false",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"give model\.vae_adapters=null"):
        compose(*small)
    small.append("model.vae_adapters=null")
    for wrong, message in (("model.noise=shifted", "noise=plain"), ("plan=true", "plan=true does not know")):
        with pytest.raises(ConfigError, match=message):
            compose(*small, wrong)
    run.train(*compose(*small))
    assert "val/loss" in (out / "metrics.csv").read_text()
    assert list((out / "panels").glob("*.png"))
    setting = Setting(str(base), Sampling(5, 16, 16, steps=2, guidance=2.0), torch.device("cpu"))
    generator = load_generator(f"paired={out}", setting)
    video = generator.generate("disc1", 0)
    assert video.shape == (5, 16, 16, 4)
    assert np.array_equal(video, generator.generate("disc1", 0))
    assert not np.array_equal(video, generator.generate("disc1", 1))
    chain = json.loads((out / "lineage.json").read_text())
    assert described(trained_pieces(f"paired={out}"), [])["made"] == chain["made"]  # the run's own name for it
    with pytest.raises(UnknownSystemError, match="paired=RUN"):
        load_generator("paired", setting)
    (tmp_path / "prompts.json").write_text('{"p1": "disc1"}')
    measured = [
        "base=path", f"base.path={base}", f"generators.p=paired={out}", "sampling.num_frames=5", "sampling.height=16",
        "sampling.width=16", "sampling.num_inference_steps=1",
    ]  # fmt: skip
    facts = evaluate(tmp_path / "prompts.json", tmp_path / "measured", *measured)["facts"]["generators"]["p"]
    assert facts["trained"] == [piece["name"] for piece in chain["made"]]
    save_paired(random_dit(), PairedSpec(2, 2.0), out / "adapters")  # other weights in the same place
    with pytest.raises(RecordError, match=r"made otherwise: trained: \['dit-adapters-"):
        evaluate(tmp_path / "prompts.json", tmp_path / "measured", *measured)
