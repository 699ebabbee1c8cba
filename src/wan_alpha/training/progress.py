"""One line that says where a run is: step, loss, quality, speed, time left."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.profilers import PassThroughProfiler
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wan_alpha.stages.stage import is_logged
from wan_alpha.training.strategies import data_share

MUCH_WAITING = 0.05
"""Share of time waiting for data that is said on the terminal."""


class DataWait(PassThroughProfiler):
    """Lightning's clock around the next batch: seconds that training stood still because it was not there yet."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self._began = 0.0, 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith(".train_dataloader_next"):
            self._began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(".train_dataloader_next"):
            self.seconds += time.perf_counter() - self._began


class StepProgress(ProgressBar):
    """A rich progress bar over optimiser steps; without a terminal, one plain line for each logged step.

    Logs `train/frames_per_second` since the start, and of this rank `train/data_wait`, the share of the time since the
    last line that training waited for its next batch (0 to 1).

    Args:
        num_frames: of a clip whose latent is all that a batch holds.
    """

    def __init__(self, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.console = Console()
        self.bar: Progress | None = None
        self.enabled = True
        self.frames_per_second = 0.0

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.started, self.first_step = time.perf_counter(), trainer.global_step
        self.paused, self.last_step = 0.0, self.first_step
        self.mark = (self.started, 0.0, self._waited(trainer))
        self.frames, self.ranks = 0, data_share(trainer)[1]
        if self.enabled and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("[bold]train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("train", total=trainer.max_steps, completed=trainer.global_step, figures="")
            self.bar.start()

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.validation_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking and hasattr(self, "paused"):
            self.paused += time.perf_counter() - self.validation_started

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        step = trainer.global_step
        self.frames += len(batch["key"]) * (batch["rgb"].shape[2] if "rgb" in batch else self.num_frames)
        if step == self.last_step:  # inside an accumulation
            return
        self.last_step = step
        if self.bar is not None:
            self.bar.update(self.task, completed=step)
        if not self.enabled or not is_logged(trainer, step):
            return
        elapsed = time.perf_counter() - self.started - self.paused
        self.frames_per_second = self.frames * self.ranks / max(elapsed, 1e-9)
        waiting = self._waiting_share(trainer)
        figures = f"loss {float(trainer.callback_metrics.get('train/loss', float('nan'))):.4f}"
        figures += f"  {self.frames_per_second:.1f} frames/s"
        figures += f"  waiting for data {waiting:.0%}" if waiting > MUCH_WAITING else ""
        if self.bar is not None:
            self.bar.update(self.task, figures=figures)
        else:
            rate = (step - self.first_step) / max(elapsed, 1e-9)
            left = (trainer.max_steps - step) / max(rate, 1e-9)
            self.console.print(f"step {step}/{trainer.max_steps}  {figures}  {left / 60:.1f} min left", highlight=False)
        trainer.lightning_module.log("train/frames_per_second", self.frames_per_second)
        trainer.lightning_module.log("train/data_wait", waiting)

    @staticmethod
    def _waited(trainer: pl.Trainer) -> float:
        profiler = trainer.profiler  # type: ignore[attr-defined]
        return profiler.seconds if isinstance(profiler, DataWait) else 0.0

    def _waiting_share(self, trainer: pl.Trainer) -> float:
        """Of the time since this was last asked, validations apart."""
        before, self.mark = self.mark, (time.perf_counter(), self.paused, self._waited(trainer))
        elapsed, paused, waited = (now - then for now, then in zip(self.mark, before, strict=True))
        return min(1.0, waited / max(elapsed - paused, 1e-9))

    def teardown(self, *_: Any, **__: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
