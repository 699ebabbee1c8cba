"""Asked to make room, a run saves what it has and ends.

Slurm's preemption, a spot machine's notice and Kubernetes' eviction are all a signal and some seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from wan_alpha.training.checkpoints import PeriodicCheckpoint, last_checkpoint

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
TRY_AGAIN = 75
"""Exit code of a run that ended through no fault of its own: the same command goes on (EX_TEMPFAIL of sysexits.h)."""


class PreemptedError(RuntimeError):
    """A signal asked the run to end; its state is saved."""

    exit_code = TRY_AGAIN


class StopOnSignal(Callback):
    """After SIGTERM or SIGUSR1, write a checkpoint at the next step's end and stop with `PreemptedError`.

    One rank that was asked is enough.  The ranks agree by one integer a step, reduced on the CPU while the next step
    runs, so that all stop after the same step and none waits for its device.  Lightning's own answers are taken out:
    they save in the middle of a step (Slurm) and read a tensor back from the device in every step (several ranks).

    A job of a sweep on Slurm (submitit) has a third signal, SIGUSR2, and whichever comes, it is queued again:
    submitit's own answer is to do so at once, saving nothing.

    Args:
        checkpoint: what writes the run's checkpoints.
    """

    def __init__(self, checkpoint: PeriodicCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.received = 0
        self.group: Any = None
        self.asked: tuple[Any, torch.Tensor] | None = None
        self.submitit: tuple[int, Callable[[int, Any], Any]] | None = None  # its signal, and what it answers

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size > 1 and self.group is None:
            self.group = dist.new_group(backend="gloo")
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:  # Lightning, which has just set its own, puts back at the end what was before
                signal.signal(number, self._receive)
            if "SUBMITIT_EXECUTOR" in os.environ:
                number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
                theirs = signal.signal(number, self._receive)
                self.submitit = (number, theirs) if callable(theirs) else None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.submitit is not None:
            signal.signal(*self.submitit)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate() or trainer.global_step == trainer.max_steps:
            return
        number = self._agreed()
        if number:
            self.checkpoint.save_now(trainer)
            self.checkpoint.finish(trainer)
            words = self._words(trainer, number) if trainer.is_global_zero else ""
            if self.submitit is not None:
                log.warning("%s", words)
                self.submitit[1](self.submitit[0], None)  # queues the job again and exits, on the first rank
            raise PreemptedError(words)

    def _agreed(self) -> int:
        """The signal that any rank had received when the step before ended (a single rank: now), or 0."""
        if self.group is None:
            return self.received
        number = 0
        if self.asked is not None:
            work, answer = self.asked
            work.wait()
            number = int(answer)
        answer = torch.tensor(self.received)
        self.asked = (dist.all_reduce(answer, dist.ReduceOp.MAX, self.group, async_op=True), answer)
        return number

    @staticmethod
    def _words(trainer: pl.Trainer, number: int) -> str:
        return (
            f"stopped by {signal.Signals(number).name} after step {trainer.global_step}, which is saved in "
            f"{last_checkpoint(trainer.default_root_dir)}; the same command goes on from there"
        )
