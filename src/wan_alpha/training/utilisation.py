"""Model FLOPs utilisation: how much of the device's peak the steps of a run use."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from wan_alpha.stages.stage import is_logged
from wan_alpha.training.flops import Flops
from wan_alpha.training.hardware import known_gpu


def device_peak(device: torch.device) -> float | None:
    """FLOPs per second of a device whose peak is known (`hardware.GPUS`), or None."""
    gpu = known_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if gpu is None else gpu.tflops * 1e12


class Utilisation(Callback):
    """Log `train/mfu` of each device, where its peak is known.

    The FLOPs of a batch are counted while the first one of its shape is computed (matrix products, convolutions,
    attention; not what checkpointing computes again).  Nothing waits for the device; validations are not counted as
    time.

    Attributes:
        flops: of a batch, by its shape.
    """

    def __init__(self) -> None:
        self.peak: float | None = None
        self.flops: dict[tuple[int, ...], int] = {}
        self._counter: Flops | None = None
        self._just_counted = False
        self._shape: tuple[int, ...] = ()
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.peak = device_peak(pl_module.device)
        self._restart()

    def _restart(self) -> None:
        self._since, self._done, self._paused = time.perf_counter(), 0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        self._shape = tuple(batch["latent" if "latent" in batch else "rgb"].shape)
        if self.peak is not None and self._shape not in self.flops:
            self._counter = Flops()
            self._counter.__enter__()

    def on_before_backward(self, *_: Any) -> None:
        if self._counter is not None:
            self._counter.backward = True

    def on_after_backward(self, *_: Any) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops[self._shape], self._counter, self._just_counted = self._counter.total, None, True

    def on_exception(self, *_: Any) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None

    def on_validation_start(self, *_: Any) -> None:
        self._validating = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        self._paused += time.perf_counter() - self._validating

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.peak is None:
            return
        if self._just_counted:  # that batch was slower than others
            self._just_counted = False
            self._restart()
            return
        self._done += self.flops[self._shape]
        if trainer.fit_loop._should_accumulate() or not is_logged(trainer, trainer.global_step):
            return
        seconds = time.perf_counter() - self._since - self._paused
        pl_module.log("train/mfu", self._done / seconds / self.peak)
        self._restart()
