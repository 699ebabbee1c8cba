"""A disk without a free byte: a run says so and ends, what it has saved stays whole, and it goes on with more room."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from disks import BALLAST, SmallDisk, fill
from launch import At, small, train
from ranks import Ranks, run_ranks
from test_strategies import CALM, FSDP, ONE_BLOCK, exported, losses

from wan_alpha.training.checkpoints import AtomicCheckpointIO

SECOND = "step-00000002.ckpt"


def fill_at_4(path: Path, rank: int) -> None:
    """Called in each rank before its run."""
    if rank == 0:
        At.install("on_train_batch_end", 4, partial(fill, path), last=False)


def fill_before_the_shards(path: Path, rank: int) -> None:
    """Rank 0's small part of step 4 still finds room, the slices of both do not."""
    write = AtomicCheckpointIO.save_checkpoint

    def write_and_fill(self: AtomicCheckpointIO, checkpoint: dict[str, Any], file: Path, *more: Any) -> None:
        write(self, checkpoint, file, *more)
        if checkpoint["global_step"] == 4:
            fill(path)

    if rank == 0:
        AtomicCheckpointIO.save_checkpoint = write_and_fill  # type: ignore[method-assign]


def checkpoints(run_dir: Path) -> list[str]:
    return sorted(file.name for file in (run_dir / "checkpoints").iterdir())


def assert_whole(run_dir: Path, step: int) -> None:
    state = AtomicCheckpointIO().load_checkpoint(run_dir / "checkpoints" / f"step-{step:08d}.ckpt")
    assert state["global_step"] == step
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())


def test_a_full_disk_ends_a_run_which_goes_on_when_there_is_room(wan22: Path, clips: Path, tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 64) as disk:
        run_dir = disk.path / "run"
        command = small(wan22, clips, run_dir, "trainer.val_every_n_steps=0")
        ended = Ranks(1, *command, prepare=partial(fill_at_4, disk.path)).wait()
        assert ended.codes == [1], ended.said
        (said,) = ended.said
        words = rf"error could not write {run_dir}/checkpoints/step-00000004.ckpt \(0 MiB free\): .*No space left on"
        assert re.search(words, said)
        assert f"last whole checkpoint is {run_dir / 'checkpoints' / SECOND}; free some space and run the" in said
        assert checkpoints(run_dir) == [SECOND]
        assert_whole(run_dir, 2)
        (disk.path / BALLAST).unlink()
        train(*command)
        train(*small(wan22, clips, tmp_path / "whole", "trainer.val_every_n_steps=0"))
        assert losses(run_dir) == losses(tmp_path / "whole")
        for name, tensor in exported(tmp_path / "whole").items():
            assert tensor.equal(exported(run_dir)[name])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("when", [fill_at_4, fill_before_the_shards])
def test_a_full_disk_ends_ranks_that_shard(
    when: Callable[[Path, int], None], wan22: Path, clips: Path, tmp_path: Path
) -> None:
    with SmallDisk(tmp_path / "disk", 64) as disk:
        run_dir = disk.path / "run"
        command = small(wan22, clips, run_dir, *CALM, ONE_BLOCK, FSDP)
        ended = Ranks(2, *command, "trainer.devices=2", prepare=partial(when, disk.path)).wait()
        assert ended.codes == [1, 1], ended.said
        assert re.search(r"error could not write .*step-00000004.ckpt.*No space left on device", ended.said[0])
        assert "free some space and run the same command again" in ended.said[0]
        assert checkpoints(run_dir) == [SECOND], ended.said
        assert_whole(run_dir, 2)
        (disk.path / BALLAST).unlink()
        run_ranks(2, *command)
        assert_whole(run_dir, 6)
