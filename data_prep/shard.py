"""Step 5: a data set folder becomes shards.

    python -m data_prep.shard root=DIR out=DIR [codec=ffv1|x264] [shard_mb=64] [workers=2] [engine=local|ray]

`root` is what `data_prep.ingest` wrote or any folder `FolderSource` reads.  What curation and review dropped is left
out, captions they corrected replace the old ones.  Beside the tars lie `index.jsonl`, one line per sample, and
`shards.json`, the manifest.  The same folder gives the same bytes, whatever the engine; an interrupted run continues.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from rich.progress import track

from data_prep.cli import parse, told
from data_prep.engine import Engine, open_engine
from data_prep.files import write_atomic
from data_prep.packing import COMPACT, Entry, Indexed, Job, encode_clip, encoding, pack, plan, write_lines
from data_prep.stage import Stage, fingerprint
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.shards import MANIFEST, SCHEMA_VERSION, sha256_of
from wan_alpha.data.source import SPLITS, Clip
from wan_alpha.schema import Natural, Positive, Share

Manifest = dict[str, Any]
Result = TypeVar("Result")
INDEX = "index.jsonl"
SKIPPED = "skipped.txt"
# What of a record goes into a sample's JSON; the rest (where a file lay) means nothing inside a shard.
META = (
    "licence",
    "source",
    "concept",
    "captions",
    "labels",
    "foreground",
    "motion",
    "glass",
    "translucent",
    "soft",
    "coverage",
)


@dataclass
class Options:
    """Pack a data set folder into webdataset shards, one set per split, with an index and a manifest."""

    root: Annotated[Path, "the data set folder"]
    out: Annotated[Path, "where the shards go"]
    codec: Annotated[str, "ffv1: lossless; x264: H.264 4:4:4 colour and lossless alpha, for large sets"] = "ffv1"
    keep: Annotated[bool, "keep the bytes of files that are compact as they are (WebP, WebM); false: encode all"] = True
    shard_mb: Annotated[Positive, "a shard is closed once it is larger than so many megabytes"] = 64.0
    val_share: Annotated[Share, "share of clips held out, where the folder does not say"] = 0.1
    workers: Annotated[Natural, "processes; 0: work in this one"] = 2
    engine: Annotated[str, "local: processes of this machine; ray: a Ray cluster"] = "local"
    ray: Annotated[str | None, "address of the Ray cluster; none: one is started on this machine"] = None


def shard(options: Options) -> Manifest:
    """Run the step and return the manifest.

    Raises:
        DataError: the folder holds no usable clip, or an option is not understood.
    """
    if options.codec not in COMPACT:
        raise DataError(f"codec={options.codec}: expected one of {', '.join(COMPACT)}")
    source = FolderSource(options.root, "all", options.val_share, curated=True)
    return write_shards(source, options.out, options=options)


def write_shards(
    source: FolderSource,
    out: Path,
    shard_mb: float = 64.0,
    keys: Container[str] | None = None,
    options: Options | None = None,
) -> Manifest:
    """Write the clips of a folder (opened with split "all") as shards, sorted by key, index and manifest at the end.

    Args:
        source: the folder.
        out: where the shards go.
        shard_mb: a shard is closed once it is larger than so many megabytes; `options` has its own.
        keys: write only these clips; by default all.
        options: how; by default in this process, bytes kept where they are compact.
    """
    options = options or Options(source.root, out, shard_mb=shard_mb, workers=0)
    out.mkdir(parents=True, exist_ok=True)
    skipped = list(source.problems)
    jobs = _jobs(source, keys, options)
    stage = Stage(out, fingerprint(jobs, options.codec, options.keep, options.shard_mb, SCHEMA_VERSION))
    try:
        with open_engine(options.engine, options.workers, options.ray) as engine:
            jobs = _encode(engine, jobs, stage, skipped)
            shards = _pack(engine, plan(jobs, stage.sizes, int(options.shard_mb * 1e6)), stage)
        manifest = _publish(stage, shards, jobs, out, options.codec, skipped)
    finally:
        stage.close()
    stage.remove()
    return manifest


def _jobs(source: FolderSource, keys: Container[str] | None, options: Options) -> list[Job]:
    """The clips that become samples, in the order of the shards."""
    jobs = []
    for index, clip in enumerate(source.clips):
        if keys is not None and clip.key not in keys:
            continue
        media = source.media(index)
        jobs.append(Job(clip.key, clip.split, media, encoding(media, options.codec, options.keep), _meta(clip)))
    return sorted(jobs, key=lambda job: (SPLITS.index(job.split), job.key))


def _encode(engine: Engine, jobs: list[Job], stage: Stage, skipped: list[str]) -> list[Job]:
    """Encode what is not yet; the clips that can be packed."""
    for job in jobs:
        if not job.encode:
            stage.sizes[job.key] = job.file(stage.folder).stat().st_size
    todo = [job for job in jobs if job.key not in stage.sizes]
    lost = set()
    for key, result in _tracked(engine.map(partial(encode_clip, stage=stage.folder), todo), len(todo), "encode"):
        if isinstance(result, str):
            skipped.append(result)
            lost.add(key)
        else:
            stage.note_clip(key, result)
    return [job for job in jobs if job.key not in lost]


def _pack(engine: Engine, groups: list[tuple[str, list[Job]]], stage: Stage) -> list[tuple[Entry, list[Indexed]]]:
    """Write the shards that are not written yet, and let go of the clips that are in one."""
    clips = dict(groups)
    todo = [group for group in groups if group[0] not in stage.shards]
    for entry, index in _tracked(engine.map(partial(pack, stage=stage.folder), todo), len(todo), "pack"):
        stage.note_shard(entry, index)
        for job in clips[entry["name"]]:
            if job.encode:
                job.staged(stage.folder).unlink(missing_ok=True)
    return [stage.shards[name] for name, _ in groups]


def _tracked(results: Iterator[Result], total: int, what: str) -> Iterable[Result]:
    return track(results, total=total, description=what, disable=not total)


def _publish(
    stage: Stage, shards: list[tuple[Entry, list[Indexed]]], jobs: list[Job], out: Path, codec: str, skipped: list[str]
) -> Manifest:
    """Move everything to its place; the manifest comes last, so that what it promises is there."""
    entries = [entry for entry, _ in shards]
    for entry in entries:
        if (stage.folder / entry["name"]).exists():  # else an interrupted run moved it
            os.replace(stage.folder / entry["name"], out / entry["name"])
    names = {entry["name"] for entry in entries}
    for split in SPLITS:  # shards of an earlier, larger run would be read as part of this one
        for old in out.glob(f"{split}-*.tar"):
            if old.name not in names:
                old.unlink()
    write_lines(out / INDEX, itertools.chain.from_iterable(index for _, index in shards))
    (out / SKIPPED).unlink(missing_ok=True)
    if skipped:
        write_atomic(out / SKIPPED, "".join(f"{reason}\n" for reason in skipped).encode())
    manifest = _manifest(entries, jobs, out, codec, len(skipped))
    write_atomic(out / MANIFEST, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    return manifest


def _manifest(entries: list[Entry], jobs: list[Job], out: Path, codec: str, skipped: int) -> Manifest:
    counts = Counter(job.split for job in jobs)
    frames = Counter[str]()
    for job in jobs:
        frames[job.split] += job.meta["num_frames"]
    licences = Counter(str(job.meta.get("licence", "unknown")) for job in jobs)
    return {
        "schema_version": SCHEMA_VERSION,
        "codec": codec,
        "shards": entries,
        "index": {"name": INDEX, "sha256": sha256_of(out / INDEX), "bytes": (out / INDEX).stat().st_size},
        "samples": {split: counts[split] for split in SPLITS},
        "frames": {split: frames[split] for split in SPLITS},
        "media": dict(sorted(Counter(job.ext for job in jobs).items())),
        "licences": sorted(licences),
        "samples_by_licence": dict(sorted(licences.items())),
        "sources": sorted({str(job.meta.get("source", "unknown")) for job in jobs}),
        "left_out": skipped,
    }


def _meta(clip: Clip) -> dict[str, Any]:
    known = {name: clip.meta[name] for name in META if name in clip.meta}
    return known | {
        "caption": clip.caption, "fps": clip.fps, "num_frames": clip.num_frames,
        "height": clip.height, "width": clip.width, "split": clip.split,
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.shard")
    with told():
        manifest = shard(options)
    size = sum(entry["bytes"] for entry in manifest["shards"]) / 1e6
    print(f"{manifest['samples']} clips in {len(manifest['shards'])} shards, {size:.1f} MB -> {options.out}")
    if manifest["left_out"]:
        print(f"{manifest['left_out']} left out, listed in {options.out / SKIPPED}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
