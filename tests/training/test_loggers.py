"""Loggers beside metrics.csv."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from launch import compose, small, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wan_alpha.command import ConfigError
from wan_alpha.training.loggers import TensorBoardEvents, build_loggers


def events(run_dir: Path) -> EventAccumulator:
    reader = EventAccumulator(str(run_dir / "tensorboard"))
    reader.Reload()
    return reader


def test_a_continued_run_replaces_the_steps_that_it_computes_again(tmp_path: Path) -> None:
    first = TensorBoardEvents(tmp_path, 0)
    for step in (1, 2, 3, 4):
        first.log_metrics({"train/loss": 1.0}, step)
    first.finalize("failed")
    again = TensorBoardEvents(tmp_path, 2)
    for step in (3, 4, 5):
        again.log_metrics({"train/loss": 2.0}, step)
    again.finalize("success")
    scalars = [(e.step, e.value) for e in events(tmp_path).Scalars("train/loss")]
    assert scalars == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert not list(tmp_path.rglob("hparams.yaml"))


def test_a_row_is_logged_once_whether_a_checkpoint_follows_or_not(wan22: Path, clips: Path, tmp_path: Path) -> None:
    train(*small(wan22, clips, tmp_path, "logger=tensorboard", "trainer.checkpoint_every_n_steps=2"))
    assert [e.step for e in events(tmp_path).Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    config, tree = compose("logger=tensorboard", f"run_dir={tmp_path}")
    with pytest.raises(ConfigError, match=r"pip install 'wan-alpha\[tensorboard\]'"):
        build_loggers(config, tree, 0)
