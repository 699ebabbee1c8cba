"""What a step of stage=dit computes, and what its state is."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small_dit_base import CAPTIONS, TRANSFORMER, random_text, write_image_transformer
from small_world import random_base
from torch import Tensor

from wan_alpha.losses.draws import draw
from wan_alpha.losses.shifted_noise import noise_shift, object_masks, occupancy
from wan_alpha.losses.timesteps import TimestepError, Timesteps
from wan_alpha.models import codecs
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.codecs import AlphaCodec, Codec, ColourCodec
from wan_alpha.models.dit import load_scheduler, load_transformer, new_transformer
from wan_alpha.models.dit_adapters import add_dit_adapters
from wan_alpha.models.dora import FastDoraLinear
from wan_alpha.models.image_encoder import ImageEncoder
from wan_alpha.models.sampling import sample_latents
from wan_alpha.models.text import Prompts, TextEncoder, cut_padding
from wan_alpha.rendering import COLOURS
from wan_alpha.stages.dit import AlphaDiTModule, DiTSettings


def codec(kind: str = "alpha") -> Codec:
    if kind == "colour":
        return ColourCodec(random_base("wan22"))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AlphaCodec(AlphaVAE(random_base("wan22"), AdapterSpec(2, 2.0, "random")))


def module(adapter: str = "dora", seed: int = 0, kind: str = "alpha", **settings: Any) -> AlphaDiTModule:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        text = random_text()
        transformer = new_transformer(TRANSFORMER, 6, text.dim)
        with torch.no_grad():
            for parameter in transformer.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        if adapter != "full":
            add_dit_adapters(transformer, 2, 2.0, adapter)  # type: ignore[arg-type]
        chosen = DiTSettings(adapter=adapter, **({"fold_padding": True} | settings))  # type: ignore[arg-type]
        return AlphaDiTModule(transformer, text, codec(kind), chosen, lambda parameters: None, seed)  # type: ignore


def batch(count: int = 3, first: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(first)
    return {
        "rgb": torch.rand(count, 3, 5, 16, 16, generator=generator) * 2 - 1,
        "alpha": (torch.rand(count, 1, 5, 16, 16, generator=generator) * 1.4 - 0.2).clamp(0, 1),
        "background": COLOURS[[1, 2, 3][:count]],
        "caption": CAPTIONS[:count],
        "key": CAPTIONS[:count],
        "index": torch.arange(first, first + count),
    }


def step(dit: AlphaDiTModule, b: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(dit, "log_step", lambda values: None)
    monkeypatch.setattr(dit.levels, "log", lambda module: None)
    return dit.training_step(b, 0)


def test_a_step_is_the_paper_s_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    timesteps = Timesteps("logit_normal", shift=3.0, weighting="bell")
    dit, b = module(caption_dropout=0.0, timesteps=timesteps, fold_padding=False), batch()
    loss = step(dit, b, monkeypatch)
    vae = dit.codec.alpha_vae  # type: ignore[union-attr]
    z = vae.normalize(vae.encode(b["rgb"], b["alpha"], b["background"]))
    draws = draw(0, b["index"], tuple(z.shape[1:]))
    t = timesteps.sample(draws.u)
    s = t.view(-1, 1, 1, 1, 1)
    context = dit.text(b["caption"], pad_to=512).embeddings
    v = dit.transformer(s * draws.noise + (1 - s) * z, t * 1000, context, return_dict=False)[0]
    by_hand = (timesteps.weight(t) * (v - (draws.noise - z)).square().flatten(1).mean(1)).mean()
    torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in dit.trainable().values())
    assert any(p.grad.any() for p in dit.trainable().values() if p.grad is not None)


def test_the_loss_of_a_sample_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    b = batch(3, first=4)
    dit = module(caption_dropout=0.5)
    alone = []
    for n in range(3):
        one = {k: v[n : n + 1] for k, v in b.items()}
        alone.append(step(dit, one, monkeypatch))
    torch.testing.assert_close(torch.stack(alone).mean(), step(dit, b, monkeypatch), rtol=1e-4, atol=1e-5)
    assert step(module(caption_dropout=0.5, seed=1), b, monkeypatch) != step(dit, b, monkeypatch)


def test_stored_latents_and_embeddings_give_the_loss_of_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    dit, b = module(caption_dropout=0.5), batch(first=9)
    fresh = step(dit, b, monkeypatch)
    stored = {"latent": dit.codec.encode(b), "text": cut_padding(dit.text(b["caption"]))}
    kept = {k: b[k] for k in ("key", "index")}
    torch.testing.assert_close(step(dit, stored | kept, monkeypatch), fresh, rtol=1e-5, atol=1e-6)


def test_a_dropped_caption_is_the_empty_prompt() -> None:
    dit, b = module(), batch()
    some = dit.prompts(b, torch.tensor([False, True, False]))
    empty = dit.encode_prompts([""])
    torch.testing.assert_close(some.embeddings[1, :1], empty.embeddings[0, :1])
    assert some.lengths[1] == 1
    assert not torch.equal(some.embeddings[0, :1], empty.embeddings[0, :1])


def test_latents_of_another_base_are_refused() -> None:
    b = batch() | {"latent": torch.zeros(3, 16, 2, 2, 2)}
    with pytest.raises(ValueError, match="the latents have 16 channels, this base's have 6: encode them again"):
        module().latents(b)


def test_validation_has_its_own_fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def validate(dit: AlphaDiTModule) -> Tensor:
        monkeypatch.setattr(dit, "log", lambda *a, **k: None)
        monkeypatch.setattr(AlphaDiTModule, "global_step", 0)
        with torch.no_grad():
            return dit.validation_step(batch(), 0)["losses"]

    one, other_seed = validate(module(seed=0)), validate(module(seed=1))
    assert one.shape == (3, 5)
    assert torch.equal(one, other_seed)  # comparable between runs
    with pytest.raises(TimestepError, match=r"must lie in \(0, 1\)"):
        DiTSettings(validation_timesteps=(0.5, 1.0))
    with pytest.raises(TimestepError, match=r"0.5 is not in \[0.9, 1\], the noise levels that are trained"):
        DiTSettings(validation_timesteps=(0.95, 0.5), timesteps=Timesteps(range=(0.9, 1.0)))


@pytest.mark.parametrize("adapter", ["dora", "lora", "full"])
def test_the_state_is_what_is_trained_and_goes_back_in(adapter: str) -> None:
    dit, other = module(adapter), module(adapter)
    state = dit.state_dict()
    assert {id(p) for p in dit.parameters() if p.requires_grad} == {id(p) for p in dit.trainable().values()}
    changed = {name: t + 1 for name, t in state.items()}
    other.load_state_dict(changed)
    assert all(torch.equal(t, changed[name]) for name, t in other.state_dict().items())
    if adapter == "full":
        assert any(name.startswith("text_encoder.") for name in state)
    else:
        assert all(".lora_" in name for name in state)
        assert any("magnitude" in name for name in state) == (adapter == "dora")


def test_frozen_weights_are_known_by_their_fingerprint() -> None:
    dit, same, other = module(), module(), module()
    with torch.no_grad():
        for name, p in other.transformer.named_parameters():
            if name == "proj_out.bias":
                p.add_(1)
        next(iter(same.trainable().values())).add_(1)
    assert dit.base_fingerprint() == same.base_fingerprint()
    assert dit.base_fingerprint() != other.base_fingerprint()


def test_a_fresh_base_is_a_pipeline_of_plain_diffusers(tmp_path: Path) -> None:
    from diffusers import WanPipeline

    dit = module("full", kind="colour")
    dit.export(tmp_path, torch.float32)
    pipeline = WanPipeline.from_pretrained(tmp_path / "base")
    pipeline.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2}
    latents = pipeline("disc3", guidance_scale=3.0, output_type="latent", latents=start(), **arguments).frames
    shape = dit.codec.latent_shape(5, 16, 16)
    with torch.no_grad(), dit.sampling(["disc3"]) as model:
        ours = sample_latents(model, dit.scheduler, shape, [11], steps=2, guidance=3.0)
    torch.testing.assert_close(latents, ours, atol=1e-4, rtol=1e-4)  # the same sampler, folded padding and all
    assert load_scheduler(tmp_path / "base").config.flow_shift == dit.scheduler.config.flow_shift
    again = load_transformer(tmp_path / "base"), TextEncoder.from_pretrained(tmp_path / "base")
    assert torch.equal(again[0].proj_out.bias, dit.transformer.proj_out.bias)


def start() -> Tensor:
    """What `sample_latents` starts from with seed 11."""
    return torch.randn((1, 6, 2, 2, 2), generator=torch.Generator().manual_seed(11))


def test_samples_follow_from_their_own_seeds() -> None:
    dit = module()
    with torch.no_grad(), dit.sampling(["disc1", "disc2"]) as model:
        two = sample_latents(model, dit.scheduler, (6, 2, 2, 2), [3, 4], steps=2)
    with torch.no_grad(), dit.sampling(["disc2"]) as model:
        one = sample_latents(model, dit.scheduler, (6, 2, 2, 2), [4], steps=2)
    torch.testing.assert_close(two[1:], one, atol=1e-5, rtol=1e-4)


def test_what_clip_sees_of_the_first_frame_reaches_the_transformer(tmp_path: Path) -> None:
    transformer = load_transformer(write_image_transformer(tmp_path, clip=True))
    image = ImageEncoder.from_pretrained(tmp_path)
    settings = DiTSettings(task="i2v", fold_padding=True)
    dit = AlphaDiTModule(transformer, random_text(), codec(), settings, lambda p: None, image=image)  # type: ignore
    b, z, t = batch(), torch.randn(3, 6, 2, 2, 2), torch.full((3,), 0.5)
    fresh = dit.condition(b)
    assert fresh is not None
    assert fresh.features is not None
    stored = dit.condition({"condition": fresh.latent.half(), "image": fresh.features.half()})
    with torch.no_grad():
        velocities = [
            dit.velocity(z, t, dit.prompts(b), given)
            for given in (fresh, stored, fresh._replace(features=torch.zeros_like(fresh.features)))
        ]
    torch.testing.assert_close(velocities[1], velocities[0], atol=1e-2, rtol=1e-2)
    assert (velocities[2] - velocities[0]).abs().max() > 1e-3


def test_long_clips_are_encoded_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    c, b = codec(), batch()
    whole, taken = c.encode(b), []
    monkeypatch.setattr(codecs, "WHOLE_CLIP", 5 * 16 * 16 - 1)
    stream = AlphaVAE._encode_stream
    monkeypatch.setattr(AlphaVAE, "_encode_stream", lambda *a: taken.append(1) or stream(*a))
    torch.testing.assert_close(c.encode(b), whole, rtol=1e-4, atol=1e-4)
    assert taken


@pytest.mark.parametrize("kind", ["alpha", "colour"])
def test_codecs_give_what_can_be_shown(kind: str) -> None:
    c, b = codec(kind), batch()
    z = c.encode(b)
    assert tuple(z.shape[1:]) == c.latent_shape(5, 16, 16)
    rgb, alpha = c.decode(z)
    assert rgb.shape == b["rgb"].shape
    assert alpha.shape == b["alpha"].shape
    assert rgb.abs().max() <= 1
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    assert alpha.eq(1).all() == (kind == "colour")


def test_shifted_noise_follows_the_alpha_of_each_clip() -> None:
    dit, b = module(noise="shifted"), batch()
    plain = torch.zeros(3, 6, 2, 2, 2)
    expected = noise_shift(object_masks(b["alpha"], 8)).expand_as(plain)
    cells = torch.stack([occupancy(a, 8) for a in b["alpha"][:, 0]])[:, None]
    stored = [{"mask": object_masks(b["alpha"], 8), "latent": plain}, {"coverage": cells, "latent": plain}]
    for given in (b, *stored):
        torch.testing.assert_close(dit.noise(dit.on_before_batch_transfer(given, 0), plain), expected)
    assert torch.equal(module().noise(b, plain), plain)
    with pytest.raises(ValueError, match="needs the clips' alpha"):
        dit.on_before_batch_transfer({"latent": plain}, 0)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("settings", [{}, {"noise": "shifted"}, {"fold_padding": False}])
def test_a_step_does_not_wait_for_the_device(
    stored: bool, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that has no values, there is nothing to wait for: whoever reads one back, fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    dit, b = module(caption_dropout=0.5, **settings), batch(first=9)
    given = b  # captions and clips, encoded in the step
    if stored:
        given = b | {"text": cut_padding(dit.text(b["caption"])), "latent": dit.codec.encode(b)}
    dit._empty = Prompts(dit.empty_prompt().embeddings.to("meta"), dit.empty_prompt().lengths)  # of the first step
    dit.to("meta")
    squares = [layer._base_norm[1] for layer in dit.modules() if isinstance(layer, FastDoraLinear)]
    assert {square.device.type for square in squares} == {"meta"}  # what a copy from the host would not betray
    moved = dit.transfer_batch_to_device(dit.on_before_batch_transfer(given, 0), torch.device("meta"), 0)
    loss = step(dit, moved, monkeypatch)
    loss.backward()
    assert loss.device.type == "meta"
