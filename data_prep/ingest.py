"""Step 1: a public set becomes a data set folder.

    python -m data_prep.ingest source=fluent root=DIR out=DIR [size=128] [skin_tones=false] [workers=2] [limit=N]

`out` then holds one media file per clip and `records.jsonl`, one JSON object per clip.  Every file appears complete or
not at all, and the same command continues an interrupted run.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep.cli import fail, parse
from data_prep.measures import measure
from data_prep.sources import RawClip, fluent
from wan_alpha.data.errors import AlphaError, DataError
from wan_alpha.data.media import probe, read_frames, write_ffv1
from wan_alpha.data.resize import resize_rgba, to_uint8

RECORDS = "records.jsonl"
Record = dict[str, Any]


@dataclass
class Options:
    """Turn a public set into a data set folder: one media file per clip, and records.jsonl."""

    source: Annotated[str, "the set: fluent"]
    root: Annotated[Path, "where the set lies, as its publisher packs it"]
    out: Annotated[Path, "the data set folder to write"]
    size: Annotated[int | None, "resize the short side to so many pixels, lossless; none: bytes as they are"] = None
    skin_tones: Annotated[bool, "fluent: also the skin-tone variants"] = False
    workers: Annotated[int, "processes; 0: work in this one"] = 2
    limit: Annotated[int | None, "stop after so many clips"] = None


def _fluent(options: Options) -> Iterator[RawClip]:
    return fluent.clips(options.root, options.skin_tones)


SOURCES: dict[str, Callable[[Options], Iterator[RawClip]]] = {"fluent": _fluent}


def ingest(options: Options) -> list[Record]:
    """Run the step and return the records, sorted by key.

    Raises:
        DataError: the source is unknown, its root is not what it expects, or no clip could be used.
    """
    if options.source not in SOURCES:
        raise DataError(f"source={options.source}: unknown set; expected one of {', '.join(SOURCES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    done = _finished(options.out, options.size)
    todo = itertools.islice(SOURCES[options.source](options), options.limit)
    journal = options.out / f"{RECORDS}.tmp"
    skipped = []
    with journal.open("w", encoding="utf-8") as log:
        for record in done.values():
            log.write(json.dumps(record) + "\n")
        for key, result in _run(todo, done, options):
            if isinstance(result, str):
                skipped.append(result)
                continue
            done[key] = result
            log.write(json.dumps(result) + "\n")
            log.flush()
    if not done:
        raise DataError(f"{options.root}: no clip could be used\n" + "\n".join(skipped))
    records = [done[key] for key in sorted(done)]
    write_records(options.out, records)
    journal.unlink()
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    return records


def write_records(out: Path, records: list[Record]) -> None:
    """Write `records.jsonl` in one step."""
    temporary = out / f"{RECORDS}.new.tmp"
    temporary.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    os.replace(temporary, out / RECORDS)


def _finished(out: Path, size: int | None) -> dict[str, Record]:
    """Records of an earlier run of the same form whose media files are there."""
    finished = {}
    for file in (out / RECORDS, out / f"{RECORDS}.tmp"):
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line during which an earlier run was interrupted
            if record.get("size") == size and (out / record["media"]).exists():
                finished[record["key"]] = record
    return finished


def _run(todo: Iterator[RawClip], done: dict[str, Record], options: Options) -> Iterator[tuple[str, Record | str]]:
    """(key, record or the reason why there is none) of every clip that is not done, as they become ready."""
    columns = (TextColumn("ingest"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    clips = [clip for clip in todo if clip.key not in done]
    work = partial(_ingest_clip, out=options.out, size=options.size)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        results = _in_processes(work, clips, options.workers) if options.workers else map(work, clips)
        yield from progress.track(results, total=len(clips), description="ingest")


def _in_processes(
    work: Callable[[RawClip], tuple[str, Record | str]], clips: list[RawClip], workers: int
) -> Iterator[tuple[str, Record | str]]:
    """Results of `work` in the order in which they become ready; never more than a few clips are on their way."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))
    queue = iter(clips)
    waiting: set[Future[tuple[str, Record | str]]] = set()
    try:
        while True:
            waiting |= {pool.submit(work, clip) for clip in itertools.islice(queue, 4 * workers - len(waiting))}
            if not waiting:
                return
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)
    finally:
        pool.shutdown(cancel_futures=True)


def _ingest_clip(clip: RawClip, out: Path, size: int | None) -> tuple[str, Record | str]:
    """Decode, measure, resize and write one clip."""
    try:
        info = probe(clip.media, clip.ext, clip.key)
        frames = read_frames(clip.media, clip.ext, 0, info.num_frames, name=clip.key)
        alpha = frames[..., 3]
        if alpha.min() == alpha.max():
            raise AlphaError(f"{clip.key}: alpha is {alpha.min()} everywhere, so there is nothing to learn from it")
    except DataError as error:
        return clip.key, str(error)
    measures = measure(frames)
    if size is not None:
        scale = size / min(info.height, info.width)
        target = (max(size, round(info.height * scale)), max(size, round(info.width * scale)))
        frames = to_uint8(resize_rgba(frames, target))
    if size is None and isinstance(clip.media, bytes):
        media = f"{clip.key}{clip.ext}"
        (out / f"{media}.tmp").write_bytes(clip.media)
        os.replace(out / f"{media}.tmp", out / media)
    else:
        media = f"{clip.key}.mkv"
        write_ffv1(frames, info.fps, out / media)
    record = {
        "key": clip.key, "media": media, "caption": clip.caption, "concept": clip.concept, "split": clip.split,
        "fps": info.fps, "num_frames": info.num_frames, "height": frames.shape[1], "width": frames.shape[2],
        "licence": clip.licence, "source": clip.source, "size": size, **measures,
    }  # fmt: skip
    return clip.key, record


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.ingest")
    try:
        records = ingest(options)
    except DataError as error:
        fail(str(error))
    frames = sum(record["num_frames"] for record in records)
    print(f"{len(records)} clips, {frames} frames -> {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
