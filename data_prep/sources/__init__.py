"""Adapters: one module per public set, each a function `clips(root, ...)` that yields `RawClip`s."""

from __future__ import annotations

from dataclasses import dataclass

from wan_alpha.data.media import Source


@dataclass(frozen=True)
class RawClip:
    """One clip as a set offers it, before anything is decoded.

    Attributes:
        key: stable name, without dots (a shard splits names at the first dot).
        media, ext: what `wan_alpha.data.media.read_frames` takes.
        concept: clips that show nearly the same thing share it, and so never stand on both sides of a split.
        split: "train" or "val".
    """

    key: str
    media: Source
    ext: str
    caption: str
    concept: str
    split: str
    licence: str
    source: str
