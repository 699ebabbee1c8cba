"""The committed sample: few clips, small in bytes, that show what the whole set has.

    python -m data_prep.sample root=INGESTED out=DIR [max_mb=19] [sheet=FILE.png]

`root` is a folder that `data_prep.ingest` wrote with original bytes.  One clip per concept is a candidate.  First come
the clips with glass or steam, those with the finest translucent outlines, and a few that everybody looks for; then,
again and again, the clip that looks least like those already chosen and shares no noun with them, weighed by how much
its silhouette moves and how few bytes it costs, until the budget is used up.  No chance is involved.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_prep.cli import parse, told
from data_prep.shard import write_shards
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.resize import resize_rgba, to_uint8
from wan_alpha.data.source import SPLITS
from wan_alpha.schema import Positive

Look = npt.NDArray[np.float32]

VAL_SHARE = 0.2  # of the bytes
MOST_GLASS, MOST_TRANSLUCENT = 3, 5  # clips that are taken for their translucency, in each split
MIN_MOTION = 0.003
LOOK_SIZE = 12
MIN_FRAMES = 24
FAVOURITES = frozenset({"1f525", "1f99c", "1f602", "1f680"})  # fire, parrot, face with tears of joy, rocket
UNSUITABLE = frozenset({"1f595"})  # an obscene gesture
COMMON_WORDS = frozenset({"with", "person", "people", "woman", "face", "down", "left", "right", "facing", "pointing"})
TAR_BLOCK, TAR_RECORD = 512, 10240


@dataclass
class Options:
    """Choose a small, varied sample of an ingested set and write it as shards."""

    root: Annotated[Path, "folder written by data_prep.ingest without size="]
    out: Annotated[Path, "where the sample's shards go"]
    max_mb: Annotated[Positive, "total size of the shards in megabytes (10^6 bytes)"] = 19.0
    sheet: Annotated[Path | None, "also draw the chosen clips on a checkerboard, as PNG"] = None


@dataclass
class Candidate:
    """A clip that may be chosen: its index in the source, its bytes within a shard, and a tiny picture of it."""

    index: int
    cost: int
    look: Look
    nouns: frozenset[str]
    favourite: bool
    glass: float
    translucent: float
    motion: float


def candidates(source: FolderSource, split: str) -> list[Candidate]:
    """One clip per concept, the one with the fewest code points; clips that hardly move only for their glass."""
    by_concept: dict[str, int] = {}
    for index, clip in enumerate(source.clips):
        if "glass" not in clip.meta:
            raise DataError(f"{source.root}: records without measures; run data_prep.ingest again, into a new folder")
        concept, rank = str(clip.meta["concept"]), (len(clip.key.split("-")), clip.key)
        best = by_concept.get(concept)
        if clip.split == split and concept not in UNSUITABLE:
            other = source.clips[best].key if best is not None else None
            if other is None or rank < (len(other.split("-")), other):
                by_concept[concept] = index
    found = []
    for index in track(sorted(by_concept.values()), description=f"{split}: looking"):
        clip, meta = source.clips[index], source.clips[index].meta
        favourite = meta["concept"] in FAVOURITES
        if clip.num_frames >= MIN_FRAMES and (meta["motion"] >= MIN_MOTION or meta["glass"] > 0 or favourite):
            cost = _tar_bytes(Path(str(source.media(index))).stat().st_size) + _tar_bytes(TAR_BLOCK)
            measures = meta["glass"], meta["translucent"], meta["motion"]
            found.append(Candidate(index, cost, _look(source, index), _nouns(clip.caption), favourite, *measures))
    return found


def choose(pool: list[Candidate], budget: int, avoid: frozenset[str] = frozenset()) -> list[Candidate]:
    """Candidates worth at most `budget` bytes in the order in which they are chosen; see the module's docstring.

    `avoid` are nouns that must not occur: those of the held-out clips, whose near relatives training should not see.
    """
    by_glass = sorted((c for c in pool if c.glass > 0), key=lambda c: -c.glass)[:MOST_GLASS]
    by_edge = sorted((c for c in pool if c.glass == 0), key=lambda c: -c.translucent)[:MOST_TRANSLUCENT]
    chosen: list[Candidate] = []

    def take(candidate: Candidate) -> int:
        chosen.append(candidate)
        return budget - candidate.cost

    def fits(candidate: Candidate) -> bool:
        return candidate.cost <= budget and not candidate.nouns & avoid.union(*(other.nouns for other in chosen))

    for candidate in by_glass + by_edge + [c for c in pool if c.favourite]:
        if fits(candidate):
            budget = take(candidate)
    motions = np.sort([candidate.motion for candidate in pool])

    def worth(candidate: Candidate) -> float:
        unlike = min((float(np.abs(candidate.look - other.look).mean()) for other in chosen), default=1.0)
        liveliness = 0.2 + np.searchsorted(motions, candidate.motion) / len(pool)
        return float(unlike * liveliness / candidate.cost**0.25)

    while fitting := [candidate for candidate in pool if fits(candidate)]:
        budget = take(max(fitting, key=worth))
    return chosen


def contact_sheet(source: FolderSource, indices: Iterable[int], file: Path, side: int = 128, columns: int = 9) -> None:
    """Draw a frame a third into each clip on a checkerboard."""
    tiles = []
    y, x = np.mgrid[:side, :side] // 8
    board = np.where((y + x) % 2, 255, 170)[..., None]
    for index in indices:
        frame = source.read(index, source.clips[index].num_frames // 3, 1)
        rgba = to_uint8(resize_rgba(frame, (side, side)))[0].astype(float)
        alpha = rgba[..., 3:] / 255
        tiles.append((rgba[..., :3] * alpha + board * (1 - alpha)).astype(np.uint8))
    tiles += [np.full((side, side, 3), 255, np.uint8)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    Image.fromarray(np.concatenate(rows)).save(file)


def _nouns(caption: str) -> frozenset[str]:
    """The telling words of a caption, without plural endings: "revolving hearts" -> revolving, heart."""
    words = caption.lower().replace("-", " ").split()
    return frozenset(word.rstrip("s") for word in words if len(word) > 3 and word not in COMMON_WORDS) or frozenset(
        {caption}
    )


def _look(source: FolderSource, index: int) -> Look:
    """Two tiny premultiplied RGBA pictures of a clip, from its first and second third."""
    length = source.clips[index].num_frames
    frames = source.read(index, length // 3, 2, max(length // 3, 1)) if length > 2 else source.read(index, 0, 1)
    rgba = resize_rgba(frames, (LOOK_SIZE, LOOK_SIZE))
    look: Look = (rgba * rgba[:, 3:].clamp_min(0).expand_as(rgba)).numpy()
    return look


def _tar_bytes(size: int) -> int:
    """Bytes of a member within a tar: a header block, and its content rounded up to whole blocks."""
    return TAR_BLOCK + -(-size // TAR_BLOCK) * TAR_BLOCK


def _print_table(source: FolderSource, chosen: dict[str, list[Candidate]]) -> None:
    columns = ("split", "key", "frames", "kB", "motion %", "soft %", "translucent %", "glass %")
    table = Table(*columns, title="chosen clips")
    for split, candidates_ in chosen.items():
        for candidate in sorted(candidates_, key=lambda c: source.clips[c.index].key):
            clip = source.clips[candidate.index]
            shares = [f"{100 * clip.meta[name]:.2f}" for name in ("motion", "soft", "translucent", "glass")]
            table.add_row(split, clip.key, str(clip.num_frames), f"{candidate.cost / 1e3:.0f}", *shares)
    Console(width=120).print(table)


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.sample")
    with told():
        source = FolderSource(options.root, "all")
        budget = int(options.max_mb * 1e6) - 2 * TAR_RECORD - 4096  # end of each tar, and the manifest
        held_out = choose(candidates(source, "val"), int(VAL_SHARE * budget))
        avoid = frozenset[str]().union(*(candidate.nouns for candidate in held_out))
        rest = budget - sum(candidate.cost for candidate in held_out)
        chosen = {"train": choose(candidates(source, "train"), rest, avoid), "val": held_out}
        indices = [candidate.index for split in SPLITS for candidate in chosen[split]]
        keys = {source.clips[index].key for index in indices}
        manifest = write_shards(source, options.out, shard_mb=options.max_mb + 1, keys=keys)
    _print_table(source, chosen)
    size = sum(file.stat().st_size for file in options.out.iterdir() if not file.name.endswith(".tmp"))
    print(f"{manifest['samples']} clips, {size / 1e6:.2f} MB -> {os.fspath(options.out)}")
    if options.sheet:
        contact_sheet(source, indices, options.sheet)


if __name__ == "__main__":
    main(sys.argv[1:])
