"""One run on any number of ranks, whole or sharded: the same losses, the same weights.

Stated tolerance: with float32 and the same global batch, losses agree to 1e-5 of their size and weights to 1e-5, which
is a hundredth of what a step changes here (the learning rate is 1e-3).  Adam hides a gradient that is too large by a
factor, so its own averages of the gradients are compared, too: to a thousandth of each tensor's largest.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import launch
import pytest
import torch
import torch.distributed as dist
from launch import MOMENTS, compose, train
from ranks import Ranks, run_ranks
from safetensors.torch import load_file
from small_dit_base import write_complete_base
from test_dit_runs import small as small_dit
from test_resume import rows

from wan_alpha.command import ConfigError
from wan_alpha.models.context import ContextError, TokenGroup
from wan_alpha.training import run
from wan_alpha.training.checkpoints import AtomicCheckpointIO, last_checkpoint
from wan_alpha.training.preemption import TRY_AGAIN
from wan_alpha.training.run import build_trainer
from wan_alpha.training.strategies import build_strategy, places, share_batch

pytestmark = pytest.mark.timeout(1200)  # two runs of two ranks each, on a busy machine

CALM = ["data.global_batch=4", "optim.lr=0.001", "data.val_share=0.3", "trainer.val_every_n_steps=0"]
DDP, FSDP = "trainer.strategy=ddp", "trainer.strategy=fsdp"
ONE_BLOCK = "model.merge.residual_blocks=1"  # fewer tensors, each of which costs sharded steps some time


def exported(run_dir: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every adapter file of a run."""
    files = sorted((run_dir / "adapters").glob("*.safetensors"))
    return {f"{file.name}/{name}": t for file in files for name, t in load_file(file).items()}


def losses(run_dir: Path) -> list[float]:
    return [float(row["train/loss"]) for row in rows(run_dir) if row.get("train/loss")]


def levels(run_dir: Path) -> list[dict[str, float]]:
    """The losses by noise level of each row of stage=dit."""
    return [{k: float(v) for k, v in row.items() if k.startswith("train/loss_t") and v} for row in rows(run_dir)]


def gradients(run_dir: Path) -> list[torch.Tensor]:
    """Adam's averages of them, at the end."""
    checkpoint = last_checkpoint(run_dir)
    assert checkpoint is not None
    (optimiser,) = AtomicCheckpointIO().load_checkpoint(checkpoint)["optimizer_states"]
    return [optimiser["state"][n]["exp_avg"] for n in sorted(optimiser["state"])]


def assert_same_run(run_dir: Path, reference: Path) -> None:
    """Within the tolerance that the module states."""
    assert losses(run_dir) == pytest.approx(losses(reference), rel=1e-5)
    assert levels(run_dir) == [pytest.approx(row, rel=1e-5) for row in levels(reference)]
    a, b = exported(run_dir), exported(reference)
    assert a.keys() == b.keys()
    for name, tensor in b.items():
        assert a[name].dtype == tensor.dtype
    weights = {name: float((a[name].double() - tensor.double()).abs().max()) for name, tensor in b.items()}
    pairs = zip(gradients(run_dir), gradients(reference), strict=True)
    averages = [float((x - y).abs().max()) / max(float(y.abs().max()), 1e-6) for x, y in pairs]
    print(
        f"{run_dir.name}: largest difference of a weight {max(weights.values()):.1e}, of gradients {max(averages):.1e}"
    )
    assert max(weights.values()) < 1e-5, max(weights, key=lambda name: weights[name])
    assert max(averages) < 1e-3
    assert [f.name for f in sorted((run_dir / "adapters").iterdir())] == [
        f.name for f in sorted((reference / "adapters").iterdir())
    ]


