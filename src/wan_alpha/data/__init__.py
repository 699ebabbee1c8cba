"""Clips in, batches out: media of every kind, shards and folders, resumable order, windows and crops."""

from wan_alpha.data.dataset import Batch, ClipDataset, Sample, collate
from wan_alpha.data.errors import AlphaError, DataError, MediaError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import MediaInfo, Pair, probe, read_frames, write_ffv1
from wan_alpha.data.order import GlobalOrderSampler, locate, sample_order
from wan_alpha.data.shards import ShardSource
from wan_alpha.data.source import Clip, ClipSource

__all__ = [
    "AlphaError",
    "Batch",
    "Clip",
    "ClipDataset",
    "ClipSource",
    "DataError",
    "FolderSource",
    "GlobalOrderSampler",
    "MediaError",
    "MediaInfo",
    "Pair",
    "Sample",
    "ShardSource",
    "collate",
    "locate",
    "probe",
    "read_frames",
    "sample_order",
    "write_ffv1",
]
