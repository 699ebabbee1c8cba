"""The pipeline on a small random base: merging changes nothing, seeds are per prompt, diffusers still works."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from PIL import Image
from sample_video import SIZE
from small_world import random_dora, random_pipeline, random_vae_adapters
from torch import Tensor
from torch.testing import assert_close

from wan_alpha import AlphaVAE, AlphaWanPipeline
from wan_alpha.interop.adapter_files import find_adapters
from wan_alpha.interop.official_vae import export_vae
from wan_alpha.interop.weights import StoredWeights, write_weights
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import BaseError, SizeError
from wan_alpha.models.codecs import AlphaCodec
from wan_alpha.models.image_condition import condition_latent
from wan_alpha.models.tiny_decoder import TinyDecoder
from wan_alpha.pipeline.image_to_video import ImageError, condition
from wan_alpha.pipeline.loading import PreviewError
from wan_alpha.pipeline.schedules import distilled_sigmas, explicit_sigmas
from wan_alpha.pipeline.video import Video

FAST = {**SIZE, "num_inference_steps": 2, "guidance_scale": 1.0}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def quiet(pipe: AlphaWanPipeline) -> AlphaWanPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def agree(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    assert_close(a, b, rtol=0, atol=tolerance)


# ----- one call ------------------------------------------------------------------------------------------------------


def test_a_prompt_becomes_an_rgba_video(pipe: AlphaWanPipeline) -> None:
    video = pipe("a parrot", **FAST, seed=3)
    assert (video.rgb.shape, video.alpha.shape) == ((1, 3, 5, 32, 48), (1, 1, 5, 32, 48))
    assert video.rgb.abs().max() <= 1
    assert 0 <= video.alpha.min() < video.alpha.max() <= 1
    assert video.fps == 16
    assert video.metadata["prompt"] == "a parrot"
    assert torch.equal(pipe("a parrot", **FAST, seed=3).rgb, video.rgb)
    assert not torch.allclose(pipe("a parrot", **FAST, seed=4).rgb, video.rgb, atol=1e-2)
    assert not torch.allclose(pipe("fire", **FAST, seed=3).rgb, video.rgb, atol=1e-4)


def test_guidance_and_negative_prompt_matter(pipe: AlphaWanPipeline) -> None:
    guided = FAST | {"guidance_scale": 4.0}
    plain, negative = pipe("a parrot", **guided), pipe("a parrot", negative_prompt="fire", **guided)
    assert not torch.allclose(plain.rgb, pipe("a parrot", **FAST).rgb, atol=1e-3)
    assert not torch.allclose(plain.rgb, negative.rgb, atol=1e-4)


def test_a_seed_gives_the_same_video_alone_and_in_any_batch(pipe: AlphaWanPipeline) -> None:
    alone = pipe("fire", **FAST, seed=5)
    batch = pipe(["a parrot", "fire", "snow"], **FAST, seed=[1, 5, 2])
    assert [video.metadata["seed"] for video in batch] == [1, 5, 2]
    agree(batch[1].rgb, alone.rgb)
    agree(batch[1].alpha, alone.alpha)
    with pytest.raises(ValueError, match="2 seeds for 3 prompts"):
        pipe(["a", "b", "c"], **FAST, seed=[1, 2])


def test_what_is_cut_off_a_long_prompt_is_shown(pipe: AlphaWanPipeline, caplog: pytest.LogCaptureFixture) -> None:
    """Of every prompt, at the limit that holds; this base's tokenizer takes bytes."""
    with caplog.at_level(logging.WARNING):
        pipe(["a parrot", "a parrot and a cat"], negative_prompt=["fog", "fog"], max_sequence_length=16, **FAST)
    assert caplog.messages == ["a prompt of 19 tokens was cut to 16; lost is: ...cat"]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        pipe("x", negative_prompt="y" * 511 + "THE END", **FAST)
        pipe("x" * 511, **FAST)
    assert caplog.messages == ["a prompt of 519 tokens was cut to 512; lost is: ...THE END"]


def test_metadata_is_that_of_each_video(pipe: AlphaWanPipeline) -> None:
    guided = FAST | {"guidance_scale": 2.0}
    batch = pipe(["a parrot", "fire"], negative_prompt=["grey", "snow"], **guided)
    assert [video.metadata["negative_prompt"] for video in batch] == ["grey", "snow"]
    drawn = pipe("a parrot", **FAST, generator=torch.Generator().manual_seed(3))
    assert drawn.metadata["seed"] is None
    agree(drawn.rgb, pipe("a parrot", **FAST, seed=3).rgb, 1e-6)
    with pytest.raises(ValueError, match="a seed and a generator"):
        pipe("a parrot", **FAST, seed=3, generator=torch.Generator())
    with pytest.raises(ValueError, match="1 negative prompts for 2 prompts"):
        pipe(["a", "b"], negative_prompt=["c"], **FAST)


