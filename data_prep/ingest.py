"""Step 1: a public set becomes a data set folder.

    python -m data_prep.ingest source=NAME root=DIR out=DIR [size=128] [foreground=estimate] [workers=2] [limit=N]

`out` then holds one media file per clip and `records.jsonl`, one JSON object per clip.  Every file appears complete or
not at all, and the same command continues an interrupted run.  Stills become clips of one frame.  What had to be left
out is named with its reason, counted, and listed in `skipped.txt`.
"""

from __future__ import annotations

import itertools
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.prompt import Prompt

from data_prep import foreground
from data_prep.cli import parse, told
from data_prep.engine import open_engine
from data_prep.files import write_atomic
from data_prep.measures import measure
from data_prep.sources import Choices, RawClip
from data_prep.sources.frames import Treatment, check_alpha, decode
from data_prep.sources.registry import SOURCES, adapter
from wan_alpha.data.errors import DataError, PremultipliedError
from wan_alpha.data.folders import RECORDS, UNFINISHED
from wan_alpha.data.media import MEDIA_EXTENSIONS, Pair, media_files, write_ffv1
from wan_alpha.data.premultiplied import PREMULTIPLIED, Premultiplied
from wan_alpha.data.resize import Frames
from wan_alpha.data.source import key_problem, numbered_lines
from wan_alpha.schema import Count, Natural, Positive, Share

SKIPPED = "skipped.txt"
CACHE = ".cache/foreground"
LONGEST_KEY = 200  # bytes: names of files end at 255, and a file that is being written has a longer one
FOREGROUND = ("estimate", "given", "none")
Record = dict[str, Any]
Outcome = tuple[str, Record | DataError]
"""A key, and its record or the reason why there is none."""
Ask = Callable[[list[str]], str]


@dataclass
class Options:
    """Turn a public set into a data set folder: one media file per clip, and records.jsonl."""

    source: Annotated[str, f"the set: {', '.join(SOURCES)}"]
    root: Annotated[Path, "where the set lies, as its publisher packs it"]
    out: Annotated[Path, "the data set folder to write"]
    size: Annotated[Count | None, "resize the short side to so many pixels, lossless; none: bytes as they are"] = None
    foreground: Annotated[
        str, "where a set has only photos: estimate their foreground; given: leave them out; none: keep the photo"
    ] = "estimate"
    cache: Annotated[Path | None, f"where estimated foregrounds are kept; none: OUT/{CACHE}"] = None
    val_share: Annotated[Share, "share held out, where the set defines no split"] = 0.1
    fps: Annotated[Positive | None, "frames per second of frame folders, which do not say; none: 24"] = None
    licence: Annotated[str, "generic: the licence of the clips"] = "unknown"
    premultiplied: Annotated[
        str, "yes: make colours straight; no: they are; ask: ask where it looks so, or leave the clip out"
    ] = "ask"
    constant_fps: Annotated[Positive | None, "resample clips of variable frame rate to it; none: leave them out"] = None
    composited: Annotated[bool, "generic: the colours are photos over their background"] = False
    skin_tones: Annotated[bool, "fluent: also the skin-tone variants"] = False
    keep_inverted: Annotated[bool, "keep clips whose alpha is opaque along the whole border"] = False
    max_gb: Annotated[Positive, "leave out clips whose frames would take more memory than so many gigabytes"] = 4.0
    workers: Annotated[Natural, "processes; 0: work in this one"] = 2
    engine: Annotated[str, "local: processes of this machine; ray: a Ray cluster"] = "local"
    ray: Annotated[str | None, "address of the Ray cluster; none: one is started on this machine"] = None
    limit: Annotated[Count | None, "stop after so many clips"] = None


