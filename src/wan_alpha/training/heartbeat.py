"""Several processes watch one another: one that is lost or stuck is named, and the run ends instead of hanging.

A thread of each rank writes every few seconds where it is into the store through which the ranks have found each other,
and rank 0 reads all of them.  Nothing of it happens in a step, and no device is waited for.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from torch.distributed.distributed_c10d import _set_pg_timeout, _world

from wan_alpha.command import said_by
from wan_alpha.training.pace import Pace
from wan_alpha.training.preemption import TRY_AGAIN, PreemptedError
from wan_alpha.training.watch import AGAIN, FINISHED, FOLLOWED, Beat, Verdict, Watch, patience

log = logging.getLogger(__name__)
LONGEST_INTERVAL = 2.0  # seconds between two signs of life
GRACE = 20.0  # seconds that the main thread has to end by itself once it knows why


class LostRankError(RuntimeError):
    """Another process of the run is gone or stuck."""

    def __init__(self, verdict: Verdict, aloud: bool) -> None:
        super().__init__(verdict.message if aloud else "")
        self.exit_code = TRY_AGAIN if verdict.again else 1


class Heartbeat(Callback):
    """End a run of several ranks when one of them is gone (`silence`) or none moves (`timeout`); say which.

    It must be the last of the callbacks.

    Args:
        pace: what measures this rank's speed.
        silence: seconds without a sign of life after which a rank is lost; a third of it brings a warning.
        timeout: seconds without any progress after which the run is stuck; also the limit of every communication.
    """

    def __init__(self, pace: Pace, silence: float, timeout: float) -> None:
        self.pace, self.silence, self.timeout = pace, silence, timeout
        self.interval = min(LONGEST_INTERVAL, silence / 10)
        self.beat = Beat(host=socket.gethostname())
        self.number = 0
        self.stopped = threading.Event()
        self.known = threading.Event()  # there is a verdict
        self.verdict = Verdict("", True)
        self.failing = False  # a communication has failed: somebody is gone
        self.store_lost = False
        self.contact = 0.0  # when the store last answered

    # --- where this rank is -------------------------------------------------------------------------------------------

    def _move(self, step: int, doing: str) -> None:
        own, whole = self.pace.speed
        self.beat = self.beat._replace(moves=self.beat.moves + 1, step=step, doing=doing, own=own, whole=whole)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._move(trainer.global_step, "computes")

    def on_before_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        self._move(trainer.global_step, "backward pass, where the ranks meet")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.pace.step_ends(trainer)
        self._move(trainer.global_step, "waits for data")

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        self._move(trainer.global_step, "saves")

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._move(trainer.global_step, "validates")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.pace.begin()
        self._move(trainer.global_step, "waits for data")

    # --- beginning and end --------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self.contact:
            return
        self.trainer, self.rank = trainer, trainer.global_rank
        limit_communications(self.timeout)
        _dismiss_observer()
        self.address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        # A connection of its own: the process group's is busy for as long as somebody waits for a key.
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            timeout=timedelta(seconds=self.silence),
            wait_for_workers=False,
        )
        self.store = dist.PrefixStore(f"wan_alpha/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        self._say()
        if self.rank == 0:
            self.store.set("verdict", "")
        trainer.strategy.barrier("heartbeat")
        self.contact = time.monotonic()
        for work in (self._exchange, self._look_after_store):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def on_train_end(self, *_: Any) -> None:
        if self.contact:
            self._leave(FINISHED, patience=self.silence)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say why this rank ends; if a communication has failed, find out whose fault that is.

        Raises:
            LostRankError: another rank is gone.
        """
        if not self.contact or self.stopped.is_set():
            return
        if not _is_of_communication(exception):
            planned = isinstance(exception, PreemptedError)
            self._leave(FINISHED if planned else _sentence(exception), patience=self.silence if planned else GRACE)
            return
        self.failing = True
        if self.known.wait(self.silence + 4 * self.interval):
            self._leave(FOLLOWED, patience=4 * self.interval)
            self._kill_children()
            raise LostRankError(self.verdict, self._speaks()) from exception

    def _leave(self, why: str, patience: float) -> None:
        """Stop watching; rank 0, which may hold the store, stays until the others have left, or `patience` is over."""
        self.stopped.set()
        self.beat = self.beat._replace(ended=why)
        if self.store_lost:
            return
        until = time.monotonic() + patience
        try:
            self._say()
            while self.rank == 0 and time.monotonic() < until and not all(b.ended for b in self._read_beats().values()):
                time.sleep(0.05)
        except RuntimeError:
            log.debug("the store is gone")

    # --- the threads --------------------------------------------------------------------------------------------------

    def _say(self) -> None:
        self.number += 1
        self.store.set(str(self.rank), self._numbered().pack())

    def _numbered(self) -> Beat:
        """The beat belongs to the main thread alone: two that change it would lose what one of them says."""
        return self.beat._replace(number=self.number)

    def _watched(self) -> list[int]:
        """Rank 0 watches all, for the others, and everybody watches rank 0."""
        return [r for r in range(self.trainer.world_size) if r != self.rank] if self.rank == 0 else [0]

    def _read_beats(self) -> dict[int, Beat]:
        ranks = self._watched()
        return dict(zip(ranks, map(Beat.unpack, self.store.multi_get([str(r) for r in ranks])), strict=True))

    def _exchange(self) -> None:
        # Only rank 0 sees all ranks: only it can tell that none of them moves.
        timeout = self.timeout if self.rank == 0 else math.inf
        watch = Watch([self.rank, *self._watched()], self.silence, timeout, time.monotonic())
        while not self.stopped.wait(self.interval):
            now = time.monotonic()
            if now - self.contact > 4 * self.interval:
                watch.forgive(now)  # it was this process that stood still
            try:
                self._say()
                beats = self._read_beats()
                told = self.store.get("verdict")
            except RuntimeError as error:  # torch's errors of stores and of networks
                self._store_is_gone(str(error).partition("\n")[0])
                return
            self.contact = time.monotonic()
            for rank, beat in (beats | {self.rank: self._numbered()}).items():
                watch.hear(rank, beat, now)
            self._act(watch, told, now)

    def _act(self, watch: Watch, told: bytes, now: float) -> None:
        for line in [*watch.warnings(now), *(watch.stragglers(now) if self.rank == 0 else [])]:
            log.warning("%s", line)
        verdict = watch.verdict(now, 4 * self.interval if self.failing else None)
        if told:
            verdict = Verdict(*json.loads(told))
        elif verdict is not None and self.rank == 0:
            self.store.set("verdict", json.dumps(verdict))
        if verdict is not None:
            self._conclude(verdict)

    def _store_is_gone(self, reason: str) -> None:
        if not self.stopped.is_set():
            self.store_lost = True
            what = f"rank 0 is lost, and with it the store at {self.address}: {reason}"
            self._conclude(Verdict(f"{what}. {AGAIN}", True, [0]))

    def _look_after_store(self) -> None:
        """A machine that is gone answers nothing, not even a refusal, and the other thread waits for it."""
        before, warned = time.monotonic(), False
        while not self.stopped.wait(self.interval):
            now = time.monotonic()
            if now - before > 4 * self.interval:
                self.contact = now  # it was this process that stood still
            before, quiet = now, now - self.contact
            silence = self.silence * patience(self.beat.moves)
            if quiet > silence:
                self._store_is_gone(f"no answer for {quiet:.0f} s. It was stopped, or its machine or network is gone")
            elif quiet > silence / 3 and not warned:
                log.warning("no answer for %.0f s from the store at %s, where rank 0 is", quiet, self.address)
            warned = quiet > silence / 3

    def _conclude(self, verdict: Verdict) -> None:
        """Tell the main thread, or end the process where that waits for a communication which never ends."""
        if self.known.is_set():
            return
        self.verdict = verdict
        self.known.set()
        if self.stopped.wait(GRACE if self.failing else 4 * self.interval):
            time.sleep(GRACE)  # it is ending by itself
        else:
            self._leave(FOLLOWED, patience=4 * self.interval)
        if self._speaks():
            print(f"error {verdict.message}", file=sys.stderr, flush=True)
        self._kill_children()
        os._exit(TRY_AGAIN if verdict.again else 1)

    def _speaks(self) -> bool:
        """One rank of each machine says why; all do if it is rank 0 that is lost."""
        return self.trainer.local_rank == 0 or 0 in self.verdict.ranks

    def _kill_children(self) -> None:
        """Those that Lightning has started: one that was stopped would never end."""
        launcher = self.trainer.strategy.launcher
        for process in getattr(launcher, "procs", []):
            process.send_signal(signal.SIGKILL)


def limit_communications(seconds: float) -> None:
    """Let no communication of any process group that this rank is in take longer: torch has limits of its own."""
    for group in list(_world.pg_map):
        _set_pg_timeout(timedelta(seconds=seconds), group)


def _is_of_communication(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(name in text for name in ("gloo", "NCCL", "ProcessGroup"))


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {said_by(error)}"


def _dismiss_observer() -> None:
    """Lightning kills a rank 0 whose children ended within seconds, without a word and before it has saved."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]
