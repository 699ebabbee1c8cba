"""Reading webdataset shards by index.

A shard is a plain tar of samples `KEY.<media extension>` + `KEY.json`.  It is indexed once when it is opened (member
offsets and sizes); clips are then read by position, so that any order costs the same and an interrupted epoch can be
continued.  `shards.json`, written when the shards were made, says which shards there should be and how large; a `crc32`
in a sample's JSON guards its media on every read.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from wan_alpha.data.errors import DataError, MediaError
from wan_alpha.data.media import MEDIA_EXTENSIONS, read_frames
from wan_alpha.data.resize import Frames
from wan_alpha.data.source import Clip, hash_manifest

MANIFEST = "shards.json"
SCHEMA_VERSION = 1


class Member(NamedTuple):
    """Where a clip's media lies: shard, extension, and the bytes [offset, offset + size) of the tar."""

    shard: str
    ext: str
    offset: int
    size: int


class ShardSource:
    """Clips of one split of a folder of shards (`ClipSource`).

    Shards that are missing or of the wrong size and samples that are incomplete are named in `problems` and left out.

    Args:
        root: folder with `train-000000.tar`, `val-000000.tar`, ... and, normally, `shards.json`.
        split: "train" or "val".
        max_corrupt_share: share of lost samples above which the source refuses to open.
        verify: also compare every shard's sha256 with the manifest (reads everything once).

    Raises:
        DataError: there is no shard of this split, or more than `max_corrupt_share` of its samples are lost.
    """

    def __init__(self, root: Path | str, split: str, max_corrupt_share: float = 0.01, verify: bool = False) -> None:
        self.root = Path(root)
        self.clips: list[Clip] = []
        self.problems: list[str] = []
        self._members: list[Member] = []
        self._files: dict[str, int] = {}
        expected = _expected_shards(self.root, split)
        lost = sum(self._open_shard(name, entry, split, verify) for name, entry in expected.items())
        if lost > max_corrupt_share * (lost + len(self.clips)) or not self.clips:
            raise DataError(
                f"{self.root}: {lost} of {lost + len(self.clips)} {split} samples are lost, "
                f"more than max_corrupt_share={max_corrupt_share:g} allows:\n  " + "\n  ".join(self.problems)
            )
        self.manifest_hash = hash_manifest(
            (clip.key, *member) for clip, member in zip(self.clips, self._members, strict=True)
        )

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, start: int, count: int, stride: int = 1) -> Frames:
        """See `ClipSource.read`."""
        member, name = self._members[index], self.describe(index)
        data = self._bytes(member)
        # Decoders paint over damage without a word (FFmpeg's FFV1 too, its own checksums notwithstanding).
        promised = self.clips[index].meta.get("crc32")
        if promised is not None and zlib.crc32(data) != promised:
            raise MediaError(f"{name}: the bytes are not those that were written (crc32); copy the shard again")
        return read_frames(data, member.ext, start, count, stride, name=name)

    def describe(self, index: int) -> str:
        """Shard and key of a clip."""
        return f"{self.root / self._members[index].shard}: {self.clips[index].key}{self._members[index].ext}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # every worker process opens its own files

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)

    def _bytes(self, member: Member) -> bytes:
        """The media bytes of a member; reading by position needs no lock and no shared file pointer."""
        if member.shard not in self._files:
            try:
                self._files[member.shard] = os.open(self.root / member.shard, os.O_RDONLY)
            except OSError as error:
                raise MediaError(f"{self.root / member.shard}: cannot be opened ({error})") from error
        data = bytearray()
        while len(data) < member.size:
            try:
                chunk = os.pread(self._files[member.shard], member.size - len(data), member.offset + len(data))
            except OSError as error:
                raise MediaError(f"{self.root / member.shard}: cannot be read ({error})") from error
            if not chunk:
                raise MediaError(f"{self.root / member.shard}: ends within a sample; copy the shard again")
            data += chunk
        return bytes(data)

    def _open_shard(self, name: str, entry: dict[str, Any] | None, split: str, verify: bool) -> int:
        """Index one shard, note what is wrong with it and return how many of its samples are lost."""
        file = self.root / name
        promised = entry["samples"] if entry else None
        if not file.exists():
            self.problems.append(f"{file}: the shard is missing ({promised} samples); copy it again")
            return promised or 0
        problems = _differences(file, entry, verify)
        members, truncated = _index_tar(file)
        if truncated:
            problems.append(f"{file}: the tar ends early at byte {file.stat().st_size}; copy it again")
        before, incomplete = len(self.clips), 0
        for key, parts in members.items():
            try:
                self._add_sample(name, key, parts, split)
            except DataError as error:
                incomplete += 1
                problems.append(f"{file}: {key}: {error}")
        self.problems += problems
        found = len(self.clips) - before
        return incomplete if promised is None else max(promised - found, incomplete)

    def _add_sample(self, shard: str, key: str, parts: dict[str, tuple[int, int]], split: str) -> None:
        """Append a sample of a shard, or raise a DataError that says what it lacks."""
        media = [ext for ext in parts if ext in MEDIA_EXTENSIONS]
        if len(media) != 1 or ".json" not in parts:
            raise DataError(f"expected one media file and one .json, found {', '.join(sorted(parts))}")
        meta_member = Member(shard, ".json", *parts[".json"])
        try:
            meta = json.loads(self._bytes(meta_member))
            clip = Clip(
                key, int(meta["num_frames"]), float(meta["fps"]), int(meta["height"]), int(meta["width"]),
                str(meta.get("caption", "")), split, meta,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"its .json is not usable ({type(error).__name__}: {error})") from error
        self.clips.append(clip)
        self._members.append(Member(shard, media[0], *parts[media[0]]))


