"""The guide's torchrun command, run: with its own words, a small model, and two processes instead of eight."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from pages import ROOT, commands

SMALL = [
    "base=path", "data=clips", "data.num_frames=5", "data.size=[16,16]", "data.num_workers=0", "data.val_clips=1",
    "model.lora.rank=2", "model.merge.residual_blocks=1", "loss.perceptual.weights=bundled", "callbacks.lpips=null",
    "callbacks.progress=false", "trainer.accelerator=cpu", "trainer.devices=auto", "trainer.precision=32-true",
    "trainer.threads=1", "trainer.max_steps=2", "trainer.log_every_n_steps=1", "trainer.val_every_n_steps=0",
]  # fmt: skip


def test_torchrun_as_the_guide_says(wan22: Path, clips: Path, tmp_path: Path) -> None:
    line = next(c for c in commands(ROOT / "docs" / "operations.md") if c[:2] == ["torchrun", "--standalone"])
    program = [sys.executable, "-m", "torch.distributed.run", line[1], "--nproc_per_node=2", *line[3:]]
    places = [f"base.path={wan22}", f"data.root={clips}", f"run_dir={tmp_path / 'run'}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*program, *SMALL, *places], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("training clips") == 1  # the first process speaks for all
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2]
    assert (tmp_path / "run" / "adapters" / "adapters.safetensors").exists()
