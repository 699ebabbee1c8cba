"""The optimiser that every stage uses: AdamW, linear warm-up, constant rate, linear decay at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

Optimiser = Callable[[Iterable[nn.Parameter]], OptimizerLRScheduler]
"""Parameters -> what Lightning's `configure_optimizers` returns."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a share of its peak: up over `warmup_steps`, flat, down to zero over the last `decay_share`."""

    steps: int
    warmup_steps: int = 0
    decay_share: float = 0.0

    def __call__(self, step: int) -> float:
        up = min(1.0, (step + 1) / (self.warmup_steps + 1))
        decay_steps = self.decay_share * self.steps
        down = (self.steps - step) / decay_steps if decay_steps else 1.0
        return max(0.0, min(up, down))


def adamw(
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> OptimizerLRScheduler:
    """What Lightning's `configure_optimizers` returns: the optimiser, and its schedule per step."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)
    # A function, because LambdaLR saves and restores the attributes of a callable object: a continued run would keep
    # the schedule it began with, whatever the configuration says.
    rate = LambdaLR(optimizer, lambda step: schedule(step))
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": rate, "interval": "step", "name": "lr"},
    }
