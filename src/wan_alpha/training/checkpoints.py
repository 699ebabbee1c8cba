"""Checkpoints that are whole or not there, and the way back to the last one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO

CHECKPOINT_DIR = "checkpoints"
REST = "rest.pt"
"""Of a checkpoint that is a directory (`sharded`): all that is not in its other files."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; earlier ones are untouched."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target, flush to the disk, then rename: a reader never sees half a file.

    Loading refuses pickles: tensors and plain containers only.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".tmp")
        try:
            if partial.is_dir():  # a run that shards was killed while it wrote
                remove_checkpoint(partial)
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.is_dir():
                remove_checkpoint(target)
            os.replace(partial, target)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            # torch closes its archive after a failed write, and that fails too: what came first is the reason.
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            free = shutil.disk_usage(target.parent).free / 2**20
            run_dir = next((p.parent for p in target.parents if p.name == CHECKPOINT_DIR), target.parent.parent)
            last = last_checkpoint(run_dir)
            raise CheckpointError(
                f"could not write {target} ({free:.0f} MiB free): {reason}. "
                f"The last whole checkpoint is {last or 'none yet'}; free some space and run the same command again"
            ) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> dict:
        if Path(path).is_dir():  # written by several ranks, see `sharded`
            from wan_alpha.training.sharded import load_whole

            return load_whole(Path(path))
        return _load(path, map_location=map_location or "cpu")


def _load(path: str | Path, **options: Any) -> dict:
    try:
        return torch.load(path, weights_only=True, **options)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}") from None
    except Exception as error:  # torch raises half a dozen types for a damaged archive
        raise CheckpointError(f"{path} is not a checkpoint that loads without pickles: {error}") from error


def read_header(path: Path) -> dict:
    """What a checkpoint says of its run.  Tensors of a file are only read from the disk if somebody looks at them."""
    return _load(path / REST if path.is_dir() else path, map_location="cpu", mmap=True)


def last_checkpoint(run_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run directory."""
    found = sorted((Path(run_dir) / CHECKPOINT_DIR).glob("step-*.ckpt"))
    return found[-1] if found else None


def remove_checkpoint(path: Path) -> None:
    """A file or a directory; what is half removed has no name that anybody looks for."""
    if path.is_dir():
        gone = path.with_name(path.name + ".gone.tmp")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class PeriodicCheckpoint(Callback):
    """Save every N optimiser steps; keep the last `keep`.

    The checkpoint of the last step is written when all else is done: a run that dies in its last validation or in its
    export does that part again.
    """

    def __init__(self, run_dir: str | Path, every_n_steps: int, keep: int) -> None:
        self.directory = Path(run_dir) / CHECKPOINT_DIR
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.saved_step = -1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        strategy: Any = trainer.strategy
        if hasattr(strategy, "check_checkpoint"):
            strategy.check_checkpoint()
        step = trainer.global_step
        at_step_end = not trainer.fit_loop._should_accumulate()
        if at_step_end and step % self.every_n_steps == 0 and step != trainer.max_steps:
            self.save_now(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.save(trainer)
        self.finish(trainer)

    def save_now(self, trainer: pl.Trainer) -> None:
        """Save at the end of a step, unless that has just been done."""
        if self.saved_step != trainer.global_step:
            # Lightning logs a step after this hook; what is not in metrics.csv when the checkpoint is written would be
            # lost if the run were killed in between.
            trainer._logger_connector.update_train_step_metrics()
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write `step-NNNNNNNN.ckpt`, then remove the oldest ones."""
        path = self.directory / f"step-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        self.saved_step = trainer.global_step
        self.remove_old(trainer)

    def finish(self, trainer: pl.Trainer) -> None:
        """Wait until what is written in the background is whole."""
        strategy: Any = trainer.strategy
        if hasattr(strategy, "finish_checkpoint"):
            strategy.finish_checkpoint()
            self.remove_old(trainer)

    def remove_old(self, trainer: pl.Trainer) -> None:
        """All but the newest `keep`; one that is being written in the background does not count yet."""
        if trainer.is_global_zero:
            for old in sorted(self.directory.glob("step-*.ckpt"))[: -self.keep]:
                remove_checkpoint(old)
