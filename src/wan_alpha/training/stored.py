"""Batches of latents that data_prep.encode has stored: data=latents data.root=DIR."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Subset

from wan_alpha.data.latents import LatentDataset, LatentSource, collate_latents
from wan_alpha.data.order import GlobalOrderSampler
from wan_alpha.data.rewording import TRANSPARENT, Rewording, vary_caption
from wan_alpha.data.worker import init_worker
from wan_alpha.training.config import DataConfig
from wan_alpha.training.data import pins, validation_share
from wan_alpha.training.strategies import data_share

_CAPTION_STREAM = 4  # as for latents that are encoded in the run


class Captioned(Dataset[dict[str, Any]]):
    """Stored samples with their captions in other words; the stored embeddings, of the plain words, are left out."""

    def __init__(self, dataset: LatentDataset, seed: int, style: Rewording) -> None:
        self.dataset, self.seed, self.style = dataset, seed, style

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, n: int) -> dict[str, Any]:
        sample = self.dataset[n]
        sample.pop("text", None)
        if self.style == "varied" and self.dataset.shuffle:
            rng = np.random.default_rng((self.seed, n, _CAPTION_STREAM))
            sample["caption"] = vary_caption(sample["caption"], TRANSPARENT, rng)
        return sample


class StoredLatentDataModule(pl.LightningDataModule):
    """Training batches in an endless, resumable order; held-out samples in their own.

    Args:
        config: the data part of a run's configuration; `root` was written by data_prep.encode.
        seed, accumulate: see `ClipDataModule`.
        wanted: what the latents must have been made with, see `LatentSource`.
        style: of the captions; stored embeddings are used for `plain` ones only.
        stored_text: whether stored embeddings may be used at all: not while the text encoder is trained.

    Raises:
        LatentsError: the latents are missing or of another base, other adapters, another shape.
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int,
        accumulate: int,
        wanted: dict[str, Any],
        style: Rewording,
        stored_text: bool,
    ) -> None:
        super().__init__()
        assert config.root is not None
        self.config, self.seed, self.accumulate = config, seed, accumulate
        self.style, self.stored_text = style, stored_text
        shape = {"num_frames": config.num_frames, "height": config.size[0], "width": config.size[1]}
        self.train_source = LatentSource(config.root, "train", wanted | shape, config.only, config.exclude)
        self.val_source = LatentSource(config.root, "val", wanted | shape)
        self.labels = None

    def dataset(self, source: LatentSource, shuffle: bool) -> Dataset[dict[str, Any]]:
        stored = LatentDataset(source, self.seed, shuffle)
        if self.stored_text and self.style == "plain":
            return stored
        return Captioned(stored, self.seed, self.style)

    def _loader(self, dataset: Any, **options: Any) -> DataLoader:
        workers = self.config.num_workers
        return DataLoader(
            dataset,
            collate_fn=collate_latents,
            num_workers=workers,
            pin_memory=pins(self.trainer),
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=init_worker,
            **options,
        )

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        return self.train_loader(self.trainer.global_step * self.accumulate)

    def train_loader(self, first: int) -> DataLoader:
        """This rank's batches from global batch number `first` on, without end."""
        assert self.trainer is not None
        (rank, world), size = data_share(self.trainer), self.config.batch_size
        sampler = GlobalOrderSampler(first * world * size, size, rank, world)
        return self._loader(self.dataset(self.train_source, shuffle=True), batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        count = min(self.config.val_clips or len(self.val_source), len(self.val_source))
        dataset: Any = Subset(self.dataset(self.val_source, shuffle=False), range(count))
        share = validation_share(dataset, self.trainer)
        return self._loader(dataset, batch_size=self.config.val_batch_size, sampler=share)
