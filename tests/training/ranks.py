"""Runs of several ranks without the seconds that a fresh interpreter needs to import torch.

The ranks are forked from a process that has imported everything (multiprocessing's forkserver) and meet as torchrun's
processes do, through its environment variables.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch
from launch import train

from wan_alpha.command import run_command
from wan_alpha.training.config import RunConfig
from wan_alpha.training.entry import INTERRUPTED


class Ended(NamedTuple):
    """How the ranks ended: their exit codes, and what each wrote to stderr."""

    codes: list[int | None]
    said: list[str]


class Ranks:
    """`count` ranks of one run; `overrides` are command-line arguments of train.py.

    Args:
        prepare: called in every rank, with its number, before the run; a function of a module.
    """

    def __init__(self, count: int, *overrides: str, prepare: Callable[[int], None] | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["wan_alpha.training.run", "wan_alpha.training.entry", "launch", "ranks"])
        self.words = [tempfile.NamedTemporaryFile("r") for _ in range(count)]  # noqa: SIM115
        port = _free_port()
        self.processes: list[BaseProcess] = [
            context.Process(target=_rank, args=(rank, count, port, overrides, self.words[rank].name, prepare))
            for rank in range(count)
        ]
        for process in self.processes:
            process.start()

    def kill(self) -> None:
        """SIGKILL to every rank."""
        for process in self.processes:
            process.kill()

    def wait(self, seconds: float = 600) -> Ended:
        """Until all have ended; ranks that hang are killed and fail the test."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        hanging = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        if hanging:
            self.kill()
            raise AssertionError(f"ranks {hanging} hang; said: {self.said()}")
        return Ended([process.exitcode for process in self.processes], self.said())

    def said(self) -> list[str]:
        """What each rank has written to stderr."""
        return [" ".join(words.read().split()) for words in self.words]


def run_ranks(count: int, *overrides: str) -> None:
    """One run to its end, in which no library warns of what its users cannot change."""
    devices = [] if count == 1 else [f"trainer.devices={count}"]
    ended = Ranks(count, *overrides, *devices).wait()
    assert ended.codes == [0] * count, ended
    assert not [words for words in ended.said if "Warning: " in words], ended


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _rank(
    rank: int, count: int, port: int, overrides: tuple[str, ...], words: str, prepare: Callable[[int], None] | None
) -> None:
    os.dup2(os.open(words, os.O_WRONLY | os.O_APPEND), 2)
    torch.set_num_threads(1)
    if count > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
    if prepare is not None:
        prepare(rank)
    run_command(lambda: train(*overrides), RunConfig, INTERRUPTED)