def test_stage_vae_sharded_and_whole_and_back(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """Both adapters in one step; a sharded checkpoint goes on with one rank, that one's with two that shard."""

    def command(name: str, *more: str) -> list[str]:
        return launch.small(wan22, clips, tmp_path / name, *CALM, "optim.decay_share=0", ONE_BLOCK, *more)

    train(*command("one"))
    checkpointed = "trainer.activation_checkpointing=true"
    run_ranks(2, *command("moved", FSDP, checkpointed, "trainer.max_steps=2"))
    (kept,) = (tmp_path / "moved" / "checkpoints").iterdir()
    assert kept.is_dir()
    assert sorted(p.suffix for p in kept.iterdir()) == [".pt", ".safetensors", ".safetensors"]  # and no pickle
    train(*command("moved", checkpointed, "trainer.max_steps=4"))
    run_ranks(2, *command("moved", FSDP, checkpointed, "trainer.max_steps=6", "trainer.val_every_n_steps=5"))
    assert_same_run(tmp_path / "moved", tmp_path / "one")
    assert json.loads((tmp_path / "moved" / "metrics.json").read_text())["step"] == 6
    kinds = [(p.name, p.is_dir()) for p in sorted((tmp_path / "moved" / "checkpoints").iterdir())]
    assert kinds == [("step-00000004.ckpt", False), ("step-00000006.ckpt", True)]


def test_stage_dit_sharded_stopped_within_a_row_and_continued_by_one_rank(clips: Path, tmp_path: Path) -> None:
    base = write_complete_base(tmp_path / "base", adapters=True)

    def command(name: str, *more: str) -> list[str]:
        return small_dit(base, clips, tmp_path / name, *CALM, "trainer.gradient_clip_val=0", *more)

    train(*command("one"))
    checkpointed = "trainer.activation_checkpointing=true"
    train(*command("checkpointed", checkpointed))
    assert_same_run(tmp_path / "checkpointed", tmp_path / "one")
    validated = ["trainer.val_every_n_steps=2", "callbacks.panels=true", "trainer.devices=2"]
    stopped = Ranks(2, *command("sharded", FSDP, checkpointed, *validated), prepare=stop_after_three_steps).wait()
    assert stopped.codes == [TRY_AGAIN, TRY_AGAIN], stopped
    assert (tmp_path / "sharded" / "panels" / "step-00000002.png").exists()
    assert last_checkpoint(tmp_path / "sharded") == tmp_path / "sharded" / "checkpoints" / "step-00000003.ckpt"
    train(*command("sharded", checkpointed))
    assert_same_run(tmp_path / "sharded", tmp_path / "one")


def stop_after_three_steps(rank: int) -> None:
    """Called in each rank before its run: rank 1 gets a signal in its second step; all know of it after the third."""
    if rank == 1:
        MOMENTS["SIGTERM"](1)


def test_two_ranks_divide_the_tokens_of_a_clip(clips: Path, tmp_path: Path) -> None:
    """Eight tokens, four on each rank; both heads see all of them."""
    base = write_complete_base(tmp_path / "base", adapters=True)

    def command(name: str, *more: str) -> list[str]:
        steps = ["data.size=[32,32]", "trainer.max_steps=3", "trainer.log_every_n_steps=1", "data.val_clips=2"]
        steps.append("trainer.gradient_clip_val=0")
        return small_dit(base, clips, tmp_path / name, *CALM, *steps, "trainer.val_every_n_steps=3", *more)

    train(*command("one"))
    run_ranks(2, *command("divided", FSDP, "trainer.context_ranks=2", "trainer.activation_checkpointing=true"))
    assert_same_run(tmp_path / "divided", tmp_path / "one")
    held_out = [json.loads((tmp_path / name / "metrics.json").read_text())["mean"] for name in ("divided", "one")]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-5)


