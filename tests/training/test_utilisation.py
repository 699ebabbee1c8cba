"""MFU: FLOPs counted once, over the peak of a known device."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from launch import compose, small, train

from wan_alpha.training import run, utilisation
from wan_alpha.training.plan import plan_run


def columns(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_known_device_gets_its_share_of_the_peak(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counted FLOPs are those that plan=true promises; what checkpointing computes again is none of them."""
    made: list[utilisation.Utilisation] = []

    class Kept(utilisation.Utilisation):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(run, "Utilisation", Kept)
    monkeypatch.setattr(utilisation, "device_peak", lambda device: 1e15)
    arguments = small(wan22, clips, tmp_path, "trainer.activation_checkpointing=true")
    arguments += ["trainer.max_steps=4", "trainer.accumulate_grad_batches=2", "trainer.val_every_n_steps=2"]
    train(*arguments)
    assert made[0].flops == pytest.approx(plan_run(compose(*arguments)[0]).flops, rel=0.01)
    shares = {int(row["step"]): float(row["train/mfu"]) for row in columns(tmp_path) if row.get("train/mfu")}
    assert set(shares) == {1, 2, 3, 4}
    assert all(0 < share < 1 for share in shares.values())


def test_an_unknown_device_is_left_alone(wan22: Path, clips: Path, tmp_path: Path) -> None:
    assert utilisation.device_peak(torch.device("cpu")) is None
    train(*small(wan22, clips, tmp_path, "trainer.max_steps=1", "trainer.val_every_n_steps=0"))
    assert "train/mfu" not in columns(tmp_path)[0]
