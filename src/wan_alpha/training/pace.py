"""How long a rank works before it waits for the others: by this a slow one is told from those that wait for it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather
from torch.nn.parallel import DistributedDataParallel

RECENT = 20
"""Steps over which seconds are averaged."""


class Speed(NamedTuple):
    """Seconds of a rank's last steps, on average without the worst of them: to stall once is not to be slow."""

    own: float = 0.0  # until it was ready for the backward pass, in which ranks wait for one another
    step: float = 0.0  # in all


class TimedGather(DefaultAllGather):
    """FSDP2's own way to bring a unit's weights together; `seconds` grows by what the host waits for the others."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        work = super().__call__(*args, **kwargs)
        self.seconds += time.monotonic() - began
        return work


class Pace(Callback):
    """Measure this rank's `speed` on the host's clock; no device is waited for.

    Its own work is the next batch and the forward pass, less what the forward pass waits for other ranks.  It must be
    the first of the callbacks, for some of them wait for the device before the backward pass; whoever comes last calls
    `step_ends`, so that checkpoints, which only some ranks write, do not count.
    """

    def __init__(self) -> None:
        self.speed = Speed()
        self._own, self._steps = deque[float](maxlen=RECENT), deque[float](maxlen=RECENT)
        self._began = self._ready = math.inf
        self._gather = TimedGather()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        model = trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            # Buffers are the base's and never change: to send them makes all wait for the slowest in every forward.
            model.broadcast_buffers = False
        for unit in pl_module.modules():
            if isinstance(unit, FSDPModule):
                unit.set_custom_all_gather(self._gather)

    def on_before_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        # Of several accumulated batches the last counts: only after that do ranks meet.
        self._ready = time.monotonic() - self._gather.seconds

    def step_ends(self, trainer: pl.Trainer) -> None:
        """The last hook of a batch."""
        if trainer.fit_loop._should_accumulate():
            return
        now = time.monotonic()
        if self._began < now:
            self._own.append(self._ready - self._began)
            self._steps.append(now - self._began)
            self.speed = Speed(_without_worst(self._own), _without_worst(self._steps))
        self.begin()

    def begin(self) -> None:
        """From here on the time counts."""
        self._began, self._gather.seconds = time.monotonic(), 0.0


def _without_worst(seconds: Sequence[float]) -> float:
    return mean(sorted(seconds)[:-1] or [0.0])
