"""Packing clips into tars: what a shard consists of, in pure functions of its clips.

First every clip that has to be encoded is (`encode_clip`), then sizes say which clips go into which shard (`plan`),
then each shard is written (`pack`).  All three are functions of their arguments alone, so that any engine may run them
in any order, and equal input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from wan_alpha.data.encode import WRITERS
from wan_alpha.data.errors import DataError, MediaError
from wan_alpha.data.media import MediaInfo, Pair, each_block, probe
from wan_alpha.data.shards import sha256_of
from wan_alpha.data.video import is_alpha_apart

COMPACT = {
    "ffv1": frozenset({".webp", ".webm", ".png", ".apng", ".mov", ".mkv"}),
    "x264": frozenset({".webp", ".webm", ".png"}),
}
"""Kinds of single files that are no larger than what a codec would make of them, and go into shards as they are."""


@dataclass(frozen=True)
class Job:
    """One clip on its way into a shard.

    Attributes:
        media: where its frames lie.
        encode: "ffv1" or "x264"; "": the file's own bytes are kept.
        meta: what goes into its JSON, without the checksum.
    """

    key: str
    split: str
    media: Path | Pair
    encode: str
    meta: dict[str, Any]

    @property
    def ext(self) -> str:
        """Extension of the media within the shard."""
        return ".mkv" if self.encode or isinstance(self.media, Pair) else self.media.suffix.lower()

    def staged(self, stage: Path) -> Path:
        """Where the encoded clip waits for its shard; named by a hash, for a key may be longer than a name may be."""
        return stage / "clips" / f"{hashlib.sha256(self.key.encode()).hexdigest()[:32]}{self.ext}"

    def file(self, stage: Path) -> Path:
        """The file whose bytes go into the shard."""
        if self.encode:
            return self.staged(stage)
        assert isinstance(self.media, Path)
        return self.media


class Entry(TypedDict):
    """A shard in the manifest."""

    name: str
    split: str
    sha256: str
    bytes: int
    samples: int
    frames: int


class Indexed(TypedDict):
    """One sample in the index: where its media lies, [offset, offset + size) of the tar, and its JSON."""

    key: str
    split: str
    shard: str
    ext: str
    offset: int
    size: int
    meta: dict[str, Any]


def encoding(media: Path | Pair, codec: str, keep: bool) -> str:
    """How a clip gets into a shard: "" as it is, or the codec."""
    if not (keep and isinstance(media, Path) and media.is_file()):
        return codec
    ext = media.suffix.lower()
    # What is lossy already would only lose more.
    compact = ext in COMPACT[codec] or (codec == "x264" and ext == ".mkv" and is_alpha_apart(media))
    return "" if compact else codec


def encode_clip(job: Job, stage: Path) -> tuple[str, int | str]:
    """Encode a clip into the stage: (key, bytes), or (key, why not)."""
    file = job.staged(stage)
    try:
        info = probe(job.media, None, job.key)
        promised = MediaInfo(job.meta["num_frames"], info.fps, job.meta["height"], job.meta["width"])
        if info != promised:
            raise MediaError(f"{job.key}: the record says {promised}, the file {info}; run data_prep.ingest again")
        WRITERS[job.encode](each_block(job.media, None, info, job.key), job.meta["fps"], file)
    except DataError as error:
        return job.key, str(error)
    return job.key, file.stat().st_size


def plan(jobs: list[Job], sizes: dict[str, int], limit: int) -> list[tuple[str, list[Job]]]:
    """(name, clips) of every shard: consecutive clips of a split, as many as it takes to reach `limit` bytes."""
    groups: list[tuple[str, list[Job]]] = []
    numbers: dict[str, int] = {}
    group: list[Job] = []
    size = 0
    for position, job in enumerate(jobs):
        group.append(job)
        size += sizes[job.key] + len(_json(job.meta))
        last = position + 1 == len(jobs) or jobs[position + 1].split != job.split
        if size >= limit or last:
            number = numbers[job.split] = numbers.get(job.split, -1) + 1
            groups.append((f"{job.split}-{number:06d}.tar", group))
            group, size = [], 0
    return groups


def pack(shard: tuple[str, list[Job]], stage: Path) -> tuple[Entry, list[Indexed]]:
    """Write one shard into the stage: media and JSON of each clip, in their order.

    Raises:
        DataError: the file of a clip is not there any more.
        OSError: the disk is full; nothing is left behind.
    """
    name, jobs = shard
    file, partial = stage / name, stage / f"{name}.tmp"
    try:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            indexed = [_add_sample(tar, name, job, stage) for job in jobs]
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())  # the journal must not be on the disk before the shard is
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    frames = sum(job.meta["num_frames"] for job in jobs)
    entry = Entry(
        name=name, split=jobs[0].split, sha256=sha256_of(file), bytes=file.stat().st_size, samples=len(jobs),
        frames=frames,
    )  # fmt: skip
    return entry, indexed


def _add_sample(tar: tarfile.TarFile, shard: str, job: Job, stage: Path) -> Indexed:
    try:
        data = job.file(stage).read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"{job.key}: {error.filename} disappeared while shards were written; run ingest again"
        ) from error
    meta = job.meta | {"crc32": zlib.crc32(data)}
    offset = _add(tar, f"{job.key}{job.ext}", data)
    _add(tar, f"{job.key}.json", _json(meta))
    return Indexed(
        key=job.key, split=job.split, shard=shard, ext=job.ext, offset=offset, size=len(data), meta=meta
    )  # fmt: skip


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member and return where its bytes begin."""
    member = tarfile.TarInfo(name)  # owner 0, time 0: nothing of the machine gets into the bytes
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode()


def write_lines(file: Path, lines: Iterable[Any]) -> None:
    """Write one JSON object per line, in one step."""
    partial = file.with_name(f"{file.name}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines)
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