def ingest(options: Options, ask: Ask | None = None) -> list[Record]:
    """Run the step and return the records, sorted by key.

    Args:
        options: what to do.
        ask: called with the keys of clips that look premultiplied, to answer "yes", "no" or "" (leave them out); by
            default they are left out.

    Raises:
        DataError: the source is unknown, its root is not what it expects, or no clip could be used.
        OSError: the disk is full.  The same command continues.
    """
    for name, value, known in (
        ("foreground", options.foreground, FOREGROUND), ("premultiplied", options.premultiplied, PREMULTIPLIED),
    ):  # fmt: skip
        if value not in known:
            raise DataError(f"{name}={value}: expected one of {', '.join(known)}")
    if options.out.resolve() == options.root.resolve():
        raise DataError(f"out={options.out} is root too, whose files would be written over; give another folder")
    options.out.mkdir(parents=True, exist_ok=True)
    skipped: list[str] = []
    asked: dict[str, str] = {}
    done = _finished(options.out)
    journal = options.out / UNFINISHED
    with journal.open("w", encoding="utf-8") as log:
        for record in done.values():
            log.write(json.dumps(record) + "\n")
        _pass(options, done, log, skipped, asked)
        if asked and ask and (answer := ask(sorted(asked))):
            again = replace(options, premultiplied=answer, limit=None)
            unclear, asked = set(asked), {}
            _pass(again, done, log, skipped, asked, unclear)
    skipped += [asked[key] for key in sorted(asked)]
    _write_skipped(options.out, skipped)
    if not done:
        raise DataError(f"{options.root}: no clip could be used\n" + "\n".join(skipped))
    records = [done[key] for key in sorted(done)]
    write_records(options.out, records)
    journal.unlink()
    return records


def _pass(
    options: Options,
    done: dict[str, Record],
    log: TextIO,
    skipped: list[str],
    asked: dict[str, str],
    only: set[str] | None = None,
) -> None:
    """Ingest what is not done, or `only` some clips of the set; `asked` gets what looks premultiplied."""
    problems: list[str] = []
    choices = Choices(
        val_share=options.val_share, fps=options.fps, licence=options.licence, composited=options.composited,
        given_foreground=options.foreground != "none", skin_tones=options.skin_tones,
    )  # fmt: skip
    clips = adapter(options.source, options.root)(options.root, problems, choices)
    chosen = clips if only is None else (clip for clip in clips if clip.key in only)
    for key, result in _run(_unique(itertools.islice(chosen, options.limit), problems), done, options):
        if isinstance(result, PremultipliedError):
            asked[key] = str(result)
        elif isinstance(result, DataError):
            skipped.append(str(result))
        else:
            done[key] = result
            log.write(json.dumps(result) + "\n")
            log.flush()
    skipped += problems if only is None else []


def _write_skipped(out: Path, skipped: list[str]) -> None:
    """Name what was left out, on standard error and in a file."""
    (out / SKIPPED).unlink(missing_ok=True)
    if skipped:
        # Names on a disk need not be UTF-8; what is not is written as \\x..
        write_atomic(out / SKIPPED, "".join(f"{reason}\n" for reason in skipped).encode(errors="backslashreplace"))
        for reason in skipped:
            print(f"skipped: {reason}", file=sys.stderr)
        print(f"{len(skipped)} problems, listed in {out / SKIPPED}", file=sys.stderr)


def _unique(clips: Iterator[RawClip], skipped: list[str]) -> Iterator[RawClip]:
    """Clips whose key is a name and has not been seen; the others are named in `skipped`."""
    seen: set[str] = set()
    for clip in clips:
        if len(clip.key.encode(errors="replace")) > LONGEST_KEY:
            skipped.append(f"{_place(clip)}: its name takes more than {LONGEST_KEY} bytes; give it a shorter one")
            continue
        if problem := key_problem(clip.key):
            skipped.append(f"{_place(clip)}: {problem}; rename it")
            continue
        if clip.key in seen:
            skipped.append(f"{clip.key}: the key occurs twice; rename one of the files ({_place(clip)})")
            continue
        seen.add(clip.key)
        yield clip


def _place(clip: RawClip) -> str:
    return "bytes of an archive" if isinstance(clip.media, bytes) else str(clip.media)


