"""Callbacks that stop a run which has gone wrong, and say what went wrong where."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from wan_alpha.stages.held_out import from_all_ranks
from wan_alpha.stages.stage import StageModule
from wan_alpha.training.checkpoints import CheckpointError, last_checkpoint
from wan_alpha.training.sharded import locals_of

log = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite."""


class DataLossError(RuntimeError):
    """Too many samples could not be read."""


class StopOnNonFinite(Callback):
    """Stop on a NaN or infinite loss, before it can reach a checkpoint.

    On the CPU the loss is looked at before its backward pass.  On an accelerator it is looked at one step late, when
    its copy has long arrived, so that the host never waits for the device; the weights of that one step are lost, but
    checkpoints are only written when the weights themselves are finite.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.pending: tuple[int, torch.Tensor, list[str]] | None = None
        self.copied: torch.Event | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict, *_: Any) -> None:
        self.keys = batch["key"]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        if loss.device.type == "cpu":
            self._check(trainer, trainer.global_step, loss, self.keys)
            return
        self._check_pending(trainer)
        self.pending = (trainer.global_step, loss.detach().to("cpu", non_blocking=True), self.keys)
        self.copied = torch.Event(loss.device)
        self.copied.record()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self._check_pending(trainer)
        assert isinstance(pl_module, StageModule)
        check_finite_weights(pl_module, trainer, self.keys)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check_pending(trainer)

    def _check_pending(self, trainer: pl.Trainer) -> None:
        if self.pending is not None and self.copied is not None:
            self.copied.synchronize()  # of the step before: it has nearly always happened
            self._check(trainer, *self.pending)
            self.pending = None

    @staticmethod
    def _check(trainer: pl.Trainer, step: int, loss: torch.Tensor, keys: list[str]) -> None:
        if torch.isfinite(loss):
            return
        raise NonFiniteLossError(
            f"the loss is {loss.item()} at step {step}, for the batch {keys}. {_what_is_left(trainer)}"
        )


def _what_is_left(trainer: pl.Trainer) -> str:
    last = last_checkpoint(trainer.default_root_dir)
    kept = "No checkpoint was written before" if last is None else f"{last} holds the last good state"
    return f"{kept}. Look at these clips, or lower optim.lr or trainer.gradient_clip_val"


def check_finite_weights(module: StageModule, trainer: pl.Trainer, keys: Sequence[str] = ()) -> None:
    """Raise if any trained tensor holds NaN or infinity: such a state is never saved.  `keys`: the latest batch."""
    norms = torch.stack(torch._foreach_norm(locals_of([p.detach() for p in module.trainable().values()])))
    if not torch.isfinite(norms).all():
        bad = [n for n, v in zip(module.trainable(), norms, strict=True) if not torch.isfinite(v)]
        batch = f", after the batch {list(keys)}" if keys else ""
        raise NonFiniteLossError(
            f"weights are not finite after step {trainer.global_step} ({bad[0]} and {len(bad) - 1} more){batch}; "
            f"not saved. {_what_is_left(trainer)}"
        )


class SameStart(Callback):
    """Refuse to train where ranks begin at different steps: each finds its checkpoint by itself."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = from_all_ranks(trainer.global_step, trainer.world_size)
        if len(set(steps)) > 1:
            found = ", ".join(f"rank {rank} at {step}" for rank, step in enumerate(steps))
            raise CheckpointError(
                f"the ranks begin at different steps ({found}), so they do not see the same checkpoints: "
                f"run_dir={trainer.default_root_dir} must be one directory for all machines. A network file system may "
                "show a new file late: then the same command is enough"
            )


class ReportUnreadable(Callback):
    """Write every sample that could not be read to `data_problems.jsonl`; stop when they are too many."""

    def __init__(self, run_dir: str | Path, max_share: float, grace: int = 100) -> None:
        self.file = Path(run_dir) / "data_problems.jsonl"
        self.max_share = max_share
        self.grace = grace
        self.seen = 0
        self.failed = 0

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict, *_: Any
    ) -> None:
        self._note(trainer, batch)

    def _note(self, trainer: pl.Trainer, batch: dict) -> list[str]:
        problems = [text for text in batch["problem"] if text]
        if problems:
            with open(self.file, "a") as file:
                for text in problems:
                    file.write(json.dumps({"step": trainer.global_step, "problem": text}) + "\n")
        return problems

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict, *_: Any) -> None:
        problems = self._note(trainer, batch)
        self.seen += len(batch["problem"])
        self.failed += len(problems)
        if problems and self.failed > self.max_share * max(self.seen, self.grace):
            raise DataLossError(
                f"{self.failed} of {self.seen} samples could not be read, more than data.max_corrupt_share="
                f"{self.max_share}. They are listed in {self.file}; the latest: {problems[-1]}"
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.failed:
            log.warning(
                "%d of %d samples could not be read, and others took their places; they are listed in %s",
                self.failed, self.seen, self.file,
            )  # fmt: skip

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen, "failed": self.failed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seen, self.failed = state_dict["seen"], state_dict["failed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what was listed after the step from which a run continues: it will be met again."""
        if trainer.global_rank:
            self.file = self.file.with_name(f"data_problems-rank{trainer.global_rank}.jsonl")
        if self.file.exists():
            lines = self.file.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("}\n")]  # a full disk may have cut the last one
            self.file.write_text("".join(line for line in whole if json.loads(line)["step"] < trainer.global_step))
