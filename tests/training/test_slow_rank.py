"""A rank that really is slow is named, the others wait for it, and nothing ends or hangs."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch.distributed as dist
from launch import small, train
from ranks import Ranks
from test_lost_ranks import PATIENCE, WATCHED, steps
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wan_alpha.stages.vae import AlphaVAEModule
from wan_alpha.training import pace as pace_module
from wan_alpha.training import run
from wan_alpha.training.checkpoints import AtomicCheckpointIO, last_checkpoint
from wan_alpha.training.ema import AdapterEMA
from wan_alpha.training.heartbeat import Heartbeat
from wan_alpha.training.pace import Pace
from wan_alpha.training.preemption import TRY_AGAIN
from wan_alpha.training.watch import Beat, Watch


class Slowed(threading.Thread):
    """Takes most of a process's time away, bit by bit, as other work does or too hot a processor."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.over = pid, threading.Event()

    def __enter__(self) -> Slowed:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            time.sleep(0.1)
            os.kill(self.pid, signal.SIGCONT)
            time.sleep(0.02)


class Words:
    """What a rank has said so far."""

    def __init__(self, ranks: Ranks, rank: int) -> None:
        self.ranks, self.rank, self.all = ranks, rank, [""] * len(ranks.processes)

    @property
    def text(self) -> str:
        return self.all[self.rank]

    def read(self) -> list[str]:
        self.all = [before + new for before, new in zip(self.all, self.ranks.said(), strict=True)]
        return self.all

    def until(self, condition: Callable[[str], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition(self.text):
            assert time.monotonic() < end, f"in vain: {what}; said: {self.all}"
            assert self.ranks.processes[0].exitcode is None, f"ended before: {what}; said: {self.all}"
            self.read()
            time.sleep(0.1)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_slow_rank_is_named_and_waited_for(strategy: str, wan22: Path, clips: Path, tmp_path: Path) -> None:
    command = small(wan22, clips, tmp_path, *WATCHED, "trainer.devices=2", "trainer.heartbeat_s=12")
    endless = ["trainer.max_steps=100000", "trainer.checkpoint_every_n_steps=100000", "model.merge.residual_blocks=1"]
    ranks = Ranks(2, *command, *endless, f"trainer.strategy={strategy}")
    words = Words(ranks, 0)
    try:
        words.until(lambda _: steps(tmp_path) > 2, "steps")
        slow = ranks.processes[1].pid
        assert slow is not None
        with Slowed(slow):
            words.until(lambda text: "is slow, and all wait for it" in text, "a warning")
            reached = steps(tmp_path)
            words.until(lambda _: steps(tmp_path) > reached, "steps with a slow rank")
        words.until(lambda text: re.search(r"rank 1 on \S+ keeps up with the others again", text), "its return")
        os.kill(slow, signal.SIGTERM)
        assert ranks.wait(PATIENCE).codes == [TRY_AGAIN] * 2
    finally:
        ranks.kill()
    line = r"rank 1 on \S+ is slow, and all wait for it: [\d.]+ s of a step of [\d.]+ s pass until it is ready"
    assert len(re.findall(line, words.text)) == 1
    assert "rank 0 on" not in words.text
    assert words.read()[1].count("is slow") == 0  # rank 0 speaks for all
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint is not None
    assert int(checkpoint.stem[-8:]) == steps(tmp_path)  # nothing is lost


# --- the measure --------------------------------------------------------------------------------------------------


def test_what_counts_as_a_ranks_own_work(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of two accumulated batches; no validation, no checkpoint, no single stall.  On a clock of its own."""
    paces: list[Pace] = []
    monkeypatch.setattr(run, "Heartbeat", lambda pace, *rest: paces.append(pace) or Heartbeat(pace, *rest))
    clock = [0.0]
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def takes(owner: type, name: str, *seconds: float) -> None:
        """One after the other, the last for ever."""
        original, left = getattr(owner, name), iter(seconds[:-1])

        def slower(*args: Any, **kwargs: Any) -> Any:
            clock[0] += next(left, seconds[-1])
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, slower)

    takes(AlphaVAEModule, "training_step", 0.1, 0.1, 0.1, 60.1, 0.1)
    takes(AdapterEMA, "on_train_batch_end", 0.025)
    takes(AlphaVAEModule, "validation_step", 100.0)
    takes(AtomicCheckpointIO, "save_checkpoint", 1000.0)
    halves = ["data.batch_size=1", "trainer.accumulate_grad_batches=2", "trainer.max_steps=5"]
    train(*small(wan22, clips, tmp_path, *halves, "trainer.val_every_n_steps=3", "trainer.checkpoint_every_n_steps=3"))
    (pace,) = paces
    # The average is called after each half: the first time before this rank is ready, the second time after that.
    own, step = 0.1 + 0.025 + 0.1, 0.1 + 0.025 + 0.1 + 0.025
    assert pace.speed == pytest.approx((own, step + 60 / 3))  # of four steps three, without the one that has saved


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A world of one rank."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_no_buffer_is_sent_in_the_forward_pass(alone: None) -> None:
    """It would make all wait there for the slowest rank."""
    model = DistributedDataParallel(nn.BatchNorm1d(2))
    assert model.will_sync_module_buffers()
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(model=model))
    Pace().on_train_start(trainer, pl.LightningModule())
    assert not model.will_sync_module_buffers()


# --- the judgement ------------------------------------------------------------------------------------------------


def hear(watch: Watch, own: list[float], step: float, now: float) -> None:
    for rank, seconds in enumerate(own):
        watch.hear(rank, Beat(int(now), 30, 10, "", f"host{rank}", "", seconds, step), now)


def test_only_what_costs_a_share_of_the_steps_for_a_while_is_slow() -> None:
    watch = Watch([0, 1, 2], silence=30, timeout=600, now=0)
    hear(watch, [0.1, 0.12, 0.3], 2.0, 10)  # 0.19 s of 2 s
    assert watch.stragglers(10) == watch.stragglers(40) == []
    hear(watch, [0.1, 0.12, 0.6], 2.0, 50)
    assert watch.stragglers(50) == watch.stragglers(59) == []  # a moment is nothing
    assert watch.stragglers(61) == [
        "rank 2 on host2 is slow, and all wait for it: 0.6 s of a step of 2 s pass until it is ready for the backward "
        "pass, with the others 0.11 s"
    ]
    assert watch.stragglers(70) == []  # once
    hear(watch, [0.1, 0.12, 0.1], 2.0, 80)
    assert watch.stragglers(80) == ["rank 2 on host2 keeps up with the others again"]
    hear(watch, [5.0, 5.0, 5.0], 6.0, 90)  # all wait for their data
    assert watch.stragglers(90) == watch.stragglers(120) == []
