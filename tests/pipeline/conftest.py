"""A complete small base with adapters, and a video whose pixels are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from generate_calls import composed
from sample_video import disc
from small_world import random_dora, random_pipeline, random_vae_adapters

from wan_alpha.pipeline import generate
from wan_alpha.pipeline.config import GenerateConfig
from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.video import Video


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random WanPipeline in diffusers' layout."""
    return random_pipeline(tmp_path_factory.mktemp("small-base"))


@pytest.fixture(scope="session")
def small_adapters(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of both stages in one folder."""
    out = tmp_path_factory.mktemp("small-adapters")
    random_vae_adapters(small_base, out)
    random_dora(small_base, out / "t2v.safetensors")
    return out


@pytest.fixture(scope="session")
def distill(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA in LightX2V's names."""
    out = tmp_path_factory.mktemp("distill") / "lightx2v.safetensors"
    return random_dora(small_base, out, rank=2, prefix="diffusion_model.", magnitude=False, seed=9)


@pytest.fixture(scope="session")
def pipe(small_base: Path, small_adapters: Path) -> AlphaWanPipeline:
    """Merged; not to be changed."""
    pipe = AlphaWanPipeline.from_pretrained(small_base, small_adapters)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def video() -> Video:
    return disc()


@pytest.fixture
def config(small_base: Path, small_adapters: Path, tmp_path: Path) -> GenerateConfig:
    return composed(
        "base=path", "base.name=small", f"base.path={small_base}", f"adapters={small_adapters}", f"out={tmp_path}/out",
        "formats=[png]", "num_frames=5", "height=32", "width=32", "num_inference_steps=2", "guidance_scale=1",
    )  # fmt: skip


@pytest.fixture
def loaded(pipe: AlphaWanPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` has its pipeline already: loading takes most of the time of these tests."""
    monkeypatch.setattr(generate, "load", lambda config, console: pipe)
