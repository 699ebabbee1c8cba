"""Measures, looks and thumbnails of every clip: in parallel, and once for each content, however often curation runs.

OUT/cache.jsonl is a journal of results by a hash of the clip's bytes and of the settings; OUT/thumbnails holds one
small animated WebP for each.  A run that is killed loses what was on its way, and no more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep.curation import looks
from data_prep.curation.config import MeasureConfig, SheetConfig
from data_prep.engine import Engine
from data_prep.measures.clip import VERSION, fitted, measure_clip, sample_frames
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import Pair, media_files, read_frames
from wan_alpha.data.resize import Frames, resize_rgba, to_uint8
from wan_alpha.data.source import Clip

CACHE = "cache.jsonl"
THUMBNAILS = "thumbnails"
AT_ONCE = 256 * 2**20
"""Bytes of decoded frames up to which a clip is read in one go; reading a part of some formats decodes the whole."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Item:
    """One clip of one of the folders.

    Attributes:
        folder: the name of its folder, unique among those that are curated.
        clip: what the folder says of it.
        media: where its frames lie.
    """

    folder: str
    clip: Clip
    media: Path | Pair


@dataclass(frozen=True)
class Seen:
    """What was found out about a clip.

    Attributes:
        content: the name of its thumbnail: a hash of its bytes and the settings.
        measures: by name; empty if it cannot be read.
        look: for duplicates; none if it cannot be read.
        problem: why it cannot be read; empty if it can.
    """

    content: str
    measures: dict[str, float | None]
    look: looks.Look | None
    problem: str = ""


def items_of(roots: list[Path], val_share: float, problems: list[str]) -> list[Item]:
    """The clips of all folders, in order.

    Raises:
        DataError: a folder holds no usable clip, or two folders have the same name.
    """
    names = [root.resolve().name for root in roots]
    if len(set(names)) < len(names):
        raise DataError(f"root={roots}: the folders must have different names, which tell their clips apart")
    items = []
    for name, root in zip(names, roots, strict=True):
        source = FolderSource(root, "all", val_share)
        problems += source.problems
        items += [Item(name, clip, source.media(index)) for index, clip in enumerate(source.clips)]
    return items


def collect(
    items: list[Item], out: Path, measure: MeasureConfig, sheet: SheetConfig, engine: Engine
) -> tuple[list[Seen], int]:
    """Everything that curation needs to know of the clips, in their order, and how many had to be looked at.

    Args:
        items: the clips.
        out: where cache and thumbnails lie.
        measure, sheet: the settings.
        engine: who does the work.
    """
    (out / THUMBNAILS).mkdir(parents=True, exist_ok=True)
    settings = f"{VERSION} {looks.FRAMES} {looks.SIDE} {measure} {sheet.side} {sheet.frames} {sheet.quality}"
    numbered = list(enumerate(items))
    contents = dict(_tracked(engine.map(partial(_content, settings=settings), numbered), len(items), "hash"))
    cache = _read_cache(out / CACHE)
    todo = {contents[number]: item for number, item in reversed(numbered)}
    for content in [c for c in todo if c in cache and (cache[c].problem or _thumbnail(out, c).exists())]:
        del todo[content]
    work = partial(_see, out=out, measure=measure, sheet=sheet)
    with (out / CACHE).open("a", encoding="utf-8") as journal:
        for entry in _tracked(engine.map(work, sorted(todo.items())), len(todo), "measure"):
            journal.write(json.dumps(entry) + "\n")
            journal.flush()
            cache[entry["content"]] = _seen(entry)
    return [cache[contents[number]] for number, _ in numbered], len(todo)


def _thumbnail(out: Path, content: str) -> Path:
    return out / THUMBNAILS / f"{content}.webp"


def _read_cache(file: Path) -> dict[str, Seen]:
    """Results of earlier runs; the line during which one was killed is cut off, lest the next be glued to it."""
    data = file.read_bytes() if file.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(file, len(whole))
    return {entry["content"]: _seen(entry) for entry in map(json.loads, whole.decode().splitlines())}


