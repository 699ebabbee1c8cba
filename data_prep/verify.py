"""Read shards again, every byte and every frame, and say what is wrong with them.

    python -m data_prep.verify root=SHARDS [workers=2] [engine=local|ray]

Checked are the manifest (schema, counts, sizes, sha256), the index, each sample (names, checksum, every frame decoded,
size, number of frames, alpha that says something), keys that occur twice, and concepts on both sides of the split.
The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import json
import sys
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from data_prep.cli import fail, parse, told
from data_prep.engine import Engine, open_engine
from data_prep.shard import INDEX
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import MEDIA_EXTENSIONS, MediaInfo, each_block, probe
from wan_alpha.data.shards import MANIFEST, read_manifest, sha256_of
from wan_alpha.data.source import SPLITS, numbered_lines
from wan_alpha.data.stores import LocalStore
from wan_alpha.schema import Natural

BATCH = 16  # samples that one worker checks at a time


@dataclass
class Options:
    """Read shards again, every byte and every frame, and say what is wrong with them."""

    root: Annotated[Path, "folder of the shards"]
    workers: Annotated[Natural, "processes; 0: work in this one"] = 2
    engine: Annotated[str, "local: processes of this machine; ray: a Ray cluster"] = "local"
    ray: Annotated[str | None, "address of the Ray cluster; none: one is started on this machine"] = None


@dataclass(frozen=True)
class Place:
    """One sample of a tar: (offset, size) of its members by extension."""

    shard: str
    key: str
    parts: dict[str, tuple[int, int]]


@dataclass
class Findings:
    """What was read, and what is wrong with it."""

    problems: list[str] = field(default_factory=list)
    samples: int = 0
    frames: int = 0
    bytes: int = 0
    by_split: Counter[str] = field(default_factory=Counter)
    by_media: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Checked:
    """One sample after it was read: its problems, and what is compared with the other samples."""

    place: Place
    problems: list[str]
    ext: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    frames: int = 0


def verify(options: Options) -> Findings:
    """Run the step.

    Raises:
        DataError: there are no shards, or the manifest cannot be read.
    """
    root, found = options.root, Findings()
    manifest = read_manifest(LocalStore(root), str(root))
    if manifest is None:
        raise DataError(f"{root / MANIFEST}: missing; expected what data_prep.shard wrote, run it again")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with (
        open_engine(options.engine, options.workers, options.ray) as engine,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        places = _places(root, manifest, found, engine, progress)
        batches = [places[start : start + BATCH] for start in range(0, len(places), BATCH)]
        task = progress.add_task("decode", total=len(places))
        checked: list[Checked] = []
        for batch in engine.map(partial(_check_batch, root), batches):
            checked += batch
            progress.advance(task, len(batch))
    checked.sort(key=lambda sample: (sample.place.shard, sample.place.key))
    _compare(root, manifest, checked, found)
    return found


def _places(root: Path, manifest: dict[str, Any], found: Findings, engine: Engine, progress: Progress) -> list[Place]:
    """The samples of all shards; what is wrong with the files themselves goes into `found`."""
    names = {entry["name"] for entry in manifest["shards"]}
    strangers = sorted(file.name for file in root.glob("*.tar") if file.name not in names)
    found.problems += [f"{name}: not in {MANIFEST}; remove it, or run data_prep.shard again" for name in strangers]
    places: list[Place] = []
    results = engine.map(partial(_check_shard, root), manifest["shards"])
    for problems, size, here in progress.track(results, total=len(names), description="sha256"):
        found.problems += problems
        found.bytes += size
        places += here
    return sorted(places, key=lambda place: (place.shard, place.key))


def _check_shard(root: Path, entry: dict[str, Any]) -> tuple[list[str], int, list[Place]]:
    """(problems, bytes, samples) of one tar, compared with its entry in the manifest."""
    name = entry["name"]
    file = root / name
    if Path(name).name != name or not file.is_file():
        return [f"{name}: missing, with {entry['samples']} samples; copy it again"], 0, []
    problems, size = [], file.stat().st_size
    if size != entry["bytes"]:
        problems.append(f"{name}: expected {entry['bytes']} bytes, found {size}; copy it again")
    elif sha256_of(file) != entry["sha256"]:
        problems.append(f"{name}: its sha256 is not the one in {MANIFEST}; copy it again")
    places = list(_samples(file, problems))
    if len(places) != entry["samples"]:
        problems.append(f"{name}: expected {entry['samples']} samples, found {len(places)}")
    return problems, size, places


def _samples(file: Path, problems: list[str]) -> Iterator[Place]:
    """The samples of one tar, by the headers of its members."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    length = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                key, dot, ext = member.name.partition(".")
                if not member.isfile() or not key or "/" in member.name or "\\" in member.name:
                    problems.append(f"{file.name}: {member.name!r} is no member of a sample; make the shard again")
                elif member.offset_data + member.size > length:
                    problems.append(f"{file.name}: {member.name} is cut off; copy the shard again")
                elif dot + ext in samples.setdefault(key, {}):
                    problems.append(f"{file.name}: the member {member.name} occurs twice; make the shard again")
                else:
                    samples[key][dot + ext] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        problems.append(f"{file.name}: not a whole tar ({error}); copy it again")
    return (Place(file.name, key, parts) for key, parts in samples.items())


def _check_batch(root: Path, places: list[Place]) -> list[Checked]:
    return [_check(root, place) for place in places]


