"""Batches for Lightning: where a run stands in the order of samples follows from its step alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Subset

from ..data.dataset import Batch, ClipDataset, Sample, collate
from ..data.folders import FolderSource
from ..data.order import GlobalOrderSampler
from ..data.shards import ShardSource
from ..data.source import ClipSource
from .config import DataConfig


def open_source(config: DataConfig, split: str) -> ClipSource:
    """The clips of one split, from shards or from a folder."""
    root = Path(config.root)
    if config.kind == "clips":
        return FolderSource(root, split, val_share=config.val_share)
    return ShardSource(root, split, max_corrupt_share=config.max_corrupt_share)


def collate_one_colour(samples: list[Sample]) -> Batch:
    """A batch in which every sample has the colours of the first, as in the authors' code."""
    batch = collate(samples)
    for name in ("background", "canvas"):
        batch[name] = batch[name][:1].expand_as(batch[name]).clone()
    return batch


class ClipDataModule(pl.LightningDataModule):
    """Training batches in an endless, resumable order; validation clips whole and in their own order.

    Args:
        config: the data part of a run's configuration.
        seed: of the order and of every sample's own random numbers.
        accumulate: batches per optimiser step.
    """

    def __init__(self, config: DataConfig, seed: int, accumulate: int = 1) -> None:
        super().__init__()
        self.config, self.seed, self.accumulate = config, seed, accumulate
        self.train_source = open_source(config, "train")
        self.val_source = open_source(config, "val")

    def _dataset(self, source: ClipSource, augment: bool) -> ClipDataset:
        return ClipDataset(
            source,
            num_frames=self.config.num_frames,
            size=(self.config.size[0], self.config.size[1]),
            seed=self.seed,
            frame_stride=self.config.frame_stride,
            augment=augment,
            scale=(self.config.zoom[0], self.config.zoom[1]) if augment else (1.0, 1.0),
            stills=self.config.stills,
        )

    def _loader(self, dataset: Any, **options: Any) -> DataLoader:
        workers = self.config.num_workers
        return DataLoader(
            dataset,
            collate_fn=collate if self.config.colours == "sample" else collate_one_colour,
            num_workers=workers,
            persistent_workers=False,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            multiprocessing_context="spawn" if workers else None,
            **options,
        )

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        batches = self.trainer.global_step * self.accumulate
        return self.train_loader(start=batches * self.trainer.world_size * self.config.batch_size)

    def train_loader(self, start: int) -> DataLoader:
        """This rank's batches from global sample number `start` on, without end."""
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        sampler = GlobalOrderSampler(start, self.config.batch_size, rank, world)
        return self._loader(self._dataset(self.train_source, augment=True), batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        dataset = self._dataset(self.val_source, augment=False)
        count = min(self.config.val_clips or len(self.val_source), len(self.val_source))
        return self._loader(Subset(dataset, range(count)), batch_size=self.config.val_batch_size)