def _seen(entry: dict[str, Any]) -> Seen:
    look = looks.from_json(entry["look"]) if "look" in entry else None
    return Seen(entry["content"], entry.get("measures", {}), look, entry.get("problem", ""))


def _content(numbered: tuple[int, Item], settings: str) -> tuple[int, str]:
    """Number of a clip, and the hash of its bytes and of what else its measures follow from."""
    number, item = numbered
    digest = hashlib.sha256(f"{settings} {item.clip.fps:.6g} {item.clip.num_frames}".encode())
    for file in media_files(item.media):
        digest.update(f"\0{file.suffix}\0".encode())
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return number, digest.hexdigest()[:32]


def _see(todo: tuple[str, Item], out: Path, measure: MeasureConfig, sheet: SheetConfig) -> dict[str, Any]:
    """Look at one clip, write its thumbnail, and say what goes into the cache."""
    content, item = todo
    clip = item.clip
    spans = sample_frames(clip.num_frames, measure.frames, measure.group)
    positions = [start + offset for start, count in spans for offset in range(count)]
    wanted = {positions[at] for at in _spread(len(positions), max(sheet.frames, looks.FRAMES))}
    kept: list[Frames] = []

    def groups() -> Iterator[Frames]:
        """The frames to measure, from which those for looks and thumbnail are kept on their way."""
        for (start, count), frames in zip(spans, _read(item, spans), strict=True):
            chosen = [offset for offset in range(count) if start + offset in wanted]
            if chosen:
                small = resize_rgba(frames[chosen], fitted(frames.shape[1:3], measure.side))
                kept.append(to_uint8(small))
            yield frames

    try:
        measures = measure_clip(groups(), clip.fps, clip.num_frames, measure.side)
    except DataError as error:
        return {"content": content, "problem": str(error)}
    frames = np.concatenate(kept)
    _write_thumbnail(frames, clip.num_frames / clip.fps, _thumbnail(out, content), sheet)
    return {"content": content, "measures": measures, "look": looks.to_json(looks.look(frames))}


def _read(item: Item, spans: list[tuple[int, int]]) -> Iterator[Frames]:
    """The frames of each span, one after the other."""
    clip = item.clip
    first, last = spans[0][0], spans[-1][0] + spans[-1][1]
    if (last - first) * clip.height * clip.width * 4 <= AT_ONCE:
        frames = read_frames(item.media, None, first, last - first)
        yield from (frames[start - first : start - first + count] for start, count in spans)
    else:
        yield from (read_frames(item.media, None, start, count) for start, count in spans)


def _spread(length: int, count: int) -> list[int]:
    """`count` positions spread evenly over `length`, or all that there are."""
    return sorted({int((k + 0.5) / count * length) for k in range(count)})


def _write_thumbnail(frames: Frames, seconds: float, file: Path, sheet: SheetConfig) -> None:
    """A small animated WebP that keeps alpha, and lasts as long as the clip."""
    chosen = frames[_spread(len(frames), sheet.frames)]
    scale = min(1.0, sheet.side / max(frames.shape[1:3]))
    size = (max(1, round(frames.shape[1] * scale)), max(1, round(frames.shape[2] * scale)))
    first, *rest = [Image.fromarray(frame) for frame in to_uint8(resize_rgba(chosen, size))]
    partial_file = file.with_suffix(f".{os.getpid()}.tmp")
    duration = max(20, round(1000 * seconds / len(chosen)))
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": duration, "loop": 0} if rest else {}
    first.save(partial_file, "WEBP", quality=sheet.quality, alpha_quality=80, method=3, **options)
    os.replace(partial_file, file)


def _tracked(results: Iterable[Result], total: int, what: str) -> Iterator[Result]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not total) as progress:
        yield from progress.track(results, total=total, description=what)