def _check(root: Path, place: Place) -> Checked:
    """Read one sample: its JSON, its checksum, and every frame of it."""
    media = [ext for ext in place.parts if ext in MEDIA_EXTENSIONS]
    if len(media) != 1 or ".json" not in place.parts:
        return Checked(place, [f"expected one media file and one .json, found {', '.join(sorted(place.parts))}"])
    (ext,) = media
    try:
        meta = json.loads(_bytes(root, place, ".json"))
        promised = MediaInfo(*(meta[name] for name in ("num_frames", "fps", "height", "width")))
    except (ValueError, KeyError, TypeError) as error:
        return Checked(place, [f"its .json is not usable ({error!r})"], ext)
    data = _bytes(root, place, ext)
    if meta.get("crc32", zlib.crc32(data)) != zlib.crc32(data):
        return Checked(place, ["its bytes are not those that were written (crc32); copy the shard again"], ext, meta)
    try:
        problems, frames = _decode(data, ext, promised)
    except DataError as error:
        return Checked(place, [str(error)], ext, meta)
    return Checked(place, problems, ext, meta, frames)


def _decode(data: bytes, ext: str, promised: MediaInfo) -> tuple[list[str], int]:
    """What is wrong with a clip whose frames can all be decoded, and how many there are."""
    info = probe(data, ext, "its media")
    if (info.num_frames, info.height, info.width) != (promised.num_frames, promised.height, promised.width):
        return [f"its .json says {promised}, its media {info}"], info.num_frames
    frames, low, high = 0, 255, 0
    for block in each_block(data, ext, info, "its media"):
        frames += len(block)
        low, high = min(low, int(block[..., 3].min())), max(high, int(block[..., 3].max()))
    return [f"alpha is {low} of 255 in every pixel"] if low == high else [], frames


def _bytes(root: Path, place: Place, ext: str) -> bytes:
    offset, size = place.parts[ext]
    with (root / place.shard).open("rb") as handle:
        handle.seek(offset)
        return handle.read(size)


def _compare(root: Path, manifest: dict[str, Any], checked: list[Checked], found: Findings) -> None:
    """Count, and compare samples with each other, with the manifest and with the index."""
    where: dict[str, list[str]] = defaultdict(list)
    concepts: dict[str, dict[str, str]] = defaultdict(dict)
    for sample in checked:
        place, split = sample.place, sample.place.shard.rsplit("-", 1)[0]
        found.problems += [f"{place.shard}: {place.key}: {problem}" for problem in sample.problems]
        where[place.key].append(place.shard)
        found.samples += 1
        found.frames += sample.frames
        found.by_split[split] += 1
        found.by_media[sample.ext] += 1
        if sample.meta.get("split", split) != split:
            found.problems.append(f"{place.shard}: {place.key}: its .json says split {sample.meta['split']!r}")
        if concept := sample.meta.get("concept"):
            concepts[str(concept)].setdefault(split, place.key)
    for key, shards in where.items():
        if len(shards) > 1:
            found.problems.append(f"the key {key!r} occurs {len(shards)} times: {', '.join(shards)}")
    for concept, keys in concepts.items():
        if len(keys) > 1:
            told = " and ".join(f"{key} in {split}" for split, key in sorted(keys.items()))
            found.problems.append(f"the concept {concept!r} is in several splits: {told}; the score would be too good")
    for name, counts in (("samples", found.by_split), ("frames", _frames_by_split(checked))):
        promised = manifest.get(name)
        if promised is not None and promised != {split: counts[split] for split in SPLITS}:
            found.problems.append(f"{MANIFEST}: promises {name} {promised}, found {dict(counts)}")
    found.problems += _index_problems(root, manifest, checked)


def _frames_by_split(checked: list[Checked]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for sample in checked:
        counts[sample.place.shard.rsplit("-", 1)[0]] += sample.frames
    return counts


def _index_problems(root: Path, manifest: dict[str, Any], checked: list[Checked]) -> list[str]:
    """What is wrong with the index; shards of before there was one need none."""
    promised = manifest.get("index")
    if promised is None:
        return []
    file = root / INDEX
    if not file.exists():
        return [f"{INDEX}: missing; copy it again"]
    if sha256_of(file) != promised["sha256"]:
        return [f"{INDEX}: its sha256 is not the one in {MANIFEST}; copy it again"]
    lines = [json.loads(line) for _, line in numbered_lines(file.read_text(encoding="utf-8"))]
    listed = {
        (line["shard"], line["key"]): (line["ext"], [line["offset"], line["size"]], line["meta"]) for line in lines
    }
    there = {
        (sample.place.shard, sample.place.key): (sample.ext, list(sample.place.parts[sample.ext]), sample.meta)
        for sample in checked
        if sample.meta
    }
    wrong = sorted(place for place in listed.keys() | there.keys() if listed.get(place) != there.get(place))
    if not wrong:
        return []
    return [f"{INDEX}: {len(wrong)} samples are not where it says, {wrong[0][1]} first; run data_prep.shard again"]


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.verify")
    with told():
        found = verify(options)
    table = Table("what", "found", title=escape(str(options.root)), title_justify="left")
    for what, value in (
        ("samples", f"{found.samples} {dict(found.by_split)}"),
        ("frames decoded", str(found.frames)),
        ("bytes read", f"{found.bytes / 1e6:.1f} MB"),
        ("media", str(dict(found.by_media))),
        ("problems", str(len(found.problems))),
    ):
        table.add_row(what, value)
    Console().print(table)
    if found.problems:
        fail("\n".join(found.problems))
    print("everything is as it was written")


if __name__ == "__main__":
    main(sys.argv[1:])