def test_several_videos_of_a_prompt_and_a_tuple_as_in_diffusers(pipe: AlphaWanPipeline) -> None:
    (videos,) = pipe(["a parrot", "fire"], **FAST, seed=[4, 9], num_videos_per_prompt=2, return_dict=False)
    assert [(v.metadata["prompt"], v.metadata["seed"]) for v in videos] == [
        ("a parrot", 4), ("a parrot", 5), ("fire", 9), ("fire", 10),
    ]  # fmt: skip
    agree(videos[3].rgb, pipe("fire", **FAST, seed=10).rgb)
    assert len(pipe("fire", **FAST, num_videos_per_prompt=2)) == 2
    embeds, _ = pipe.encode_prompt(["a parrot", "fire"], do_classifier_free_guidance=False, max_sequence_length=512)
    agree(pipe(prompt_embeds=embeds, **FAST, seed=[4, 10])[1].rgb, videos[3].rgb)


def test_frame_counts_are_rounded_with_a_notice(pipe: AlphaWanPipeline, caplog: pytest.LogCaptureFixture) -> None:
    assert [pipe.round_frames(n) for n in (1, 2, 5, 6, 8, 80, 81)] == [1, 1, 5, 5, 9, 81, 81]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert pipe("x", **FAST | {"num_frames": 6}).rgb.shape[2] == 5
    assert "num_frames=6 is not 1 + 4k; making 5 frames" in caplog.text
    with pytest.raises(ValueError, match="num_frames=0: at least 1"):
        pipe.round_frames(0)


def test_sizes_the_base_cannot_take_are_refused(pipe: AlphaWanPipeline) -> None:
    with pytest.raises(SizeError, match="40 x 48; this base takes multiples of 16, for example 32 x 48"):
        pipe("x", **FAST | {"height": 40})


# ----- merging -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distill(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA in LightX2V's names."""
    out = tmp_path_factory.mktemp("distill") / "lightx2v.safetensors"
    return random_dora(small_base, out, rank=2, prefix="diffusion_model.", magnitude=False, seed=9)


@pytest.mark.parametrize("stacked", [False, True])
def test_merged_equals_unmerged(small_base: Path, small_adapters: Path, distill: Path, stacked: bool) -> None:
    more = {"distill": distill} if stacked else {}
    merged = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, **more))
    apart = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, merge=False, **more))
    ours, theirs = (p("a parrot", **FAST, seed=1) for p in (merged, apart))
    agree(ours.rgb, theirs.rgb)
    agree(ours.alpha, theirs.alpha)
    base = WanTransformer3DModel.from_pretrained(small_base, subfolder="transformer")
    assert count(merged.transformer) == count(base) < count(apart.transformer)
    assert [n for n, _ in merged.transformer.named_modules()] == [n for n, _ in base.named_modules()]


def test_a_base_is_folded_as_it_is_stored_and_cast_afterwards(small_base: Path, small_adapters: Path) -> None:
    """In bf16 as in float32: rounding the base first would be rounding twice."""
    pipe = AlphaWanPipeline.from_pretrained(small_base, small_adapters, dtype=torch.bfloat16, vae_dtype=torch.bfloat16)
    exact = AlphaWanPipeline.from_pretrained(small_base, small_adapters)
    for mine, whole in ((pipe.transformer, exact.transformer), (pipe.vae.alpha_decoder, exact.vae.alpha_decoder)):
        weights = whole.state_dict()
        cast = {name: weight for name, weight in mine.state_dict().items() if weight.dtype == torch.bfloat16}
        assert len(cast) > 10
        for name, weight in cast.items():
            assert torch.equal(weight, weights[name].bfloat16()), name


def test_weights_in_several_files_are_found_by_the_index(small_base: Path, tmp_path: Path) -> None:
    model = WanTransformer3DModel.from_pretrained(small_base, subfolder="transformer")
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    stored = StoredWeights(tmp_path / "parts")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(stored[name], weight) for name, weight in model.state_dict().items())
    assert len(StoredWeights(tmp_path)) == 0


