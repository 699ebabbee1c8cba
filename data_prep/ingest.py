"""Step 1: a public set becomes a data set folder.

    python -m data_prep.ingest source=NAME root=DIR out=DIR [size=128] [foreground=estimate] [workers=2] [limit=N]

`out` then holds one media file per clip and `records.jsonl`, one JSON object per clip.  Every file appears complete or
not at all, and the same command continues an interrupted run.  Stills become clips of one frame.  What had to be left
out is named with its reason, counted, and listed in `skipped.txt`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep import foreground
from data_prep.cli import fail, parse
from data_prep.engine import open_engine
from data_prep.measures import measure
from data_prep.sources import Choices, RawClip
from data_prep.sources.frames import check_alpha, decode
from data_prep.sources.registry import SOURCES, adapter
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import MEDIA_EXTENSIONS, Pair, write_ffv1
from wan_alpha.data.resize import Frames

RECORDS = "records.jsonl"
SKIPPED = "skipped.txt"
CACHE = ".cache/foreground"
FOREGROUND = ("estimate", "given", "none")
Record = dict[str, Any]


@dataclass
class Options:
    """Turn a public set into a data set folder: one media file per clip, and records.jsonl."""

    source: Annotated[str, f"the set: {', '.join(SOURCES)}"]
    root: Annotated[Path, "where the set lies, as its publisher packs it"]
    out: Annotated[Path, "the data set folder to write"]
    size: Annotated[int | None, "resize the short side to so many pixels, lossless; none: bytes as they are"] = None
    foreground: Annotated[
        str, "where a set has only photos: estimate their foreground; given: leave them out; none: keep the photo"
    ] = "estimate"
    cache: Annotated[Path | None, f"where estimated foregrounds are kept; none: OUT/{CACHE}"] = None
    val_share: Annotated[float, "share held out, where the set defines no split"] = 0.1
    fps: Annotated[float | None, "frames per second of frame folders, which do not say; none: 24"] = None
    licence: Annotated[str, "generic: the licence of the clips"] = "unknown"
    composited: Annotated[bool, "generic: the colours are photos over their background"] = False
    skin_tones: Annotated[bool, "fluent: also the skin-tone variants"] = False
    keep_inverted: Annotated[bool, "keep clips whose alpha is opaque along the whole border"] = False
    max_gb: Annotated[float, "leave out clips whose frames would take more memory than so many gigabytes"] = 4.0
    workers: Annotated[int, "processes; 0: work in this one"] = 2
    engine: Annotated[str, "local: processes of this machine; ray: a Ray cluster"] = "local"
    ray: Annotated[str | None, "address of the Ray cluster; none: one is started on this machine"] = None
    limit: Annotated[int | None, "stop after so many clips"] = None


def ingest(options: Options) -> list[Record]:
    """Run the step and return the records, sorted by key.

    Raises:
        DataError: the source is unknown, its root is not what it expects, or no clip could be used.
    """
    if options.foreground not in FOREGROUND:
        raise DataError(f"foreground={options.foreground}: expected one of {', '.join(FOREGROUND)}")
    skipped: list[str] = []
    choices = Choices(
        val_share=options.val_share, fps=options.fps, licence=options.licence, composited=options.composited,
        given_foreground=options.foreground != "none", skin_tones=options.skin_tones,
    )  # fmt: skip
    clips = adapter(options.source, options.root)(options.root, skipped, choices)
    options.out.mkdir(parents=True, exist_ok=True)
    done = _finished(options.out, options.size)
    todo = _unique(itertools.islice(clips, options.limit), skipped)
    journal = options.out / f"{RECORDS}.tmp"
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
    (options.out / SKIPPED).unlink(missing_ok=True)
    if skipped:
        (options.out / SKIPPED).write_text("".join(f"{reason}\n" for reason in skipped), encoding="utf-8")
    if not done:
        raise DataError(f"{options.root}: no clip could be used\n" + "\n".join(skipped))
    records = [done[key] for key in sorted(done)]
    write_records(options.out, records)
    journal.unlink()
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} problems, listed in {options.out / SKIPPED}", file=sys.stderr)
    return records


def _unique(clips: Iterator[RawClip], skipped: list[str]) -> Iterator[RawClip]:
    """Clips whose key has not been seen; the others are named in `skipped`."""
    seen: set[str] = set()
    for clip in clips:
        if clip.key in seen:
            skipped.append(f"{clip.key}: the key occurs twice; rename one of the files ({_place(clip)})")
            continue
        seen.add(clip.key)
        yield clip


def _place(clip: RawClip) -> str:
    return "bytes of an archive" if isinstance(clip.media, bytes) else str(clip.media)


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
    clips, total = _counted(_undone(todo, done, options))
    work = partial(_ingest_clip, options=options)
    with (
        open_engine(options.engine, options.workers, options.ray) as engine,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        yield from progress.track(engine.map(work, clips), total=total, description="ingest")


def _undone(todo: Iterator[RawClip], done: dict[str, Record], options: Options) -> Iterator[RawClip]:
    """Clips that no earlier run has finished."""
    prepared = False
    for clip in todo:
        if _is_done(clip, done, options):
            continue
        if not prepared and _colours(clip, options) == "estimated":
            foreground.prepare()
            prepared = True
        yield clip


def _counted(clips: Iterator[RawClip]) -> tuple[Iterable[RawClip], int | None]:
    """The clips and how many there are; none where they bring their bytes, for then all would be in memory at once."""
    first = next(clips, None)
    if first is None:
        return [], 0
    whole = itertools.chain([first], clips)
    if isinstance(first.media, bytes):
        return whole, None
    listed = list(whole)
    return listed, len(listed)


def _is_done(clip: RawClip, done: dict[str, Record], options: Options) -> bool:
    """Whether an earlier run left the clip with its colours from the same place; if not, forget what it left."""
    if clip.key in done and done[clip.key].get("foreground", "given") != _colours(clip, options):
        del done[clip.key]
    return clip.key in done


def _colours(clip: RawClip, options: Options) -> str:
    """Where the colours of a clip come from: "given" with the set, "estimated", or "photo"; "wanted": nowhere."""
    of_photos = {"estimate": "estimated", "given": "wanted", "none": "photo"}
    return of_photos[options.foreground] if clip.composited else "given"


def _ingest_clip(clip: RawClip, options: Options) -> tuple[str, Record | str]:
    """Decode, measure, resize and write one clip."""
    colours, cache = _colours(clip, options), options.cache or options.out / CACHE
    try:
        if colours == "wanted":
            raise DataError(f"{clip.key}: there is only a photo; foreground=estimate estimates its foreground")
        treat = partial(foreground.estimate, cache=cache) if colours == "estimated" else None
        info, frames = decode(clip, options.size, options.max_gb, treat)
        check_alpha(clip.key, frames, options.keep_inverted)
    except DataError as error:
        return clip.key, str(error)
    fps = clip.fps or info.fps
    media = _write(clip, frames, fps, options)
    record = {
        "key": clip.key, "media": media, "caption": clip.caption, "concept": clip.concept, "split": clip.split,
        "fps": fps, "num_frames": info.num_frames, "height": frames.shape[1], "width": frames.shape[2],
        "licence": clip.licence, "source": clip.source, "size": options.size, "foreground": colours,
        **measure(frames), **clip.extra,
    }  # fmt: skip
    return clip.key, record


def _write(clip: RawClip, frames: Frames, fps: float, options: Options) -> str:
    """Write the media of a clip, as it was where it is one RGBA file of the right size, and return the file's name."""
    ext = clip.ext if isinstance(clip.media, bytes) else getattr(clip.media, "suffix", "").lower()
    if options.size is None and not clip.composited and ext in MEDIA_EXTENSIONS and not isinstance(clip.media, Pair):
        media = f"{clip.key}{ext}"
        data = clip.media if isinstance(clip.media, bytes) else clip.media.read_bytes()
        (options.out / f"{media}.tmp").write_bytes(data)
        os.replace(options.out / f"{media}.tmp", options.out / media)
    else:
        media = f"{clip.key}.mkv"
        write_ffv1(frames, fps, options.out / media)
    return media


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
