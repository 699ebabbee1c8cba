"""Fixtures that more than one room needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from small_world import random_base, write_clips

# A busy machine is no failure.
settings.register_profile("here", deadline=None)
settings.load_profile("here")


def pytest_configure(config: pytest.Config) -> None:
    """What torch compiled in an earlier run must not hide what it cannot compile now: each run of tests begins cold."""
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the directory of the process that starts them
        compiled = tempfile.TemporaryDirectory(prefix="wan-alpha-compiled-", ignore_cleanup_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled.name
        config.add_cleanup(compiled.cleanup)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are marked `gpu` are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="there is no CUDA GPU"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def wan21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random base of Wan2.1's form in diffusers' layout: DIR/vae."""
    return _saved("wan21", tmp_path_factory)


@pytest.fixture(scope="session")
def wan22(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random base of Wan2.2's residual, patchified form in diffusers' layout: DIR/vae."""
    return _saved("wan22", tmp_path_factory)


def _saved(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(architecture)
    random_base(architecture).save_pretrained(root / "vae")
    return root


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips of five frames at 20x20."""
    return write_clips(tmp_path_factory.mktemp("clips"), 9)
