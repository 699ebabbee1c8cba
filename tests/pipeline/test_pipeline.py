"""The pipeline on a small random base: merging changes nothing, seeds are per prompt, diffusers still works."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from PIL import Image
from sample_video import FAST, SIZE, agree, quiet
from small_world import random_dora, random_pipeline, random_vae_adapters
from torch import Tensor

from wan_alpha import AlphaWanPipeline
from wan_alpha.interop.official_vae import export_vae
from wan_alpha.interop.weights import write_weights
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import SizeError
from wan_alpha.models.codecs import AlphaCodec
from wan_alpha.models.image_condition import condition_latent
from wan_alpha.models.tiny_decoder import TinyDecoder
from wan_alpha.pipeline.image_to_video import ImageError, condition
from wan_alpha.pipeline.loading import PreviewError
from wan_alpha.pipeline.schedules import distilled_sigmas, explicit_sigmas
from wan_alpha.pipeline.video import Video

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


# ----- schedules -----------------------------------------------------------------------------------------------------


def test_other_kinds_of_output_are_refused(pipe: AlphaWanPipeline) -> None:
    with pytest.raises(ValueError, match="output_type='np': there are video and latent"):
        pipe("a parrot", **FAST, output_type="np")


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


# ----- a quick look, and the authors' files --------------------------------------------------------------------------


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