def test_every_adapter_matters(small_base: Path, small_adapters: Path, distill: Path, pipe: AlphaWanPipeline) -> None:
    """Else the tests above could pass with adapters that are dropped."""
    full = pipe("a parrot", **FAST)
    distilled = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, distill=distill))
    plain = quiet(AlphaWanPipeline.from_pretrained(small_base, [small_adapters.parent / small_adapters.name]))
    assert torch.equal(plain("a parrot", **FAST).rgb, full.rgb)
    sigmas = [1.0, 0.5]
    assert not torch.allclose(
        distilled("a", **FAST, sigmas=sigmas).rgb, pipe("a", **FAST, sigmas=sigmas).rgb, atol=1e-3
    )
    assert not torch.allclose(full.rgb.mean(1), full.alpha[:, 0] * 2 - 1, atol=1e-2)


def test_merged_decoders_are_those_of_the_unmerged_vae(
    small_base: Path, small_adapters: Path, pipe: AlphaWanPipeline
) -> None:
    vae = AlphaVAE.from_pretrained(small_base, small_adapters)
    z = torch.randn(1, 4, 3, 4, 6)
    rgb, alpha = vae.decode(z)
    ours = pipe.vae.decode(z)
    agree(ours[0], rgb.clamp(-1, 1), 1e-5)
    agree(ours[1], alpha.clamp(0, 1), 1e-5)
    shared = {id(p) for p in pipe.vae.alpha_vae.base.decoder.parameters()}
    own = [n for n, p in pipe.vae.alpha_decoder.named_parameters() if id(p) not in shared]
    assert own
    assert all(name.endswith("weight") for name in own)  # norms and biases are held once


def test_plain_diffusers_loras_go_on_top_of_a_merged_pipeline(
    small_base: Path, small_adapters: Path, distill: Path
) -> None:
    pipe = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters))
    before = pipe("a", **FAST).rgb
    pipe.load_lora_weights(str(distill), adapter_name="style")
    assert not torch.allclose(pipe("a", **FAST).rgb, before, atol=1e-3)
    pipe.delete_adapters("style")
    agree(pipe("a", **FAST).rgb, before, 1e-6)


# ----- schedules -----------------------------------------------------------------------------------------------------


def test_distilled_schedule_is_explicit() -> None:
    assert [round(1000 * s, 1) for s in distilled_sigmas()] == [1000.0, 937.5, 833.3, 625.0]
    with pytest.raises(ValueError, match="at least 1"):
        distilled_sigmas(0)


@pytest.mark.parametrize("kind", ["base", "euler"])
def test_a_distilled_pipeline_takes_its_four_steps_with_any_scheduler(
    small_base: Path, small_adapters: Path, distill: Path, kind: str
) -> None:
    more = {} if kind == "base" else {"scheduler": FlowMatchEulerDiscreteScheduler(shift=1.0)}
    pipe = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, distill=distill, **more))
    seen: list[float] = []

    def note(_: object, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(round(float(timestep), 1))
        return tensors

    video = pipe("a", **SIZE, callback_on_step_end=note)
    assert seen == [1000.0, 937.5, 833.3, 625.0]
    assert (video.metadata["steps"], video.metadata["guidance_scale"]) == (4, 1.0)
    assert "set_timesteps" not in vars(pipe.scheduler)  # the scheduler is the base's again


def test_explicit_levels_end_at_zero_and_must_fall(pipe: AlphaWanPipeline) -> None:
    with explicit_sigmas(pipe.scheduler, [1.0, 0.4]):
        pipe.scheduler.set_timesteps(50)
        assert pipe.scheduler.sigmas.tolist() == pytest.approx([1.0, 0.4, 0.0])
    for wrong in ([], [0.5, 0.5], [0.4, 0.9], [1.1, 0.5], [0.5, 0.0]):
        with pytest.raises(ValueError, match="noise levels fall"), explicit_sigmas(pipe.scheduler, wrong):
            pass


def test_shift_is_the_calls_own(pipe: AlphaWanPipeline) -> None:
    before = pipe.scheduler.config.flow_shift
    shifted = pipe("a", **FAST, shift=8.0)
    assert pipe.scheduler.config.flow_shift == before
    assert not torch.allclose(shifted.rgb, pipe("a", **FAST).rgb, atol=1e-3)


# ----- what diffusers' pipeline can do -------------------------------------------------------------------------------


def test_latents_are_those_of_plain_diffusers_with_the_merged_transformer(
    small_base: Path, pipe: AlphaWanPipeline
) -> None:
    plain = WanPipeline.from_pretrained(small_base, transformer=pipe.transformer)
    plain.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(2)
    expected = plain("a parrot", **FAST, generator=generator, output_type="latent").frames
    agree(pipe("a parrot", **FAST, seed=2, output_type="latent"), expected, 1e-6)


def test_callbacks_may_change_latents_and_interrupt(pipe: AlphaWanPipeline) -> None:
    def stop(p: AlphaWanPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        p._interrupt = True
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = pipe("a", **FAST, callback_on_step_end=stop, output_type="latent")
    assert not latents.any()


def test_other_schedulers(small_base: Path, small_adapters: Path) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, scheduler=scheduler))
    assert isinstance(pipe("a", **FAST, shift=5.0), Video)
    assert pipe.scheduler.shift == 3.0