def write_records(out: Path, records: list[Record]) -> None:
    """Write `records.jsonl` in one step."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_atomic(out / RECORDS, "".join(lines).encode())


def _finished(out: Path) -> dict[str, Record]:
    """Records of earlier runs whose media files are there, those of other sets included."""
    finished = {}
    for file in (out / RECORDS, out / UNFINISHED):
        for _, line in numbered_lines(file.read_text(encoding="utf-8")) if file.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line during which an earlier run was interrupted
            if (out / record["media"]).exists():
                finished[record["key"]] = record
    return finished


def _run(todo: Iterator[RawClip], done: dict[str, Record], options: Options) -> Iterator[Outcome]:
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
    """Whether an earlier run made of the clip what would be made of it now; if not, forget what it made.

    What a set says of a clip (caption, split, licence) may have changed since, and is taken anew.
    """
    record = done.get(clip.key)
    if record is None:
        return False
    # "ask" takes either: what was converted then was asked about.
    other_answer = options.premultiplied == ("no" if record.get("premultiplied") else "yes")
    made_of = {"foreground": _colours(clip, options), "size": options.size, "origin": _origin(clip, options)}
    if other_answer or any(record.get(name, now) != now for name, now in made_of.items()):
        del done[clip.key]
        return False
    record |= _said(clip)
    return True


def _origin(clip: RawClip, options: Options) -> str:
    """A hash of the state of a clip's files, and of the rate at which it is taken."""
    rates = f"{clip.fps} {options.constant_fps or clip.constant_fps}"
    if isinstance(clip.media, bytes):
        return f"{zlib.crc32(clip.media, zlib.crc32(rates.encode())):08x}"
    states = [((stat := file.stat()).st_size, stat.st_mtime_ns) for file in media_files(clip.media) if file.exists()]
    return f"{zlib.crc32(f'{rates} {states}'.encode()):08x}"


def _said(clip: RawClip) -> Record:
    """What the set says of a clip."""
    return {
        "caption": clip.caption, "concept": clip.concept, "split": clip.split, "licence": clip.licence,
        "source": clip.source, **clip.extra,
    }  # fmt: skip


def _colours(clip: RawClip, options: Options) -> str:
    """Where the colours of a clip come from: "given" with the set, "estimated", or "photo"; "wanted": nowhere."""
    of_photos = {"estimate": "estimated", "given": "wanted", "none": "photo"}
    return of_photos[options.foreground] if clip.composited else "given"


def _ingest_clip(clip: RawClip, options: Options) -> Outcome:
    """Decode, measure, resize and write one clip."""
    colours, cache = _colours(clip, options), options.cache or options.out / CACHE
    # A photo has the colours of a photo.
    straight = cast(Premultiplied, "no" if clip.composited else options.premultiplied)
    try:
        if colours == "wanted":
            raise DataError(f"{clip.key}: there is only a photo; foreground=estimate estimates its foreground")
        treatment = Treatment(
            options.size, options.max_gb, straight, options.constant_fps or clip.constant_fps,
            partial(foreground.estimate, cache=cache) if colours == "estimated" else None,
        )  # fmt: skip
        info, frames, changed = decode(clip, treatment)
        check_alpha(clip.key, frames, options.keep_inverted)
    except DataError as error:
        return clip.key, error
    fps = clip.fps or info.fps
    media = _write(clip, frames, fps, options, changed)
    record = {
        "key": clip.key, "media": media, "fps": fps, "num_frames": info.num_frames, "height": frames.shape[1],
        "width": frames.shape[2], "size": options.size, "foreground": colours, "origin": _origin(clip, options),
        **({"premultiplied": True} if straight == "yes" else {}), **measure(frames), **_said(clip),
    }  # fmt: skip
    return clip.key, record


def _write(clip: RawClip, frames: Frames, fps: float, options: Options, changed: bool) -> str:
    """Write the media of a clip, as it was where it is one RGBA file of the right size, and return the file's name."""
    ext = clip.ext if isinstance(clip.media, bytes) else getattr(clip.media, "suffix", "").lower()
    if not changed and not clip.composited and ext in MEDIA_EXTENSIONS and not isinstance(clip.media, Pair):
        media = f"{clip.key}{ext}"
        write_atomic(options.out / media, clip.media if isinstance(clip.media, bytes) else clip.media.read_bytes())
    else:
        media = f"{clip.key}.mkv"
        write_ffv1(frames, fps, options.out / media)
    return media


def ask_on_terminal(keys: list[str]) -> str:
    """Ask the person at the keyboard about clips that look premultiplied; "" where there is none."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return ""
    console = Console(stderr=True)
    listed = f"{', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
    console.print(f"{len(keys)} clips look premultiplied: {listed}", markup=False)
    question = "Make their colours straight? yes, no (they are as they should be), or skip (leave them out)"
    answer = Prompt.ask(question, choices=["yes", "no", "skip"], default="skip", console=console)
    return "" if answer == "skip" else answer


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.ingest")
    with told():
        records = ingest(options, ask_on_terminal)
    frames = sum(record["num_frames"] for record in records)
    print(f"{len(records)} clips, {frames} frames -> {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
