"""What a data set looks like to the rest of the library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol
from unicodedata import category

from wan_alpha.data.errors import DataError
from wan_alpha.data.resize import Frames

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Clip:
    """One clip of a source: its stable name, what it holds, and what is known of it (`meta`: licence, concept, ...)."""

    key: str
    num_frames: int
    fps: float
    height: int
    width: int
    caption: str
    split: str
    meta: Mapping[str, Any] = field(default_factory=dict)


class ClipSource(Protocol):
    """Clips that can be read by index, in the same order everywhere.

    Attributes:
        clips: what there is, sorted by where it lies.
        problems: what was left out when the source was opened, each by name and with the reason.
        manifest_hash: sha256 of what the source consists of; equal hashes mean equal data in equal order.
    """

    clips: list[Clip]
    problems: list[str]
    manifest_hash: str

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def read(self, index: int, start: int, count: int, stride: int = 1) -> Frames:
        """Frames start, start + stride, ... of clip `index` as uint8 (count, H, W, 4), straight colour.

        Raises:
            MediaError: the clip cannot be decoded; the message names where it lies.
        """
        ...

    def checksum(self, index: int) -> int | None:
        """crc32 of the bytes of clip `index`; None where it was not noted when they were packed, or they are gone."""
        ...

    def describe(self, index: int) -> str:
        """Where clip `index` lies, for messages."""
        ...


def chosen_captions(known: Iterable[str], only: Iterable[str], exclude: Iterable[str]) -> frozenset[str]:
    """The captions to train on: of the known ones `only` these (none given: all), and none of `exclude`.

    Raises:
        DataError: a name in either list is no known caption.
    """
    known = frozenset(known)
    for key, names in (("only", only), ("exclude", exclude)):
        if unknown := sorted(set(names) - known):
            raise DataError(f"no training clip has the caption {unknown[0]!r}, which data.{key} names")
    return (frozenset(only) or known) - frozenset(exclude)


class Chosen:
    """The clips of a source that have one of some captions.

    Args:
        source: all clips.
        captions: of the clips that stay.
    """

    def __init__(self, source: ClipSource, captions: Iterable[str]) -> None:
        self.source, names = source, frozenset(captions)
        self.indices = [n for n, clip in enumerate(source.clips) if clip.caption in names]
        self.clips = [source.clips[n] for n in self.indices]
        self.problems = source.problems
        self.manifest_hash = hash_manifest([(source.manifest_hash, *sorted(names))])

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, start: int, count: int, stride: int = 1) -> Frames:
        """See `ClipSource.read`."""
        return self.source.read(self.indices[index], start, count, stride)

    def checksum(self, index: int) -> int | None:
        """See `ClipSource.checksum`."""
        return self.source.checksum(self.indices[index])

    def describe(self, index: int) -> str:
        """See `ClipSource.describe`."""
        return self.source.describe(self.indices[index])


def clip_of(key: str, meta: Mapping[str, Any], split: str) -> Clip:
    """The clip that the JSON of a record or of a sample describes.

    Raises:
        DataError: something is missing there, of the wrong type or out of its range, or the key is no name.
    """
    if problem := key_problem(key):
        raise DataError(problem)
    try:
        clip = Clip(
            key, int(meta["num_frames"]), float(meta["fps"]), int(meta["height"]), int(meta["width"]),
            str(meta.get("caption", "")), split, meta,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"its .json is not usable ({type(error).__name__}: {error})") from error
    if min(clip.num_frames, clip.height, clip.width) < 1 or not 0 < clip.fps < inf or split not in SPLITS:
        shape = f"{clip.num_frames} frames of {clip.height}x{clip.width} at {clip.fps:g} fps"
        raise DataError(f"{shape} in split {split!r}: expected numbers above 0, and one of {', '.join(SPLITS)}")
    return clip


def key_problem(key: str) -> str:
    """What is wrong with a key that names files and members of shards; "" if nothing."""
    if not isinstance(key, str) or not key or any(char in "./\\" or category(char) in ("Cc", "Cs") for char in key):
        return f"the key {key!r} is empty, or has dots, slashes, control characters or bytes that are no UTF-8 in it"
    return ""


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of the lines that are not blank.

    A line feed alone ends a line: captions may hold signs such as U+2028, which `str.splitlines` takes for an end.
    """
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def hash_manifest(entries: Iterable[tuple[str | int, ...]]) -> str:
    """sha256 over the entries of a manifest, each a tuple of names and numbers, in their order."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update("\t".join(str(part) for part in entry).encode() + b"\n")
    return digest.hexdigest()