def test_offload_hook_runs_before_decoding(pipe: AlphaWanPipeline) -> None:
    """Model offloading moves a component in by its hook; our decoders are reached without `forward`."""
    calls: list[torch.nn.Module] = []

    class Hook:
        def pre_forward(self, module: torch.nn.Module) -> None:
            calls.append(module)

    pipe.vae._hf_hook = Hook()
    try:
        list(pipe.vae.stream(torch.randn(1, 4, 1, 4, 4)))
        pipe.vae.encode(torch.zeros(1, 3, 1, 16, 16), torch.zeros(1, 1, 1, 16, 16))
    finally:
        del pipe.vae._hf_hook
    assert calls == [pipe.vae, pipe.vae]


# ----- a quick look, and the authors' files ---------------------------------------------------------------------------


def test_a_preview_file_decodes_the_same_latents(
    small_base: Path, small_adapters: Path, pipe: AlphaWanPipeline, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tiny = TinyDecoder(4, (8, 6, 5, 4), channels=4)
    write_weights(tmp_path / "tiny.safetensors", tiny.state_dict())
    quick = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, preview=tmp_path / "tiny.safetensors"))
    video = quick("a", **FAST)
    latents = pipe("a", **FAST, output_type="latent")
    pictures = torch.cat(list(tiny.stream(latents)), dim=2)
    agree(video.rgb, 2 * pictures[:, :3] - 1)
    agree(video.alpha, pictures[:, 3:])
    assert video.metadata["preview"] == "tiny.safetensors"
    for name in ("absent.safetensors", "note.txt"):
        with pytest.raises(PreviewError, match=name):
            AlphaWanPipeline.from_pretrained(small_base, small_adapters, preview=tmp_path / name)
    with pytest.raises(PreviewError, match=r"no TAEHV decoder.*taew2_1"):
        AlphaWanPipeline.from_pretrained(small_base, small_adapters, preview=small_adapters / "t2v.safetensors")


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_the_authors_files_are_adapters_as_they_are(
    small_base: Path, small_adapters: Path, tmp_path: Path, pipe: AlphaWanPipeline, suffix: str
) -> None:
    """What the documented command for their release gives to `adapters=`."""
    vae = tmp_path / f"Wan-Alpha-VAE{suffix}"
    write_weights(vae, export_vae(small_base, small_adapters))
    theirs = quiet(AlphaWanPipeline.from_pretrained(small_base, [vae, small_adapters / "t2v.safetensors"]))
    video, expected = theirs("a", **FAST), pipe("a", **FAST)
    agree(video.rgb, expected.rgb, 1e-5)
    agree(video.alpha, expected.alpha, 1e-5)
    with pytest.raises(AdapterError, match="the base is not the one this checkpoint was trained on"):
        AlphaWanPipeline.from_pretrained(random_pipeline(tmp_path / "other", seed=5), [vae])
    (tmp_path / f"damaged{suffix}").write_bytes(b"no weights")
    with pytest.raises(AdapterError, match="is damaged or no weight file"):
        AlphaWanPipeline.from_pretrained(small_base, tmp_path / f"damaged{suffix}")


# ----- image to video ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def i2v(tmp_path_factory: pytest.TempPathFactory) -> AlphaWanPipeline:
    """A base whose transformer takes noise (4), mask (4) and the first frame's latent (4)."""
    root = random_pipeline(tmp_path_factory.mktemp("i2v"), in_channels=12)
    adapters = root / "adapters"
    random_vae_adapters(root, adapters)
    random_dora(root, adapters / "t2v.safetensors")
    return quiet(AlphaWanPipeline.from_pretrained(root, adapters))


