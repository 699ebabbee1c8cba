"""`python train.py` as a newcomer meets it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch import ROOT, small, train

from benchmarks import merge_init

OURS = [
    r"data: \d+ training clips \(\d+ frames\), \d+ held out",
    r"step \d+/\d+  loss \d+\.\d+  \d+\.\d frames/s(  waiting for data \d+%)?  \d+\.\d min left",
    r"done: .*",
    r"continuing .*step-\d{8}\.ckpt.*",
    r"",
]


def command(*arguments: str) -> list[str]:
    """What is printed, line by line."""
    finished = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments], capture_output=True, text=True, timeout=280
    )
    assert finished.returncode == 0, finished.stderr
    return (finished.stdout + finished.stderr).splitlines()


def test_only_our_own_lines_are_printed(wan22: Path, clips: Path, tmp_path: Path) -> None:
    arguments = small(wan22, clips, tmp_path, "trainer.val_every_n_steps=0", "callbacks.progress=true")
    lines = command(*arguments, "trainer.max_steps=2")
    strange = [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in OURS)]
    assert strange == []
    assert sum(line.startswith("step ") for line in lines) == 2
    assert (tmp_path / ".hydra" / "config.yaml").exists()


def loss(run_dir: Path) -> list[dict[str, float]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    of_training = [name for name in rows[0] if not name.startswith("val/") and "per_second" not in name]
    return [{name: float(row[name]) for name in of_training} for row in rows]


def test_two_ranks_are_one_larger_batch(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """The global batch counts: losses are the same for every split of it; held-out clips are measured by turns."""

    def arguments(name: str) -> list[str]:
        validation = ["trainer.val_every_n_steps=2", "data.val_share=0.3", "data.val_batch_size=1"]
        return small(wan22, clips, tmp_path / name, *validation, "trainer.max_steps=2")

    command(*arguments("two"), "trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=1")
    train(*arguments("one"), "data.batch_size=2")
    two, one = loss(tmp_path / "two"), loss(tmp_path / "one")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3)
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    held_out = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one")]
    assert len(held_out[1]["clips"]) % 2 == 1  # one of them is measured twice, and counts once
    assert held_out[0]["clips"].keys() == held_out[1]["clips"].keys()
    for system, figures in held_out[1]["mean"].items():
        assert held_out[0]["mean"][system] == pytest.approx(figures, rel=1e-2), system


def test_a_sweep_runs_and_becomes_a_plot(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """What `experiment=merge_init` promises: one command, a directory per job, a plot of them all."""
    arguments = [a for a in small(wan22, clips, tmp_path, "trainer.val_every_n_steps=1") if "run_dir" not in a]
    sweep = ["-m", "experiment=merge_init", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    command(*sweep, *arguments, "trainer.max_steps=2")
    merge_init.main(str(tmp_path / "sweep"), tmp_path)
    runs = json.loads((tmp_path / "merge_init.json").read_text())["runs"]
    assert {init: [[row["step"] for row in rows] for rows in seeds] for init, seeds in runs.items()} == {
        "base": [[1, 2], [1, 2]],
        "random": [[1, 2], [1, 2]],
    }
    assert (tmp_path / "merge_init.png").stat().st_size > 10_000
