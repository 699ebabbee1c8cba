"""Batches for Lightning: where a run stands in the order of samples follows from its step alone."""

from __future__ import annotations

from itertools import accumulate, zip_longest
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, DistributedSampler, Sampler, Subset

from wan_alpha.data.buckets import Bucket, BucketOrder, BucketSampler, assign
from wan_alpha.data.dataset import HELD_OUT_SEED, Batch, ClipDataset, Sample, collate
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.mixture import MixedSource
from wan_alpha.data.order import GlobalOrderSampler, SampleOrder
from wan_alpha.data.shards import ShardSource
from wan_alpha.data.source import Chosen, ClipSource, chosen_captions
from wan_alpha.data.stores import open_store
from wan_alpha.data.worker import init_worker
from wan_alpha.training.config import DataConfig
from wan_alpha.training.strategies import data_share


def open_source(config: DataConfig, split: str) -> ClipSource:
    """The clips of one split, from shards or from a folder; several sets one after the other.

    Training sees only the clips whose captions are in `data.only`, if there are any, and none of `data.exclude`.

    Raises:
        DataError: no clip has one of these captions.
    """
    roots = [config.root] if config.sources is None else [source.root for source in config.sources]
    parts = [_open_root(config, root, split) for root in roots if root is not None]
    if split == "train" and (config.only or config.exclude):
        known = (clip.caption for part in parts for clip in part.clips)
        chosen = chosen_captions(known, config.only, config.exclude)
        parts = [Chosen(part, chosen) for part in parts]
    return parts[0] if config.sources is None else MixedSource(parts)


def _open_root(config: DataConfig, root: str, split: str) -> ClipSource:
    if config.kind == "clips":
        return FolderSource(root, split, config.val_share, config.premultiplied, curated=True)
    store = open_store(root, config.cache_dir, config.cache_gb, config.fetch)
    return ShardSource(root, split, max_corrupt_share=config.max_corrupt_share, store=store)


def sample_order(config: DataConfig, source: ClipSource, seed: int) -> SampleOrder:
    """Which clip is sample number n: all clips as one set, or the configured sets mixed by weight."""
    if isinstance(source, MixedSource) and config.sources is not None:
        return SampleOrder([len(part) for part in source.parts], seed, [part.weight for part in config.sources])
    return SampleOrder([len(source)], seed)


def data_buckets(config: DataConfig) -> list[Bucket]:
    """The configured shapes of training batches; none when there is only one."""
    return [Bucket(bucket.num_frames, (bucket.size[0], bucket.size[1])) for bucket in config.buckets or ()]


def validation_clips(source: ClipSource, limit: int | None) -> list[int]:
    """The first `limit` held-out clips, of a mixture as evenly as can be from each set; None takes all."""
    parts = source.parts if isinstance(source, MixedSource) else [source]
    starts = accumulate((len(part) for part in parts), initial=0)
    columns = [range(start, start + len(part)) for start, part in zip(starts, parts, strict=False)]
    turns = [index for turn in zip_longest(*columns) for index in turn if index is not None]
    return sorted(turns[:limit])


def collate_one_colour(samples: list[Sample] | Batch) -> Batch:
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

    start_method = "spawn"  # of workers: a fork would copy the threads' locks of CUDA and of the network

    def __init__(self, config: DataConfig, seed: int, accumulate: int = 1) -> None:
        super().__init__()
        self.config, self.seed, self.accumulate = config, seed, accumulate
        self.train_source = open_source(config, "train")
        self.val_source = open_source(config, "val")
        self.order = sample_order(config, self.train_source, seed)
        self.buckets = data_buckets(config)
        self.labels = None
        if self.buckets:
            stride, endless = low_high(config.frame_stride)[0], config.stills != "static"
            self.labels = assign(self.train_source.clips, self.buckets, stride, endless)

    def dataset(self, source: ClipSource, augment: bool) -> ClipDataset:
        return ClipDataset(
            source,
            num_frames=self.config.num_frames,
            size=(self.config.size[0], self.config.size[1]),
            seed=self.seed if augment else HELD_OUT_SEED,
            frame_stride=low_high(self.config.frame_stride),
            augment=augment,
            scale=(self.config.zoom[0], self.config.zoom[1]) if augment else (1.0, 1.0),
            stills=self.config.stills,
            order=self.order if augment else None,
            buckets=self.buckets,
            labels=self.labels,
            captions=self.config.captions,
            flip=self.config.flip,
        )

    def _loader(self, dataset: Any, **options: Any) -> DataLoader:
        workers = self.config.num_workers
        return DataLoader(
            dataset,
            collate_fn=collate if self.config.colours == "sample" else collate_one_colour,
            num_workers=workers,
            persistent_workers=False,
            pin_memory=pins(self.trainer),
            multiprocessing_context=self.start_method if workers else None,
            worker_init_fn=init_worker,
            **options,
        )

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        return self.train_loader(self.trainer.global_step * self.accumulate)

    def train_loader(self, first: int) -> DataLoader:
        """This rank's batches from global batch number `first` on, without end."""
        assert self.trainer is not None
        return self.rank_loader(first, *data_share(self.trainer))

    def rank_loader(self, first: int, rank: int = 0, world_size: int = 1) -> DataLoader:
        """The batches of one of `world_size` ranks from global batch number `first` on, without end."""
        sampler = self.sampler(first, rank, world_size)
        return self._loader(self.dataset(self.train_source, augment=True), batch_sampler=sampler)

    def sampler(self, first: int, rank: int, world_size: int) -> Sampler[list[int]]:
        """Sample numbers of a rank's batches from global batch number `first` on, without end."""
        global_batch = world_size * self.config.batch_size
        if self.labels is None:
            return GlobalOrderSampler(first * global_batch, self.config.batch_size, rank, world_size)
        return BucketSampler(BucketOrder(self.order, self.labels, global_batch), first, rank, world_size)

    def val_dataloader(self) -> DataLoader:
        dataset = self.dataset(self.val_source, augment=False)
        chosen = Subset(dataset, validation_clips(self.val_source, self.config.val_clips))
        share = validation_share(chosen, self.trainer)
        return self._loader(chosen, batch_size=self.config.val_batch_size, sampler=share)


def validation_share(held_out: Any, trainer: Any) -> Sampler[int] | None:
    """Of R ranks, rank r has the held-out clips r, r + R, ...; some have one twice, so that all have as many."""
    rank, ranks = (0, 1) if trainer is None else data_share(trainer)
    return None if ranks == 1 else DistributedSampler(held_out, ranks, rank, shuffle=False)


def pins(trainer: Any) -> bool:
    """Whether batches are laid where a GPU can fetch them while the host goes on."""
    return trainer is not None and trainer.strategy.root_device.type == "cuda"


def low_high(value: int | list[int]) -> tuple[int, int]:
    """A number or a range as a range."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
