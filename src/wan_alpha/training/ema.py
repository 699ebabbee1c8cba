"""Exponential moving average of what is trained, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from wan_alpha.stages.stage import StageModule
from wan_alpha.training.sharded import local, locals_of


class AdapterEMA(Callback):
    """Keep `average = d average + (1 - d) weights` over the module's `trainable()` tensors.

    The decay warms up as (1 + n) / (10 + n), so that early averages are not stuck at the start.  Lightning's own
    EMAWeightAveraging averages a copy of the whole module, frozen base included.

    Args:
        decay: d; 0 switches the average off (the average is the weights).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.updates = 0
        self.validating = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        tensors = {name: p.detach() for name, p in pl_module.trainable().items()}
        if not self.average:
            self.average = {name: t.clone() for name, t in tensors.items()}
        self.average = {name: self.average[name].to(t.device) for name, t in tensors.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.updates:  # inside an accumulation
            return
        assert isinstance(pl_module, StageModule)
        self.updates = trainer.global_step
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = locals_of(list(self.average.values()))
        current = locals_of([p.detach() for p in pl_module.trainable().values()])
        torch._foreach_lerp_(averages, current, 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        self.validating.enter_context(self.swapped_in(pl_module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validating.close()

    @contextmanager
    def swapped_in(self, pl_module: StageModule) -> Iterator[None]:
        """Inside the `with` block the module carries the average; afterwards its own weights again."""
        parameters = pl_module.trainable()
        own = {name: local(p.detach()).clone() for name, p in parameters.items()}
        try:
            for name, p in parameters.items():
                local(p.data).copy_(local(self.average[name]))
            yield
        finally:
            for name, p in parameters.items():
                local(p.data).copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.updates = state_dict["average"], state_dict["updates"]