def _expected_shards(root: Path, split: str) -> dict[str, dict[str, Any] | None]:
    """Shard names of a split with their manifest entries, from `shards.json` or, without one, from the folder."""
    manifest = root / MANIFEST
    present = sorted(file.name for file in root.glob("*-*.tar"))
    entries: dict[str, dict[str, Any] | None] = dict.fromkeys(present)
    if manifest.exists():
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if content.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"{manifest}: expected schema_version {SCHEMA_VERSION}, found {content.get('schema_version')}; "
                "make the shards again with data_prep.shard"
            )
        entries = {entry["name"]: entry for entry in content["shards"]}
    chosen = {name: entry for name, entry in sorted(entries.items()) if name.rsplit("-", 1)[0] == split}
    if not chosen:
        found = ", ".join(entries) or "no shards at all"
        raise DataError(f"{root}: expected shards {split}-000000.tar ..., found {found}")
    return chosen


def _differences(file: Path, entry: dict[str, Any] | None, verify: bool) -> list[str]:
    """What the manifest promises of a shard and the file does not keep."""
    if entry is None:
        return []
    size = file.stat().st_size
    if size != entry["bytes"]:
        return [f"{file}: expected {entry['bytes']} bytes, found {size}; copy it again"]
    if verify and sha256_of(file) != entry["sha256"]:
        return [f"{file}: its sha256 is not the one in {MANIFEST}; copy it again"]
    return []


def _index_tar(file: Path) -> tuple[dict[str, dict[str, tuple[int, int]]], bool]:
    """{key: {extension: (offset, size)}} of the whole members of a tar, and whether the tar ends early."""
    members: dict[str, dict[str, tuple[int, int]]] = {}
    length = file.stat().st_size
    truncated = False
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, dot, ext = member.name.partition(".")
                if member.offset_data + member.size > length:
                    truncated = True
                    continue
                members.setdefault(key, {})[f"{dot}{ext}".lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError):
        truncated = True
    return members, truncated


def sha256_of(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
