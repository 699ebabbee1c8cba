"""Reading webdataset shards by index, from a folder or a URL.

A shard is a plain tar of samples `KEY.<media extension>` + `KEY.json`.  Where each sample lies is known when a source
is opened, from `index.jsonl` or by walking through the tars once; clips are then read by position, so that any order
costs the same and an interrupted epoch can be continued.  `shards.json`, written when the shards were made, says which
shards there should be and how large; a `crc32` in a sample's JSON guards its media on every read.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import track

from wan_alpha.data.errors import DataError, MediaError
from wan_alpha.data.media import read_frames
from wan_alpha.data.resize import Frames
from wan_alpha.data.source import Clip, clip_of, hash_manifest
from wan_alpha.data.stores import LocalStore, RemoteStore, Shard, Store, open_store
from wan_alpha.data.tars import Member, Row, read_index, walk_tar

MANIFEST = "shards.json"
SCHEMA_VERSION = 1


class ShardSource:
    """Clips of one split of a set of shards (`ClipSource`).

    Shards that are missing or of the wrong size and samples that are incomplete are named in `problems` and left out.
    A shard below a URL is only met when a clip of it is read.

    Args:
        root: folder or URL with `train-000000.tar`, `val-000000.tar`, ..., `shards.json` and, normally, `index.jsonl`.
            In a folder, `shards.json` may be missing too.
        split: "train" or "val".
        max_corrupt_share: share of lost samples above which the source refuses to open.
        verify: also compare every shard's sha256 with the manifest (reads everything once; folders only).
        store: how to read there; by default `open_store(root)`.

    Raises:
        DataError: there is no shard of this split, or more than `max_corrupt_share` of its samples are lost.
        StoreError: a URL does not answer.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        max_corrupt_share: float = 0.01,
        verify: bool = False,
        store: Store | None = None,
    ) -> None:
        self.store = open_store(root) if store is None else store
        self.clips: list[Clip] = []
        self.problems: list[str] = []
        self._members: list[Member] = []
        self._keys: set[str] = set()
        manifest = read_manifest(self.store, str(root))
        self._shards = _expected_shards(manifest, self.store, split, str(root))
        index = _index(manifest, self.store)
        lost = 0
        waiting = isinstance(self.store, RemoteStore) and index is None
        for shard in track(self._shards.values(), escape(f"fetching {root}"), disable=not waiting):
            lost += self._open_shard(shard, None if index is None else index.get(shard.name, []), split, verify)
        if lost > max_corrupt_share * (lost + len(self.clips)) or not self.clips:
            raise DataError(
                f"{root}: {lost} of {lost + len(self.clips)} {split} samples are lost, "
                f"more than max_corrupt_share={max_corrupt_share:g} allows:\n  " + "\n  ".join(self.problems)
            )
        self.manifest_hash = hash_manifest(
            (clip.key, *member) for clip, member in zip(self.clips, self._members, strict=True)
        )

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, start: int, count: int, stride: int = 1) -> Frames:
        """See `ClipSource.read`."""
        data = self._bytes(index)
        return read_frames(data, self._members[index].ext, start, count, stride, name=self.describe(index))

    def checksum(self, index: int) -> int | None:
        """See `ClipSource.checksum`."""
        return self.clips[index].meta.get("crc32")

    def describe(self, index: int) -> str:
        """Shard and key of a clip."""
        member = self._members[index]
        return f"{self.store.describe(member.shard)}: {self.clips[index].key}{member.ext}"

    def _bytes(self, index: int) -> bytes:
        """The media of a clip, as it was written."""
        _, _, offset, size = self._members[index]
        shard, promised = self._shards[self._members[index].shard], self.checksum(index)
        for _ in range(2):
            data = self.store.part(shard, offset, size)
            # Decoders paint over damage without a word (FFmpeg's FFV1 too, its own checksums notwithstanding).
            if promised is None or zlib.crc32(data) == promised:
                return data
            if not self.store.forget(shard, offset, size):
                break
        raise MediaError(
            f"{self.describe(index)}: the bytes are not those that were written (crc32); copy the shard again"
        )

    def _open_shard(self, shard: Shard, rows: list[Row] | None, split: str, verify: bool) -> int:
        """Add the samples of one shard, note what is wrong with it and return how many of its samples are lost."""
        where, promised = self.store.describe(shard.name), shard.samples
        problems: dict[str, str] = {}
        if isinstance(self.store, LocalStore):
            file = self.store.root / shard.name
            if not file.exists():
                self.problems.append(f"{where}: the shard is missing ({promised} samples); copy it again")
                return promised
            differs = _difference(file, shard, verify)
            self.problems += differs
            if rows is None or differs:
                with file.open("rb") as handle:
                    rows = self._walk(handle, shard, file.stat().st_size, problems)
        elif rows is None:
            try:
                data = self.store.part(shard, 0, shard.bytes)
            except MediaError as error:
                self.problems.append(str(error))
                return promised
            rows = self._walk(io.BytesIO(data), shard, len(data), problems)
        before = len(self.clips)
        for row in rows:
            try:
                clip = clip_of(row.key, row.meta, split)
                if clip.key in self._keys:
                    raise DataError("another sample has this key too; make the shards again with data_prep.shard")
                if not 0 <= row.member.offset <= row.member.offset + row.member.size <= shard.bytes:
                    raise DataError("the index points out of the shard; make it again with data_prep.index")
                self._keys.add(clip.key)
                self.clips.append(clip)
                self._members.append(row.member)
            except DataError as error:
                problems[row.key] = str(error)
        self.problems += [f"{where}: {key}: {reason}" for key, reason in problems.items()]
        lost = max(promised - (len(self.clips) - before), len(problems))
        if lost > len(problems):
            self.problems.append(f"{where}: {lost} of its {promised} samples are lost")
        return lost

    def _walk(self, file: Any, shard: Shard, length: int, problems: dict[str, str]) -> list[Row]:
        rows, found, truncated = walk_tar(file, shard.name, length)
        problems.update(found)
        if truncated:
            self.problems.append(
                f"{self.store.describe(shard.name)}: the tar ends early at byte {length}; copy it again"
            )
        return rows


