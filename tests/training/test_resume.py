"""A run that was killed and continued is the run that was not, to the bit."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import doomed, small, train
from safetensors.torch import load_file
from small_world import write_clips

from wan_alpha.training.checkpoints import CheckpointError
from wan_alpha.training.entry import plain_arguments
from wan_alpha.training.metrics_csv import SPEED
from wan_alpha.training.preemption import TRY_AGAIN

SIGKILL = -9


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """The exported, averaged adapters."""
    return load_file(run_dir / "adapters" / "adapters.safetensors")


def last_state(run_dir: Path) -> dict[str, Any]:
    """The last checkpoint: weights, optimiser, average, counters."""
    return torch.load(sorted((run_dir / "checkpoints").glob("*.ckpt"))[-1], weights_only=True)


def rows(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in SPEED} for row in csv.DictReader(file)]


def assert_equal_tree(a: Any, b: Any, where: str = "") -> None:
    """Nested containers, equal to the bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal_tree(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal_tree(x, y, f"{where}/{n}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_result(run_dir: Path, reference: Path) -> None:
    assert_equal_tree(weights(run_dir), weights(reference))
    state, expected = last_state(run_dir), last_state(reference)
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert_equal_tree(state[part], expected[part], part)
    assert any("AdapterEMA" in name for name in state["callbacks"])
    assert rows(run_dir) == rows(reference)


@pytest.fixture(scope="module")
def reference(wan22: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps without a break."""
    run_dir = tmp_path_factory.mktemp("reference")
    train(*small(wan22, clips, run_dir))
    return run_dir


def test_what_is_averaged_is_not_what_is_trained(reference: Path) -> None:
    """Otherwise the comparisons below could not tell a lost average from a kept one."""
    averaged, trained = weights(reference), last_state(reference)["state_dict"]
    assert averaged.keys() == trained.keys()
    assert not torch.equal(averaged["merge.conv_in.weight"], trained["merge.conv_in.weight"])


def test_same_seed_same_bits(wan22: Path, clips: Path, tmp_path: Path, reference: Path) -> None:
    train(*small(wan22, clips, tmp_path))
    assert_same_result(tmp_path, reference)


def test_another_seed_is_another_run(wan22: Path, clips: Path, tmp_path: Path, reference: Path) -> None:
    train(*small(wan22, clips, tmp_path, "seed=1", "trainer.val_every_n_steps=0"))
    assert not torch.equal(weights(tmp_path)["merge.conv_in.weight"], weights(reference)["merge.conv_in.weight"])


@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ("before the backward pass", 0),
        ("before the backward pass", 3),
        ("after the backward pass", 5),
        ("before anything follows a step", 4),
        ("in the middle of a checkpoint", 4),
        ("in the middle of a checkpoint", 6),
        ("after a checkpoint", 2),
        ("after a checkpoint", 6),
        ("after validation", 4),
        ("before the export", 6),
    ],
)
def test_killed_and_continued_is_the_same_run(
    moment: str, step: int, wan22: Path, clips: Path, tmp_path: Path, reference: Path
) -> None:
    command = small(wan22, clips, tmp_path)
    assert doomed(moment, step, *command).code == SIGKILL
    train(*command)
    assert_same_result(tmp_path, reference)


def test_a_run_killed_twice(wan22: Path, clips: Path, tmp_path: Path, reference: Path) -> None:
    command = small(wan22, clips, tmp_path)
    assert doomed("before the backward pass", 3, *command).code == SIGKILL
    assert doomed("after the backward pass", 4, *command).code == SIGKILL
    assert doomed("before the backward pass", 4, *command).code == SIGKILL  # without progress in between
    train(*command)
    assert_same_result(tmp_path, reference)


@pytest.mark.parametrize(("moment", "step", "saved"), [("SIGTERM", 2, 3), ("SIGUSR1", 1, 2)])
def test_asked_to_make_room_a_run_loses_nothing(
    moment: str, step: int, saved: int, wan22: Path, clips: Path, tmp_path: Path, reference: Path
) -> None:
    """Step 2 has a checkpoint anyway; step 3 gets one."""
    command = small(wan22, clips, tmp_path)
    checkpoint = tmp_path / "checkpoints" / f"step-{saved:08d}.ckpt"
    assert doomed(moment, step, *command) == (
        TRY_AGAIN,
        f"error stopped by {moment} after step {saved}, which is saved in {checkpoint}; the same command goes on from "
        "there",
    )
    assert sorted((tmp_path / "checkpoints").iterdir())[-1] == checkpoint
    train(*command)
    assert_same_result(tmp_path, reference)


def test_asked_to_make_room_a_sharded_checkpoint_is_whole_first(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """It is written in the background, here by one rank: the run does not end, nor say where it is, before."""
    checkpoint = tmp_path / "checkpoints" / "step-00000003.ckpt"
    ended = doomed("SIGTERM", 2, *small(wan22, clips, tmp_path, "trainer.strategy=fsdp"))
    assert ended.code == TRY_AGAIN, ended.said
    assert f"error stopped by SIGTERM after step 3, which is saved in {checkpoint}; the same" in ended.said
    assert checkpoint.is_dir()


def test_killed_during_a_validation_continues_too(wan22: Path, clips: Path, tmp_path: Path, reference: Path) -> None:
    command = small(wan22, clips, tmp_path)
    assert doomed("before validation", 4, *command).code == SIGKILL
    train(*command)
    assert_equal_tree(weights(tmp_path), weights(reference))
    assert [row["train/loss"] for row in rows(tmp_path)] == [row["train/loss"] for row in rows(reference)]


def test_a_finished_run_stays_as_it_is(
    wan22: Path, clips: Path, tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / f"[red] {'and a name as long as a line ' * 4}"
    shutil.copytree(reference, copy)
    train(*plain_arguments(small(wan22, clips, copy)))
    assert_same_result(copy, reference)
    said = capsys.readouterr().out
    assert f"continuing {copy}/checkpoints/" in said
    assert f"before: {copy} (ckpt_path=null" in said


def test_a_finished_run_can_be_made_longer(wan22: Path, clips: Path, tmp_path: Path, reference: Path) -> None:
    steady = "optim.decay_share=0"  # a rate that falls to zero at the end would depend on where the end is
    train(*small(wan22, clips, tmp_path / "short", steady, "trainer.max_steps=4"))
    train(*small(wan22, clips, tmp_path / "short", steady))
    train(*small(wan22, clips, tmp_path / "long", steady))
    assert_equal_tree(weights(tmp_path / "short"), weights(tmp_path / "long"))


def test_a_schedule_may_be_said_in_two_ways(wan22: Path, clips: Path, tmp_path: Path, reference: Path) -> None:
    """`max_steps` alone lays the schedule out for itself; stopped early, the same is said with `schedule_steps`."""
    run_dir, decay = tmp_path / "run", "optim.decay_share=0.5"
    train(*small(wan22, clips, run_dir, decay, "trainer.max_steps=4", "optim.schedule_steps=6"))
    train(*small(wan22, clips, run_dir, decay, "trainer.max_steps=6"))
    train(*small(wan22, clips, tmp_path / "whole", decay, "trainer.max_steps=6"))
    assert_equal_tree(weights(run_dir), weights(tmp_path / "whole"))


def test_accumulated_batches_continue_at_the_right_sample(wan22: Path, clips: Path, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        accumulating = ["data.batch_size=1", "trainer.accumulate_grad_batches=2", "trainer.val_every_n_steps=0"]
        return small(wan22, clips, tmp_path / name, *accumulating, "trainer.log_every_n_steps=4")

    train(*command("whole"))
    asked = doomed("SIGTERM", 2, *command("killed"))  # with the first of the step's two batches
    assert asked.code == TRY_AGAIN
    assert "stopped by SIGTERM after step 3" in asked.said
    assert doomed("before the backward pass", 5, *command("killed")).code == SIGKILL
    train(*command("killed"))
    assert_same_result(tmp_path / "killed", tmp_path / "whole")


def test_rows_are_every_so_manyth_step_and_the_last_each_with_its_own_values(
    wan22: Path, clips: Path, tmp_path: Path, reference: Path
) -> None:
    train(*small(wan22, clips, tmp_path, "trainer.log_every_n_steps=4", "trainer.val_every_n_steps=0"))
    wanted = [row for row in rows(reference) if row["step"] in ("4", "6")]
    assert rows(tmp_path) == [{k: v for k, v in row.items() if not k.startswith("val/")} for row in wanted]


def test_mixed_sets_in_buckets_continue_too(
    wan22: Path, clips: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write_clips(tmp_path_factory.mktemp("other"), 4, frames=3, side=24)
    mixture = [
        "data.root=null",
        f"data.sources=[{{root:'{clips}',weight:2}},{{root:'{other}'}}]",
        "data.buckets=[{num_frames:5,size:[16,16]},{num_frames:1,size:[16,32]},{num_frames:1,size:[32,32]}]",
        "trainer.val_every_n_steps=0",
    ]
    train(*small(wan22, clips, tmp_path / "whole", *mixture))
    assert doomed("before the backward pass", 3, *small(wan22, clips, tmp_path / "killed", *mixture)).code == SIGKILL
    train(*small(wan22, clips, tmp_path / "killed", *mixture))
    assert_same_result(tmp_path / "killed", tmp_path / "whole")
    mixture[1] = mixture[1].replace("weight:2", "weight:3")
    with pytest.raises(CheckpointError, match=r"data mixture: \[667, 333\] -> \[750, 250\]"):
        train(*small(wan22, clips, tmp_path / "killed", *mixture, "trainer.max_steps=7", "optim.schedule_steps=6"))


def test_workers_change_no_bit(wan22: Path, clips: Path, tmp_path: Path, reference: Path) -> None:
    train(*small(wan22, clips, tmp_path, "data.num_workers=1", "trainer.val_every_n_steps=0"))
    assert_equal_tree(weights(tmp_path), weights(reference))
