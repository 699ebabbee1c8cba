"""Weights & Biases or the object store dies: the run goes on, or ends with a sentence and can go on later."""

from __future__ import annotations

import csv
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import wandb
from launch import ROOT, At, compose, small, train
from pytorch_lightning.loggers import WandbLogger
from wandb_server import WandbServer

from benchmarks.range_server import RangeServer
from wan_alpha import lineage
from wan_alpha.command import ConfigError
from wan_alpha.data import stores
from wan_alpha.data.errors import StoreError
from wan_alpha.data.remote import Remote
from wan_alpha.training import loggers, run
from wan_alpha.training.checkpoints import last_checkpoint
from wan_alpha.training.loggers import build_loggers

ONLINE = ["logger=wandb", "logger.wandb.mode=online", "trainer.val_every_n_steps=0", "trainer.max_steps=4"]


@pytest.fixture
def wandb_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """W&B with a key, and with little patience."""
    for name, value in (("API_KEY", "x" * 40), ("MODE", "online"), ("SILENT", "true"), ("CONSOLE", "off")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setattr(loggers, "WANDB_START", 2.0)
    monkeypatch.setattr(loggers, "WANDB_END", 2.0)
    monkeypatch.setattr(lineage, "PATIENCE_SECONDS", 2.0)
    yield monkeypatch
    wandb.teardown()


def logged_steps(run_dir: Path) -> list[int]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("dead", ["refuses", "says nothing"])
def test_without_an_answer_from_wandb_the_run_is_kept_offline(
    dead: str,
    wandb_at: pytest.MonkeyPatch,
    wan22: Path,
    clips: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if dead == "says nothing":
            listener.listen()
        wandb_at.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with caplog.at_level(logging.WARNING):
            train(*small(wan22, clips, tmp_path, *ONLINE))
    assert f"kept offline; later: wandb sync {tmp_path / 'wandb'}" in caplog.text
    assert logged_steps(tmp_path) == [1, 2, 3, 4]
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert wandb.run is None


def test_what_was_kept_offline_is_sent_later(wandb_at: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`wandb sync`, with a stand-in for the server; artifacts are more than it understands."""
    config, tree = compose("logger=wandb", f"run_dir={tmp_path}")
    (logger,) = (found for found in build_loggers(config, tree, 0) if isinstance(found, WandbLogger))
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": 1.0 / step}, step)
    logger.experiment.finish()
    (kept,) = tmp_path.glob("wandb/offline-run-*")
    with WandbServer() as server:
        wandb_at.setenv("WANDB_BASE_URL", server.url)
        program = Path(sys.executable).with_name("wandb")
        synced = subprocess.run([program, "sync", kept], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert synced.returncode == 0, synced.stderr
    assert server.streamed.count("train/loss") >= 3


def test_wandb_that_dies_during_the_run_does_not_hold_it_up(
    wandb_at: pytest.MonkeyPatch, wan22: Path, clips: Path, tmp_path: Path
) -> None:
    with WandbServer() as server:
        wandb_at.setattr(loggers, "WANDB_START", 120.0)  # a busy machine is no dead server
        wandb_at.setenv("WANDB_BASE_URL", server.url)
        wandb_at.setattr(run, "build_callbacks", run.build_callbacks)  # put back what `At` changes
        At.install("on_before_backward", 2, server.stop)
        train(*small(wan22, clips, tmp_path, *ONLINE))
        assert not server.alive
    assert any("graphql" in path for path in server.requests)  # it was online
    assert logged_steps(tmp_path) == [1, 2, 3, 4]
    assert (tmp_path / "adapters" / "adapters.json").exists()
    assert list(tmp_path.glob("wandb/run-*/run-*.wandb"))  # for wandb sync


def test_wandb_without_a_key_is_said_at_once(
    wandb_at: pytest.MonkeyPatch, wan22: Path, clips: Path, tmp_path: Path
) -> None:
    wandb_at.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ConfigError, match=r"logger.wandb.mode=online: .*wandb login.*logger.wandb.mode=offline"):
        train(*small(wan22, clips, tmp_path, *ONLINE))


def test_an_object_store_that_dies_ends_the_run_which_goes_on_when_it_is_back(
    wan22: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The seconds between attempts are shortened; their number is not."""
    monkeypatch.setattr(stores, "Remote", partial(Remote, first_delay=0.001))
    monkeypatch.setattr(run, "build_callbacks", run.build_callbacks)

    def command(name: str, url: str) -> list[str]:
        kind = ["data=shards", "data.num_workers=0", "data.val_clips=2", f"data.cache_dir={tmp_path / name / 'cache'}"]
        arguments = [a for a in small(wan22, tmp_path, tmp_path / name) if not a.startswith(("data=", "data.root="))]
        return [*kind, *arguments, f"data.root={url}", "trainer.val_every_n_steps=0"]

    with RangeServer(ROOT / "assets" / "fluent-sample") as server:
        train(*command("whole", server.url))
        whole = run.build_callbacks
        At.install("on_before_backward", 3, server.stop)
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(StoreError, match=r"no answer to 9 attempts in .*the same"),
        ):
            train(*command("run", server.url))
        assert "attempt 9 of 9 in" in caplog.text
        checkpoint = last_checkpoint(tmp_path / "run")
        assert checkpoint is not None
        assert checkpoint.name == "step-00000004.ckpt"  # one batch is read ahead
        monkeypatch.setattr(run, "build_callbacks", whole)
        server.start()
        train(*command("run", server.url))
    adapters = [(tmp_path / name / "adapters" / "adapters.safetensors").read_bytes() for name in ("run", "whole")]
    assert adapters[0] == adapters[1]
