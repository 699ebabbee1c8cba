"""The training loss by noise level: an average over all t hides which of them is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wan_alpha.stages.stage import StageModule, sum_over_ranks

LEVELS = 4


class NoiseLevels:
    """Means of the loss over t in [0, 1/4), [1/4, 1/2), ... since the last logged row, of each rank by itself."""

    def __init__(self) -> None:
        self.sums = torch.zeros(2, LEVELS)  # of losses, and how many

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Losses (B,) at noise levels t (B,)."""
        level = (t * LEVELS).long().clamp(0, LEVELS - 1)
        new = torch.zeros(2, LEVELS, device=t.device)
        new.index_add_(1, level, torch.stack([losses.float(), torch.ones_like(losses, dtype=torch.float)]))
        self.sums = self.sums.to(t.device) + new

    def log(self, module: StageModule) -> None:
        """As `train/loss_t0..0.25` and so on, with the rows that are logged anyway."""
        if not module.row_is_due:
            return
        trainer: Any = module.trainer
        sums = sum_over_ranks(self.sums, trainer.world_size)
        means = {f"train/loss_t{n / LEVELS:g}-{(n + 1) / LEVELS:g}": total / count
                 for n, (total, count) in enumerate(sums.T.tolist()) if count}  # fmt: skip
        for logger in trainer.loggers:  # not through Lightning, which repeats a level's last value where it has none
            logger.log_metrics(means, step=module.global_step + 1)
        self.sums = torch.zeros_like(self.sums)

    def state(self, ranks: int) -> Tensor:
        """What a checkpoint needs to go on within a row: the sums of all ranks, which must call this together."""
        return sum_over_ranks(self.sums.clone(), ranks).cpu()

    def restore(self, state: Tensor, rank: int) -> None:
        """Go on from `state`, however many ranks there are now: the first one carries what there was."""
        self.sums = state if rank == 0 else torch.zeros_like(state)
