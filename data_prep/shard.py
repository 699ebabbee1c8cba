"""Step 2: a data set folder becomes shards.

    python -m data_prep.shard root=DIR out=DIR [shard_mb=64] [val_share=0.1]

`root` is what `data_prep.ingest` wrote or any folder `FolderSource` reads.  Single RGBA files go into the shards
as they are; frame folders and fgr/pha pairs are encoded as lossless FFV1.  The same folder gives the same bytes.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.progress import track

from data_prep.cli import fail, parse
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import read_frames, write_ffv1
from wan_alpha.data.shards import MANIFEST, SCHEMA_VERSION, sha256_of
from wan_alpha.data.source import SPLITS, Clip

Manifest = dict[str, Any]
Members = list[tuple[str, bytes]]
# What of a record goes into a sample's JSON; the rest (where a file lay) means nothing inside a shard.
META = (
    "licence",
    "source",
    "concept",
    "captions",
    "foreground",
    "motion",
    "glass",
    "translucent",
    "soft",
    "coverage",
)


@dataclass
class Options:
    """Pack a data set folder into webdataset shards, one set per split, with a manifest."""

    root: Annotated[Path, "the data set folder"]
    out: Annotated[Path, "where the shards go"]
    shard_mb: Annotated[float, "a shard is closed once it is larger than so many megabytes"] = 64.0
    val_share: Annotated[float, "share of clips held out, where the folder does not say"] = 0.1


def shard(options: Options) -> Manifest:
    """Run the step and return the manifest.

    Raises:
        DataError: the folder holds no usable clip.
    """
    source = FolderSource(options.root, "all", options.val_share)
    for problem in source.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    return write_shards(source, options.out, options.shard_mb)


def write_shards(
    source: FolderSource, out: Path, shard_mb: float = 64.0, keys: Container[str] | None = None
) -> Manifest:
    """Write the clips of a folder (opened with split "all") as shards, sorted by key, and `shards.json` at the end.

    Args:
        source: the folder.
        out: where the shards go.
        shard_mb: a shard is closed once it is larger than so many megabytes.
        keys: write only these clips; by default all.
    """
    out.mkdir(parents=True, exist_ok=True)
    chosen = [index for index, clip in enumerate(source.clips) if keys is None or clip.key in keys]
    chosen.sort(key=lambda index: source.clips[index].key)
    shards: list[dict[str, Any]] = []
    for split in SPLITS:
        indices = [index for index in chosen if source.clips[index].split == split]
        shards += list(_write_split(source, split, indices, out, int(shard_mb * 1e6)))
    clips = [source.clips[index] for index in chosen]
    counts = Counter(clip.split for clip in clips)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "shards": shards,
        "samples": {split: counts[split] for split in SPLITS},
        "licences": sorted({str(clip.meta.get("licence", "unknown")) for clip in clips}),
        "sources": sorted({str(clip.meta.get("source", "unknown")) for clip in clips}),
    }
    kept = {entry["name"] for entry in shards}
    for split in SPLITS:  # shards of an earlier, larger run would be read as part of this one
        for old in out.glob(f"{split}-*.tar"):
            if old.name not in kept:
                old.unlink()
    partial = out / f"{MANIFEST}.tmp"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, out / MANIFEST)
    return manifest


def _write_split(
    source: FolderSource, split: str, indices: list[int], out: Path, limit: int
) -> Iterator[dict[str, Any]]:
    """Write the shards of one split and yield their manifest entries."""
    samples = (_sample(source, index) for index in track(indices, description=split, disable=not indices))
    for number, group in enumerate(_groups(samples, limit)):
        partial, file = out / f"{split}.tar.tmp", out / f"{split}-{number:06d}.tar"
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in itertools.chain.from_iterable(group):
                _add(tar, name, data)
        os.replace(partial, file)
        yield {"name": file.name, "sha256": sha256_of(file), "bytes": file.stat().st_size, "samples": len(group)}


def _groups(samples: Iterable[Members], limit: int) -> Iterator[list[Members]]:
    """Consecutive samples, as many as it takes to reach `limit` bytes."""
    group: list[Members] = []
    size = 0
    for sample in samples:
        group.append(sample)
        size += sum(len(data) for _, data in sample)
        if size >= limit:
            yield group
            group, size = [], 0
    if group:
        yield group


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner 0, time 0: nothing of the machine gets into the bytes
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def _sample(source: FolderSource, index: int) -> Members:
    """The members of one sample: media, then JSON."""
    clip, media = source.clips[index], source.media(index)
    if isinstance(media, Path) and media.is_file():
        ext, data = media.suffix.lower(), media.read_bytes()
    else:
        buffer = io.BytesIO()
        write_ffv1(read_frames(media, None, 0, clip.num_frames), clip.fps, buffer)
        ext, data = ".mkv", buffer.getvalue()
    meta = json.dumps(_meta(clip) | {"crc32": zlib.crc32(data)}, ensure_ascii=False, sort_keys=True).encode()
    return [(f"{clip.key}{ext}", data), (f"{clip.key}.json", meta)]


def _meta(clip: Clip) -> dict[str, Any]:
    known = {name: clip.meta[name] for name in META if name in clip.meta}
    return known | {
        "caption": clip.caption, "fps": clip.fps, "num_frames": clip.num_frames,
        "height": clip.height, "width": clip.width, "split": clip.split,
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.shard")
    try:
        manifest = shard(options)
    except DataError as error:
        fail(str(error))
    size = sum(entry["bytes"] for entry in manifest["shards"]) / 1e6
    print(f"{manifest['samples']} clips in {len(manifest['shards'])} shards, {size:.1f} MB -> {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
