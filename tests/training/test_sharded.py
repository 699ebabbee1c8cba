"""Sharded checkpoints as files: what is in them, when they appear, what happens when they cannot be written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from wan_alpha.training.checkpoints import AtomicCheckpointIO, CheckpointError, last_checkpoint, read_header
from wan_alpha.training.heartbeat import limit_communications
from wan_alpha.training.sharded import ShardedWriter, load_for, local

NAME = "checkpoints/step-00000002.ckpt"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A world of one rank."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def state(mesh: DeviceMesh, factor: float = 1.0) -> dict[str, Any]:
    """As a run's: two sharded tensors among what is not, one of them with a slash in its name."""
    weight = distribute_tensor(factor * torch.arange(40_000.0).view(100, 400), mesh, [Shard(0)])
    moments = distribute_tensor(torch.full((3,), factor), mesh, [Shard(0)])
    optimiser = {
        "state": {0: {"exp_avg": moments, "step": torch.tensor(2.0)}},
        "param_groups": [{"betas": (0.9, 0.99)}],
    }
    return {
        "state_dict": {"a/b.c": weight},
        "optimizer_states": [optimiser],
        "global_step": 2,
        "run_config": {"seed": 0},
    }


def test_it_holds_the_state_of_the_moment_and_no_pickle(mesh: DeviceMesh, tmp_path: Path) -> None:
    writer, saved = ShardedWriter(), state(mesh)
    writer.save(saved, tmp_path / NAME)
    local(saved["state_dict"]["a/b.c"]).zero_()  # training goes on
    writer.wait()
    assert last_checkpoint(tmp_path) == tmp_path / NAME
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.ckpt"]
    assert {p.suffix for p in (tmp_path / NAME).iterdir()} == {".pt", ".safetensors"}
    assert read_header(tmp_path / NAME)["run_config"] == {"seed": 0}
    expected = torch.arange(40_000.0).view(100, 400)
    whole = AtomicCheckpointIO().load_checkpoint(tmp_path / NAME)
    assert torch.equal(whole["state_dict"]["a/b.c"], expected)
    assert whole["optimizer_states"][0]["state"][0]["step"] == 2
    assert whole["optimizer_states"][0]["param_groups"] == [{"betas": (0.9, 0.99)}]
    again = load_for(tmp_path / NAME, mesh)["state_dict"]["a/b.c"]
    assert isinstance(again, DTensor)
    assert torch.equal(local(again), expected)


def test_what_one_rank_wrote_is_cut(mesh: DeviceMesh, tmp_path: Path) -> None:
    whole = {"state_dict": {"w": torch.ones(4, 2)}, "noise_levels": torch.ones(2), "callbacks": {"n": torch.tensor(1)}}
    AtomicCheckpointIO().save_checkpoint(whole, tmp_path / NAME)
    cut = load_for(tmp_path / NAME, mesh)
    assert isinstance(cut["state_dict"]["w"], DTensor)
    assert not isinstance(cut["noise_levels"], DTensor)
    assert not isinstance(cut["callbacks"]["n"], DTensor)


@pytest.mark.parametrize("name", [NAME, f"{NAME}.tmp"])
def test_what_a_killed_run_of_another_strategy_left_is_no_hindrance(
    name: str, mesh: DeviceMesh, tmp_path: Path
) -> None:
    """A half-written directory where a file is to be, and the other way round; also when the whole one is there."""
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "shard-00001.safetensors").write_bytes(b"half")
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(2)}}, tmp_path / NAME)
    assert (tmp_path / NAME).is_file()
    (tmp_path / name).write_bytes(b"half")
    writer = ShardedWriter()
    writer.save(state(mesh), tmp_path / NAME)
    writer.wait()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.ckpt"]
    assert read_header(tmp_path / NAME)["global_step"] == 2


def test_a_disk_that_fills_up_stops_the_run_and_leaves_the_last_one(mesh: DeviceMesh, tmp_path: Path) -> None:
    writer = ShardedWriter()
    writer.save(state(mesh), tmp_path / NAME)
    writer.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # bytes of a file
    try:
        writer.save(state(mesh, 2.0), tmp_path / "checkpoints" / "step-00000004.ckpt")
        with pytest.raises(CheckpointError, match=r"could not write .*04.ckpt: .*File too large.* untouched"):
            writer.save(state(mesh, 3.0), tmp_path / "checkpoints" / "step-00000006.ckpt")  # waits for it
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert last_checkpoint(tmp_path) == tmp_path / NAME
    writer.save(state(mesh, 2.0), tmp_path / "checkpoints" / "step-00000004.ckpt")
    writer.wait()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-00000004.ckpt"


def test_every_group_of_ranks_has_the_runs_limit(mesh: DeviceMesh) -> None:
    """`trainer.timeout_s`: torch gives each group that it makes half an hour."""
    groups = [dist.group.WORLD, mesh.get_group(), ShardedWriter().group]
    limit_communications(7)
    for group in groups:
        assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=7)


def test_a_damaged_one_is_told(mesh: DeviceMesh, tmp_path: Path) -> None:
    writer = ShardedWriter()
    writer.save(state(mesh), tmp_path / NAME)
    writer.wait()
    (shard,) = (tmp_path / NAME).glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_for(tmp_path / NAME, mesh)
    shard.unlink()
    with pytest.raises(CheckpointError, match="is damaged"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / NAME)
    (tmp_path / NAME / "rest.pt").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_header(tmp_path / NAME)
