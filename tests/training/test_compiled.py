"""What is compiled under several ranks: the losses and weights of the run that compiles nothing."""

from __future__ import annotations

from pathlib import Path

import launch
import pytest
from launch import train
from ranks import run_ranks
from small_dit_base import write_complete_base
from test_dit_runs import small
from test_strategies import CALM, ONE_BLOCK, assert_same_run

from wan_alpha.models.device import missing_compiler

needs_compiler = pytest.mark.skipif(bool(missing_compiler()), reason=f"torch compiles with {missing_compiler()}")


@needs_compiler
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compiled_norms_and_checkpointed_blocks_on_two_ranks(
    strategy: str, wan22: Path, clips: Path, tmp_path: Path
) -> None:
    def command(name: str, *more: str) -> list[str]:
        every = ["trainer.log_every_n_steps=1", "trainer.max_steps=2", "optim.decay_share=0"]
        return launch.small(wan22, clips, tmp_path / name, *CALM, ONE_BLOCK, *every, *more)

    train(*command("plain"))
    fused = ["trainer.fuse_norms=true", "trainer.activation_checkpointing=true", f"trainer.strategy={strategy}"]
    run_ranks(2, *command("fused", *fused))
    assert_same_run(tmp_path / "fused", tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@needs_compiler
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compiled_and_checkpointed_blocks_on_two_ranks(strategy: str, clips: Path, tmp_path: Path) -> None:
    base = write_complete_base(tmp_path / "base", adapters=True)

    def command(name: str, *more: str) -> list[str]:
        every = ["trainer.log_every_n_steps=1", "trainer.gradient_clip_val=0", "trainer.max_steps=2"]
        return small(base, clips, tmp_path / name, *CALM, *every, *more)

    train(*command("eager"))
    compiled = ["model.frozen.compile=true", "trainer.activation_checkpointing=true", f"trainer.strategy={strategy}"]
    run_ranks(2, *command("compiled", *compiled))
    assert_same_run(tmp_path / "compiled", tmp_path / "eager")
