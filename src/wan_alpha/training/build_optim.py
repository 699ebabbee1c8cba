"""The optimiser of a configuration."""

from __future__ import annotations

from wan_alpha.stages.optim import Optimiser, Schedule, adamw
from wan_alpha.training.config import RunConfig


def optimiser(config: RunConfig) -> Optimiser:
    """AdamW with the configured schedule."""
    optim = config.optim
    schedule = Schedule(schedule_steps(config), optim.warmup_steps, optim.decay_share)
    return lambda parameters: adamw(parameters, schedule, optim.lr, optim.betas, optim.weight_decay)


def schedule_steps(config: RunConfig) -> int:
    """For how many steps the learning rate is laid out."""
    return config.optim.schedule_steps or config.trainer.max_steps
