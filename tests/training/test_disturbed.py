"""A run that two ranks began, killed ten times, and that one rank and then four ended, is the run nobody disturbed.

The stated tolerance is that of test_strategies: 1e-5 in every weight, where a step changes 1e-3.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from launch import small, train
from ranks import Ranks, run_ranks
from test_strategies import CALM, DDP, FSDP, ONE_BLOCK, assert_same_run

KILLS = 10


def newest(run_dir: Path) -> int:
    """The step of the newest whole checkpoint."""
    steps = [int(p.stem.split("-")[-1]) for p in (run_dir / "checkpoints").glob("step-*.ckpt")]
    return max(steps, default=0)


def kill_in_the_middle(ranks: Ranks, run_dir: Path, draw: random.Random) -> None:
    """SIGKILL to all ranks, in any order, at any moment from the start to a few steps after it."""
    goal, until = newest(run_dir) + draw.randint(0, 2), time.monotonic() + 400
    while newest(run_dir) < goal or not (run_dir / "environment.json").exists():
        assert time.monotonic() < until, ("no step", ranks.said())
        assert all(process.exitcode is None for process in ranks.processes), ranks.said()
        time.sleep(0.01)
    time.sleep(draw.random() * 0.3)
    draw.shuffle(ranks.processes)
    ranks.kill()
    assert -9 in ranks.wait().codes  # the second may have ended by itself, for the first was gone


@pytest.mark.timeout(1200)
def test_killed_ten_times_and_continued_with_other_ranks(wan22: Path, clips: Path, tmp_path: Path) -> None:
    def command(name: str, steps: int, *more: str) -> list[str]:
        every = ["optim.decay_share=0", "trainer.checkpoint_every_n_steps=1", f"trainer.max_steps={steps}"]
        return small(wan22, clips, tmp_path / name, *CALM, *every, ONE_BLOCK, *more)

    draw = random.Random(20250929)
    run_dir = tmp_path / "disturbed"
    for number in range(KILLS):
        strategy = FSDP if number in (4, 7) else DDP  # sharding costs a small model most of its time
        kill_in_the_middle(Ranks(2, *command("disturbed", 1000, strategy, "trainer.devices=2")), run_dir, draw)
    step = newest(run_dir)
    train(*command("disturbed", step + 2))
    run_ranks(4, *command("disturbed", step + 4, DDP))
    train(*command("whole", step + 4))
    assert_same_run(run_dir, tmp_path / "whole")
    assert newest(run_dir) == step + 4
