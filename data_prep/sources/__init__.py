"""Adapters: one module per public set, each a function `clips(root, problems, choices)` that yields `RawClip`s.

What an adapter leaves out (a colour without its matte, a caption that is not UTF-8) it names in `problems`; what only
decoding can tell (sizes that differ, frames that are missing) is found when the clip is ingested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wan_alpha.data.media import Source


@dataclass(frozen=True)
class RawClip:
    """One clip as a set offers it, before anything is decoded.

    Attributes:
        key: stable name, without dots (a shard splits names at the first dot).
        media, ext: what `wan_alpha.data.media.read_frames` takes; for paths `ext` is empty.
        concept: clips that show nearly the same thing share it, and so never stand on both sides of a split.
        split: "train" or "val".
        fps: frames per second of media that do not say; none: what the media say.
        constant_fps: the rate at which a clip of variable frame rate is shown to be sampled; none: the user must say.
        composited: the colours are those of a photo, background included, so that soft edges need an estimate.
        extra: further facts of the set, which go into the record as they are.
    """

    key: str
    media: Source
    ext: str
    caption: str
    concept: str
    split: str
    licence: str
    source: str
    fps: float | None = None
    constant_fps: float | None = None
    composited: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choices:
    """What the user may choose about a set; each adapter reads what concerns it.

    Attributes:
        val_share: share held out, for sets that define no split.
        fps: frames per second of frame folders, which do not say; none: 24.
        licence: of the user's own clips.
        composited: the user's own clips are photos over their background.
        given_foreground: use the foreground colours that come with a set where they exist.
        skin_tones: also the skin-tone variants of emoji.
    """

    val_share: float = 0.1
    fps: float | None = None
    licence: str = "unknown"
    composited: bool = False
    given_foreground: bool = True
    skin_tones: bool = False


Adapter = Callable[[Path, list[str], Choices], Iterator[RawClip]]
