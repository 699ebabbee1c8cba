"""A complete small base with adapters, and a video whose pixels are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_video import disc
from small_world import random_dora, random_pipeline, random_vae_adapters

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
def pipe(small_base: Path, small_adapters: Path) -> AlphaWanPipeline:
    """Merged; not to be changed."""
    pipe = AlphaWanPipeline.from_pretrained(small_base, small_adapters)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def video() -> Video:
    return disc()
