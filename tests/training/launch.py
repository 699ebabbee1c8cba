"""Start runs: in this process, or in one that comes to a bad end."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from pytorch_lightning.callbacks import Callback

from wan_alpha.command import run_command
from wan_alpha.training import checkpoints, run
from wan_alpha.training.config import RunConfig
from wan_alpha.training.entry import INTERRUPTED, checked
from wan_alpha.training.identity import register_resolver

ROOT = Path(__file__).resolve().parents[2]

SMALL = [
    "base=path",
    "data=clips",
    "data.size=[16,16]",
    "data.num_frames=5",
    "data.batch_size=2",
    "data.num_workers=0",
    "model.lora.rank=2",
    "loss.weights.perceptual=0",
    "optim.lr=0.01",
    "optim.warmup_steps=1",
    "optim.ema_decay=0.5",
    "trainer.threads=1",
    "trainer.precision=32-true",
    "trainer.max_steps=6",
    "trainer.log_every_n_steps=1",
    "trainer.checkpoint_every_n_steps=2",
    "trainer.val_every_n_steps=4",
    "callbacks.progress=false",
    "callbacks.panels=false",
    "callbacks.lpips=null",
]
"""A run of six steps in a second: checkpoints after 2, 4 and 6, a validation after 4."""


def compose(*overrides: str) -> tuple[RunConfig, dict[str, Any]]:
    """What `train.py` gets to see."""
    register_resolver()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return checked(hydra.compose("train", list(overrides)))


def small(base: Path, clips: Path, run_dir: Path, *overrides: str) -> list[str]:
    """Command-line arguments of a small run."""
    return [*SMALL, f"base.path={base}", f"data.root={clips}", f"run_dir={run_dir}", *overrides]


def train(*overrides: str) -> None:
    """One run in this process."""
    run.train(*compose(*overrides))


class End(NamedTuple):
    """How a process ended: its exit code, and what it wrote to stderr."""

    code: int
    said: str


def doomed(moment: str, step: int, *overrides: str) -> End:
    """One run in a process of its own, with a `moment` of MOMENTS at `step`."""
    # A server imports once, then forks without this process's threads; but CUDA is not for forked processes.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
    if isinstance(context, ForkServerContext):
        context.set_forkserver_preload(["wan_alpha.training.run", "wan_alpha.training.entry"])
    with tempfile.NamedTemporaryFile("r") as words:
        process = context.Process(target=_child, args=(moment, step, overrides, words.name))
        process.start()
        process.join(120)
        assert process.exitcode is not None, "the run hangs"
        return End(process.exitcode, " ".join(words.read().split()))


def _child(moment: str, step: int, overrides: tuple[str, ...], words: str) -> None:
    os.dup2(os.open(words, os.O_WRONLY | os.O_APPEND), 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without it
    MOMENTS[moment](step)
    run_command(lambda: train(*overrides), RunConfig, INTERRUPTED)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class At(Callback):
    """Do something once, in one hook at one step."""

    def __init__(self, hook: str, step: int, action: Callable[[], None]) -> None:
        def act(trainer: Any, *_: Any) -> None:
            if trainer.global_step == step:
                action()

        setattr(self, hook, act)

    @classmethod
    def install(cls, hook: str, step: int, action: Callable[[], None], last: bool = True) -> None:
        """Add the callback to every run that starts from now on in this process."""
        build = run.build_callbacks

        def with_this(*args: Any) -> list[Callback]:
            callbacks = build(*args)
            return [*callbacks, cls(hook, step, action)] if last else [cls(hook, step, action), *callbacks]

        run.build_callbacks = with_this


def _half_written(step: int) -> None:
    """The process dies in the middle of a checkpoint: half of it is in the `.tmp` file."""
    save = torch.save

    def save_half(state: dict[str, Any], file: Any) -> None:
        save(state, file)
        if state["global_step"] == step:
            file.flush()
            os.ftruncate(file.fileno(), file.tell() // 2)
            die()

    checkpoints.torch.save = save_half  # type: ignore[assignment]


def _full_disk(hook: str, step: int) -> None:
    """The file system takes no more than a few KiB per file from `step` on."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    At.install(hook, step, fill, last=False)


MOMENTS: dict[str, Callable[[int], None]] = {
    "before the backward pass": lambda step: At.install("on_before_backward", step, die),
    "after the backward pass": lambda step: At.install("on_before_optimizer_step", step, die),
    "before anything follows a step": lambda step: At.install("on_train_batch_end", step, die, last=False),
    "after a checkpoint": lambda step: At.install("on_train_batch_end", step, die),
    "in the middle of a checkpoint": _half_written,
    "before validation": lambda step: At.install("on_validation_start", step, die, last=False),
    "after validation": lambda step: At.install("on_validation_end", step, die),
    "before the export": lambda step: At.install("on_train_end", step, die, last=False),
    "full disk": partial(_full_disk, "on_train_batch_end"),
    "full disk at the export": partial(_full_disk, "on_train_end"),
    "SIGTERM": lambda step: At.install("on_before_backward", step, lambda: os.kill(os.getpid(), signal.SIGTERM)),
    "SIGUSR1": lambda step: At.install("on_before_backward", step, lambda: os.kill(os.getpid(), signal.SIGUSR1)),
    "interrupt": lambda step: At.install("on_before_backward", step, lambda: os.kill(os.getpid(), signal.SIGINT)),
}
