"""Clips in, batches out: media of every kind, shards and folders, resumable order, windows and crops."""

from wan_alpha.data.buckets import Bucket, BucketOrder, BucketSampler, assign
from wan_alpha.data.cache import Cache
from wan_alpha.data.dataset import Batch, ClipDataset, Sample, collate
from wan_alpha.data.errors import AlphaError, DataError, MediaError, StoreError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import MediaInfo, Pair, probe, read_frames, write_ffv1
from wan_alpha.data.mixture import MixedSource
from wan_alpha.data.order import GlobalOrderSampler, SampleOrder, locate, sample_order
from wan_alpha.data.shards import ShardSource
from wan_alpha.data.source import Clip, ClipSource
from wan_alpha.data.stores import open_store

__all__ = [
    "AlphaError",
    "Batch",
    "Bucket",
    "BucketOrder",
    "BucketSampler",
    "Cache",
    "Clip",
    "ClipDataset",
    "ClipSource",
    "DataError",
    "FolderSource",
    "GlobalOrderSampler",
    "MediaError",
    "MediaInfo",
    "MixedSource",
    "Pair",
    "Sample",
    "SampleOrder",
    "ShardSource",
    "StoreError",
    "assign",
    "collate",
    "locate",
    "open_store",
    "probe",
    "read_frames",
    "sample_order",
    "write_ffv1",
]
