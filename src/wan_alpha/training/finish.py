"""The end of a run: its last step is validated, and what was learned is exported as files that need no run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from safetensors import SafetensorError

from wan_alpha.models.whole_clip import encode_features, latent_mean
from wan_alpha.stages.base import BaseVAEModule
from wan_alpha.stages.stage import StageModule
from wan_alpha.training.checkpoints import CheckpointError, last_checkpoint
from wan_alpha.training.data import ClipDataModule
from wan_alpha.training.ema import AdapterEMA
from wan_alpha.training.guards import check_finite_weights
from wan_alpha.training.sharded import gathered


class LastStep(Callback):
    """The last step is logged, and the held-out clips are measured after it, whatever the intervals of both."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # Lightning logs and, if it ever does, validates before it stops


class Export(Callback):
    """At the end of a run, write the averaged weights: adapters, or for stage=base the whole VAE."""

    def __init__(
        self, run_dir: str | Path, ema: AdapterEMA, dtype: torch.dtype = torch.float32, statistics_batches: int = 20
    ) -> None:
        self.dtype = dtype
        self.run_dir = Path(run_dir)
        self.ema = ema
        self.statistics_batches = statistics_batches

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        check_finite_weights(pl_module, trainer)
        first = trainer.is_global_zero
        with self.ema.swapped_in(pl_module), gathered(pl_module.trainable(), pl_module, keep=first):
            if not first:
                return
            if isinstance(pl_module, BaseVAEModule):
                data: ClipDataModule = trainer.datamodule  # type: ignore[attr-defined]
                measure_latents(pl_module, islice(data.train_loader(first=0), self.statistics_batches))
            try:
                pl_module.export(self.run_dir, self.dtype)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"could not write what was learned to {self.run_dir}: {error}. The last whole checkpoint is "
                    f"{last_checkpoint(self.run_dir) or 'none yet'}; free some space and run the same command again"
                ) from error


@torch.no_grad()
def measure_latents(module: BaseVAEModule, batches: Iterable[dict]) -> None:
    """Mean of every channel and one standard deviation for all, over batches, into the VAE's config.

    One for all, because a small VAE leaves channels nearly unused: brought to the same scale as the others, what they
    hold by chance would be most of what a transformer has to predict.
    """
    latents = []
    for batch in batches:
        video = module.render({k: v.to(module.device) if torch.is_tensor(v) else v for k, v in batch.items()})
        z = latent_mean(module.vae, encode_features(module.vae, video))
        latents.append(z.transpose(0, 1).flatten(1))
    every = torch.cat(latents, dim=1).double()
    scale = float(every.var(1).mean().sqrt())
    module.vae.register_to_config(latents_mean=every.mean(1).tolist(), latents_std=[scale] * len(every))