def test_first_frame_decides_the_video(i2v: AlphaWanPipeline, tmp_path: Path) -> None:
    red, clear = Image.new("RGBA", (48, 32), "red"), Image.new("RGBA", (90, 60), (255, 0, 0, 0))
    red.save(tmp_path / "red.png")
    videos = [i2v("a", **FAST, image=image) for image in (tmp_path / "red.png", clear, red)]
    assert torch.equal(videos[0].rgb, videos[2].rgb)
    assert not torch.allclose(videos[0].rgb, videos[1].rgb, atol=1e-3)  # only alpha differs between the pictures
    given = condition(i2v, red, 5, 32, 48)
    assert given is not None
    assert given.latent.shape == (1, 8, 2, 4, 6)
    assert given.latent[:, :4, 0].min() == 1
    assert not given.latent[:, :4, 1:].any()
    # The same condition as in training.
    rgb, alpha = torch.zeros(1, 3, 5, 32, 48), torch.ones(1, 1, 5, 32, 48)
    rgb[:, 0], rgb[:, 1:] = 1, -1
    trained = condition_latent(
        AlphaCodec(i2v.vae.alpha_vae), {"rgb": rgb, "alpha": alpha, "background": torch.tensor([[1.0, -1.0, 1.0]])}
    )
    agree(given.latent[:, 4:], trained, 1e-5)
    batch = i2v(["a", "b"], **FAST, image=red)
    agree(batch[0].rgb, videos[0].rgb)


def test_images_and_bases_that_do_not_go_together(
    pipe: AlphaWanPipeline, i2v: AlphaWanPipeline, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="makes videos from text only"):
        pipe("a", **FAST, image=Image.new("RGBA", (8, 8)))
    with pytest.raises(ImageError, match="makes videos from an image: give one"):
        i2v("a", **FAST)
    (tmp_path / "no.png").write_text("no picture")
    for name in ("no.png", "absent.png"):
        with pytest.raises(ImageError, match=f"{name}: cannot be read"):
            i2v("a", **FAST, image=tmp_path / name)


# ----- what does not fit ---------------------------------------------------------------------------------------------


def test_missing_bases_say_where_to_get_one_and_how_large_it_is(wan21: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"has no transformer, text_encoder, tokenizer, scheduler.*hf download .*29 GB"):
        AlphaWanPipeline.from_pretrained(wan21, None)
    with pytest.raises(BaseError, match="no known name"):
        AlphaWanPipeline.from_pretrained(tmp_path / "nowhere", None)


def test_a_known_base_that_cannot_be_fetched_is_named_with_its_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseError, match=r"'wan2\.1-14b', about 80 GB, cannot be loaded from Wan-AI/.*`hf download"):
        AlphaWanPipeline.from_pretrained("wan2.1-14b", None)
    assert "80 GB, is fetched from the hub" in caplog.text


def test_adapters_that_do_not_fit(small_base: Path, small_adapters: Path, tmp_path: Path) -> None:
    other = random_pipeline(tmp_path / "other", added_kv_proj_dim=24, image_dim=8)
    dora = random_dora(other, tmp_path / "dora.safetensors")
    assert AlphaWanPipeline.from_pretrained(small_base, [small_adapters, dora])  # extra image layers only
    with pytest.raises(AdapterError, match=r"does not exist; expected adapters\.json"):
        AlphaWanPipeline.from_pretrained(small_base, tmp_path / "nowhere")
    with pytest.raises(AdapterError, match="holds neither"):
        AlphaWanPipeline.from_pretrained(small_base, tmp_path)
    with pytest.raises(AdapterError, match="do not fit the base"):
        AlphaWanPipeline.from_pretrained(small_base, [small_adapters, dora_of(tmp_path, small_base)])


def dora_of(tmp_path: Path, base: Path) -> Path:
    """A DoRA that speaks of a block that the small bases do not have."""
    out = random_dora(base, tmp_path / "deep.safetensors", prefix="")
    from safetensors.torch import load_file

    write_weights(out, {key.replace("blocks.1.", "blocks.7."): t for key, t in load_file(out).items()})
    return out


def test_a_run_of_stage_dit_brings_the_vae_adapters_it_was_trained_with(small_adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "pytorch_lora_weights.safetensors").touch()
    with pytest.raises(AdapterError, match="hold nothing for the VAE"):
        find_adapters(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": {"vae_adapters": str(small_adapters)}}))
    found = find_adapters(tmp_path)
    assert found.vae == small_adapters
    assert found.dit == tmp_path / "adapters" / "pytorch_lora_weights.safetensors"
    assert find_adapters([small_adapters, tmp_path]).dit == found.dit


def test_without_dit_adapters_it_says_so(small_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random_vae_adapters(small_base, tmp_path)
    with caplog.at_level(logging.WARNING):
        AlphaWanPipeline.from_pretrained(small_base, tmp_path)
    assert "no adapters of the DiT" in caplog.text
