"""One line that says where a run is: step, loss, quality, speed, time left."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class StepProgress(ProgressBar):
    """A rich progress bar over optimiser steps; without a terminal, one plain line now and then.

    Args:
        frames_per_step: video frames that one optimiser step sees on each rank, for the throughput.
        every_n_steps: how often the host reads the loss back.
    """

    def __init__(self, frames_per_step: int, every_n_steps: int) -> None:
        super().__init__()
        self.frames_per_step = frames_per_step
        self.every_n_steps = every_n_steps
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
        self.frames_all_ranks = self.frames_per_step * trainer.world_size
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

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step == self.last_step:  # inside an accumulation
            return
        self.last_step = step
        if self.bar is not None:
            self.bar.update(self.task, completed=step)
        if not self.enabled or (step % self.every_n_steps and step != trainer.max_steps):
            return
        elapsed = time.perf_counter() - self.started - self.paused
        self.frames_per_second = (step - self.first_step) * self.frames_all_ranks / max(elapsed, 1e-9)
        figures = f"loss {float(trainer.callback_metrics.get('train/loss', float('nan'))):.4f}"
        figures += f"  {self.frames_per_second:.1f} frames/s"
        if self.bar is not None:
            self.bar.update(self.task, figures=figures)
        else:
            rate = (step - self.first_step) / max(elapsed, 1e-9)
            left = (trainer.max_steps - step) / max(rate, 1e-9)
            self.console.print(f"step {step}/{trainer.max_steps}  {figures}  {left / 60:.1f} min left", highlight=False)
        trainer.lightning_module.log("train/frames_per_second", self.frames_per_second)

    def teardown(self, *_: Any, **__: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
