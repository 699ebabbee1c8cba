"""The base that ships is whole, small, and a pipeline of plain diffusers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanPipeline

from wan_alpha import AlphaWanPipeline
from wan_alpha.models.assets import asset


def test_the_tiny_base_is_a_pipeline_of_plain_diffusers() -> None:
    pipeline = WanPipeline.from_pretrained(asset("tiny-wan"))
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    video = pipeline(
        "a parrot on a green background", height=64, width=64, num_frames=9, num_inference_steps=4, guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0), output_type="pt",
    ).frames  # fmt: skip
    assert video.shape == (1, 9, 3, 64, 64)
    corner = video[0, :, :, :6, :6].float().mean(dim=(0, 2, 3))
    assert corner[1] > 0.6  # the background is green, as asked for: the words arrive
    assert corner[0] < 0.4
    assert corner[2] < 0.4


def test_the_tiny_base_is_small() -> None:
    size = sum(file.stat().st_size for file in asset("tiny-wan").rglob("*") if file.is_file())
    assert size <= 40 * 10**6
    assert sum(f.stat().st_size for f in asset("tiny-dora").rglob("*") if f.is_file()) <= 5 * 10**6


def test_the_tiny_generator_makes_things_on_nothing() -> None:
    pipeline = AlphaWanPipeline.from_pretrained("tiny", "tiny")
    pipeline.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"num_frames": 9, "height": 64, "width": 64, "num_inference_steps": 8}
    videos = pipeline(["a beating heart", "a woman astronaut"], guidance_scale=4.0, seed=[0, 1], **arguments)
    for video in videos:
        alpha = video.alpha[0, 0]
        assert 0.1 < alpha.mean() < 0.8
        assert alpha[:, :4, :4].mean() < 0.2  # nothing in the corner
        assert alpha[:, 28:44, 24:40].mean() > 0.8  # something in the middle
