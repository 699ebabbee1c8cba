"""The shipped base with the shipped adapters, out of the box."""

from __future__ import annotations

from pathlib import Path

from wan_alpha import AlphaWanPipeline


def test_a_prompt_becomes_a_thing_on_a_transparent_ground(tmp_path: Path) -> None:
    pipe = AlphaWanPipeline.from_pretrained("tiny", "tiny")
    pipe.set_progress_bar_config(disable=True)
    video = pipe("a parrot", num_frames=9, height=64, width=64, num_inference_steps=8, seed=0)
    corners = video.alpha[..., :6, :6].mean(), video.alpha[..., :6, -6:].mean()
    assert max(corners) < 0.15
    assert video.alpha[..., 20:50, 16:48].mean() > 0.5
    assert video.save(tmp_path / "parrot.mov").stat().st_size > 1000
