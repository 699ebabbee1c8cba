"""Runs on a GPU, where there is one: nothing waits for it, NCCL carries what ranks exchange, a killed run goes on."""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from launch import doomed, small, train
from pytorch_lightning.callbacks import Callback
from small_dit_base import write_complete_base
from test_resume import SIGKILL, rows

from wan_alpha.training import run

pytestmark = pytest.mark.gpu
WATCHED = range(3, 7)  # of eight steps: the first ones build caches, the last one is a row


class Waits(Callback):
    """Where the host waited for the device in the steps that are watched."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        torch.cuda.set_sync_debug_mode("warn" if index in WATCHED else "default")

    def note(self, message: Warning | str, *_: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            self.places.append("".join(traceback.format_stack()[-8:-1]))


class Backend(Callback):
    """What ranks exchange their tensors with."""

    def on_train_start(self, *_: Any) -> None:
        self.name = torch.distributed.get_backend()


def train_with(callback: Callback, *command: str) -> None:
    """A run that has one callback more."""
    build = run.build_callbacks
    with mock.patch.object(run, "build_callbacks", lambda *given: [*build(*given), callback]):
        train(*command)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_complete_base(tmp_path_factory.mktemp("complete"), adapters=True)


def of_stage(stage: str, base: Path, clips: Path, out: Path, trainer: str = "gpu") -> list[str]:
    """A small run of stage=vae or stage=dit on a GPU."""
    common = small(base, clips, out, f"trainer={trainer}", "trainer.devices=1")
    if stage == "vae":
        return [*common, "loss.weights.perceptual=1"]
    common = [option for option in common if not option.startswith(("model.lora", "loss.", "callbacks.lpips"))]
    return ["stage=dit", *common, f"model.vae_adapters={base}", "model.adapter.rank=2", "model.samples.prompts=[]",
            "data.val_clips=2"]  # fmt: skip


def losses(run_dir: Path) -> list[float]:
    """Of its six steps."""
    found = [float(row["train/loss"]) for row in rows(run_dir) if row["train/loss"]]
    assert len(found) == 6
    return found


@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_a_step_does_not_wait_for_the_gpu(stage: str, base: Path, clips: Path, tmp_path: Path) -> None:
    """Batch, step, gradients, optimiser and averages, of steps that are no row of metrics.csv."""
    waits, never = Waits(), ["trainer.log_every_n_steps=100", "trainer.val_every_n_steps=0"]
    with warnings.catch_warnings(), mock.patch.object(warnings, "showwarning", waits.note):
        warnings.simplefilter("always")
        train_with(waits, *of_stage(stage, base, clips, tmp_path / "run"), *never,
                   "trainer.max_steps=8", "trainer.checkpoint_every_n_steps=100")  # fmt: skip
    torch.cuda.set_sync_debug_mode("default")
    assert not waits.places, "\n\n".join(waits.places)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_one_rank_with_nccl_is_the_plain_run(
    stage: str, strategy: str, base: Path, clips: Path, tmp_path: Path
) -> None:
    backend = Backend()
    train(*of_stage(stage, base, clips, tmp_path / "plain"))
    train_with(backend, *of_stage(stage, base, clips, tmp_path / strategy, strategy))
    assert "nccl" in backend.name
    assert losses(tmp_path / strategy) == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)


@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_killed_and_continued_on_a_gpu(stage: str, base: Path, clips: Path, tmp_path: Path) -> None:
    """Sums on a GPU have no fixed order, and Adam makes steps of what rounding leaves where a gradient is 0: losses."""
    train(*of_stage(stage, base, clips, tmp_path / "whole"))
    command = of_stage(stage, base, clips, tmp_path / "killed")
    assert doomed("after the backward pass", 3, *command).code == SIGKILL
    train(*command)
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "whole"), rel=1e-2)