def read_manifest(store: Store, root: str) -> dict[str, Any] | None:
    """The content of `shards.json`; none if a folder has none.

    Raises:
        DataError: a URL has none, or it is not what it has to be.
    """
    where = store.describe(MANIFEST)
    try:
        data = store.whole(MANIFEST)
    except FileNotFoundError:
        if isinstance(store, LocalStore):
            return None
        raise DataError(f"{root}: expected {MANIFEST} there, found none; make shards with data_prep.shard") from None
    try:
        content: dict[str, Any] = json.loads(data)
        version = content["schema_version"]
        _ = [(entry["name"], entry["bytes"] + entry["samples"], entry["sha256"]) for entry in content["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: not a manifest ({error!r}); copy it again") from error
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{where}: expected schema_version {SCHEMA_VERSION}, found {version}; make the shards again with "
            "data_prep.shard"
        )
    return content


def _expected_shards(manifest: dict[str, Any] | None, store: Store, split: str, root: str) -> dict[str, Shard]:
    """The shards of a split by name, from the manifest or, without one, from the folder."""
    if manifest is not None:
        shards = [Shard(e["name"], e["bytes"], e["sha256"], e["samples"]) for e in manifest["shards"]]
    else:
        assert isinstance(store, LocalStore)
        files = sorted(store.root.glob("*-*.tar"))
        shards = [Shard(file.name, file.stat().st_size, "", 0) for file in files]
    chosen = {shard.name: shard for shard in sorted(shards) if shard.name.rsplit("-", 1)[0] == split}
    if not chosen:
        found = ", ".join(shard.name for shard in shards) or "no shards at all"
        raise DataError(
            f"{root}: expected shards {split}-000000.tar ..., found {found}; data_prep.shard makes them "
            "(docs/data/README.md)"
        )
    return chosen


def _index(manifest: dict[str, Any] | None, store: Store) -> dict[str, list[Row]] | None:
    """{shard: samples} from the index that the manifest names, if it names one."""
    entry = (manifest or {}).get("index")
    if entry is None:
        if isinstance(store, RemoteStore):
            store.fetch = "shards"  # each is read once anyway, to find what is in it
        return None
    try:
        text = store.whole(entry["name"], entry["sha256"], entry["bytes"]).decode()
    except FileNotFoundError as error:
        raise DataError(f"{store.describe(entry['name'])}: the index is missing; copy it again") from error
    return read_index(text, store.describe(entry["name"]))


def _difference(file: Path, shard: Shard, verify: bool) -> list[str]:
    """What the manifest promises of a shard and the file does not keep."""
    size = file.stat().st_size
    if size != shard.bytes:
        return [f"{file}: expected {shard.bytes} bytes, found {size}; copy it again"]
    if verify and shard.sha256 and sha256_of(file) != shard.sha256:
        return [f"{file}: its sha256 is not the one in {MANIFEST}; copy it again"]
    return []


def sha256_of(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