@pytest.mark.parametrize(
    ("tokens", "heads", "message"),
    [(7, 4, "a clip has 7 tokens .* which 2 ranks cannot divide"), (8, 3, "3 heads cannot be divided by .*=2")],
)
def test_tokens_that_cannot_be_divided_are_told(tokens: int, heads: int, message: str) -> None:
    group = TokenGroup.__new__(TokenGroup)
    group.size, group.rank = 2, 0
    x = torch.zeros(1, tokens, heads, 4)
    with pytest.raises(ContextError, match=message):
        group.attend(group.own(x), group.own(x), group.own(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["stage=base", FSDP], "base_vae is small enough for trainer.strategy=ddp"),
        (["stage=vae", "model=alphavae", FSDP], "four_channel is small enough"),
        (["stage=dit", "model.frozen.quantise=fp8", FSDP], "model.frozen.quantise=fp8 cannot be sharded"),
        (["stage=vae", FSDP, "trainer.context_ranks=2"], "divides the tokens of stage=dit"),
        (["stage=dit", "trainer.context_ranks=2"], "needs trainer.strategy=fsdp, not auto"),
        (["stage=dit", FSDP, "trainer.precision=16-mixed"], "16-mixed"),
    ],
)
def test_what_cannot_be_sharded_is_refused(change: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_trainer(compose(*change)[0])


@pytest.mark.parametrize("more", [[], [DDP, "trainer.devices=3"]])
def test_processes_that_would_train_by_themselves_are_refused(
    more: list[str], wan22: Path, clips: Path, tmp_path: Path
) -> None:
    """As with torchrun and trainer=gpu, which is for one device."""
    ended = Ranks(2, *launch.small(wan22, clips, tmp_path, *more)).wait()
    assert ended.codes == [1, 1]
    count = 3 if more else 1
    assert (
        f"error torchrun has started 2 processes, but trainer.devices={count} on 1 machines are {count}: "
        in ended.said[0]
    )
    assert not (tmp_path / "metrics.csv").exists()


def test_a_job_of_slurm_with_more_tasks_than_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_NAME": "train", "NTASKS": 4, "STEP_NUM_TASKS": 4, "PROCID": 0, "LOCALID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    with pytest.raises(ConfigError, match="`--ntasks-per-node=4` instead"):
        build_trainer(compose("stage=vae")[0])
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    with pytest.raises(ConfigError, match=r"srun has started 4 processes, but trainer\.devices=1 on 1 machines are 1"):
        build_trainer(compose("stage=vae")[0])
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # a shell within a job: Lightning starts the others
    build_trainer(compose("stage=vae")[0])


def test_a_global_batch_is_divided(tmp_path: Path) -> None:
    class Trainer:
        strategy, global_rank, world_size = None, 0, 4

    config, _ = compose("stage=vae", "data.global_batch=8")
    assert share_batch(config, Trainer()) == 8
    assert config.data.batch_size == 2
    config.data.global_batch = 6
    with pytest.raises(ConfigError, match=r"data\.global_batch=6 cannot be divided evenly by 4 ranks"):
        share_batch(config, Trainer())


def test_single_frames_are_trained_by_two_ranks(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """They never meet the temporal convolutions, whose gradients DDP would wait for.

    Besides gradients the ranks reduce one small tensor for each row: none in the first of these steps.  What
    Lightning sends in every step to learn of a SIGTERM is off.  At the start they send what is trained, and nothing
    that is frozen: it may be large, or quantised, which cannot be sent.
    """
    more = ["data.num_frames=1", "trainer.max_steps=3", "trainer.log_every_n_steps=2", "trainer.devices=2"]
    command = launch.small(wan22, clips, tmp_path, *CALM, ONE_BLOCK, DDP, *more)
    ended = Ranks(2, *command, prepare=partial(note_reductions, tmp_path)).wait()
    assert ended.codes == [0, 0], ended
    assert [row["step"] for row in rows(tmp_path)] == ["2", "3"]
    columns = sum(name.startswith("train/") for name in rows(tmp_path)[0])
    for rank in range(2):
        assert (tmp_path / f"reduced-{rank}").read_text() == f"[{columns}] [{columns}] "
        sent = [int(count) for count in (tmp_path / f"sent-{rank}").read_text().split()]
        assert sum(sent) == sum(tensor.numel() for tensor in exported(tmp_path).values())


def note_reductions(folder: Path, rank: int) -> None:
    """Called in each rank before its run: what it reduces or sends among all ranks is written down by its shape."""

    def noted(function: Any) -> Any:
        def note(tensor: torch.Tensor, *more: Any, **named: Any) -> Any:
            if len(more) < 2:  # else it is in a group of its own
                with open(folder / f"reduced-{rank}", "a") as file:
                    file.write(f"{list(tensor.shape)} ")
            return function(tensor, *more, **named)

        return note

    def send(group: Any, tensors: list[torch.Tensor], *more: Any) -> None:
        with open(folder / f"sent-{rank}", "a") as file:
            file.write(f"{sum(tensor.numel() for tensor in tensors)} ")
        broadcast(group, tensors, *more)

    broadcast = dist._broadcast_coalesced
    dist.all_reduce, dist.broadcast, dist._broadcast_coalesced = noted(dist.all_reduce), noted(dist.broadcast), send


def test_ranks_that_do_not_see_the_same_checkpoints_are_refused(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """As on machines that each have a run_dir of their own: one would go on, the other begin."""
    command = launch.small(wan22, clips, tmp_path, *CALM, ONE_BLOCK, "optim.decay_share=0")
    train(*command, "trainer.max_steps=2")
    ended = Ranks(2, *command, DDP, "trainer.devices=2", prepare=hide_checkpoints).wait()
    assert ended.codes == [1, 1], ended
    assert "error the ranks begin at different steps (rank 0 at 2, rank 1 at 0), so they do not see" in ended.said[0]
    assert f"run_dir={tmp_path} must be one directory for all machines" in ended.said[0]


def hide_checkpoints(rank: int) -> None:
    """Called in each rank before its run."""
    if rank == 1:
        run.find_checkpoint = lambda *_: None


def test_what_is_left_open_torchrun_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = compose("stage=vae", "trainer=ddp", "trainer.devices=auto")
    assert places(config.trainer) == ("auto", 1)
    started = {"RANK": 0, "GROUP_RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4, "WORLD_SIZE": 12}
    for name, value in {**started, "TORCHELASTIC_RUN_ID": "run"}.items():
        monkeypatch.setenv(name, str(value))
    assert places(config.trainer) == (4, 3)
    config.trainer.devices, config.trainer.num_nodes = 2, 5
    assert places(config.trainer) == (2, 5)


@pytest.mark.parametrize("group", ["cpu", "gpu", "ddp", "fsdp", "fsdp_cp", "slurm"])
def test_every_trainer_is_a_valid_run(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    config, _ = compose("stage=dit", f"trainer={group}")
    build_strategy(config)
    assert config.trainer.strategy == {"cpu": "auto", "gpu": "auto", "fsdp_cp": "fsdp", "slurm": "ddp"}.get(
        group, group
    )
    if group == "slurm":
        assert (config.trainer.num_nodes, config.trainer.devices) == (4, 8)
