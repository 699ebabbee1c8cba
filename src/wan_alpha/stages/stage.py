"""What every stage has in common: something that is trained, saved and exported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from wan_alpha.models.base import fingerprint
from wan_alpha.stages.held_out import HeldOut
from wan_alpha.stages.optim import Optimiser


def sum_over_ranks(x: Tensor, ranks: int) -> Tensor:
    """In place.  Lightning's own reduction begins with a barrier, at which the host waits for all devices."""
    if ranks > 1:
        dist.all_reduce(x)
    return x


def is_logged(trainer: Any, step: int) -> bool:
    """Whether loggers get a row of step number `step`, from 1 on: one in `trainer.log_every_n_steps`, and the last."""
    return step % trainer.log_every_n_steps == 0 or step == trainer.max_steps


class StageModule(pl.LightningModule, ABC):
    """A LightningModule whose state is what it trains: frozen bases stay out of checkpoints.

    Args:
        optimiser: parameters -> what `configure_optimizers` returns.
    """

    def __init__(self, optimiser: Optimiser) -> None:
        super().__init__()
        self.optimiser = optimiser
        self.held_out = HeldOut()
        self._unlogged: list[dict[str, Tensor]] = []

    @property
    @abstractmethod
    def base(self) -> AutoencoderKLWan:
        """The Wan VAE underneath."""

    def base_fingerprint(self) -> str | dict[str, str]:
        """A hash of the frozen weights that a checkpoint belongs to."""
        return fingerprint(self.base)

    @abstractmethod
    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained, averaged and saved, by name."""

    @abstractmethod
    def export(self, directory: Path, dtype: torch.dtype) -> None:
        """Write the current weights in the form that users load."""

    def shard_units(self) -> Iterator[nn.Module]:
        """What is sharded as one piece under trainer.strategy=fsdp, inner modules first.

        Each must be called as a whole (`unit(x)`) and together they must hold all that is trained.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be sharded")

    def divide_tokens(self, group: Any) -> None:
        """Divide the tokens of each clip over a process group (trainer.context_ranks)."""
        raise NotImplementedError(f"{type(self).__name__} has no tokens to divide")

    def configure_model(self) -> None:
        # Every rank has read what is frozen from the same files, and DDP cannot send what is quantised.
        frozen = [name for name, p in self.named_parameters() if not p.requires_grad]
        buffers = [name for name, _ in self.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, frozen + buffers)
        shard = getattr(self.trainer.strategy, "shard", None)
        if shard is not None:
            shard(self)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """All but what is made on the host: random numbers from the samples' own, shifts of noise from their masks."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved | {name: batch[name] for name in ("index", "mask") if name in batch}

    def log_step(self, values: Mapping[str, Tensor]) -> None:
        """Log scalars of an optimiser step as `train/NAME`: means over its accumulated batches and its ranks.

        Only of steps that become a row: of others nobody would see them, and their reduction would be one more meeting
        of all ranks.
        """
        self._unlogged.append({name: value.detach().float() for name, value in values.items()})

    @property
    def row_is_due(self) -> bool:
        """Whether loggers get a row of the step that is being taken."""
        return is_logged(self.trainer, self.global_step + 1)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """One small reduction, after the backward pass: in the forward pass all would wait for the slowest rank.

        The row is numbered by the steps done.
        """
        batches, self._unlogged = self._unlogged, []
        if not self.row_is_due:
            return
        names = list(batches[-1])
        stacked = torch.stack([torch.stack([*values.values()]) for values in batches]).mean(0)
        stacked = sum_over_ranks(stacked, self.trainer.world_size) / self.trainer.world_size
        self.log_dict({f"train/{name}": value for name, value in zip(names, stacked, strict=True)})
        self.log("step", torch.full((), self.global_step + 1.0, device=self.device))

    def log_held_out(self, names: Sequence[str], mean_as: str | None = None) -> None:
        """At the end of a validation: the means of what `held_out` was given, as `val/NAME`.

        Args:
            names: of its figures.
            mean_as: also log the mean of the means, under this name.
        """
        means = self.held_out.means(self.trainer.world_size)
        if means is None:
            return
        for name, value in zip(names, means, strict=True):
            self.log(f"val/{name}", value.float(), prog_bar=mean_as is None)
        if mean_as is not None:
            self.log(f"val/{mean_as}", means.mean().float(), prog_bar=True)
        self.log("step", float(self.global_step))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimiser(self.trainable().values())

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return {name: p.detach() for name, p in self.trainable().items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        own = self.trainable()
        if own.keys() != state_dict.keys():
            differing = sorted(own.keys() ^ state_dict.keys())
            raise ValueError(f"the checkpoint holds other weights than this model: {differing[:3]} ...")
        for name, parameter in own.items():
            parameter.copy_(state_dict[name])
