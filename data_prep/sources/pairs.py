"""Colour and matte apart: finding partners by name, and saying what has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from wan_alpha.data.errors import DataError
from wan_alpha.data.media import PICTURES, VIDEOS, Pair, frame_files


def partners(fgr: Path, pha: Path, problems: list[str]) -> Iterator[tuple[str, Pair]]:
    """(name, pair) of the files or frame folders that bear the same name in two folders, in order of the name.

    Whatever has no partner, shares its name with another file, or holds frames that differ from its partner's is named
    in `problems` and left out.
    """
    colours, mattes = media_in(fgr, problems), media_in(pha, problems)
    for name in sorted(colours.keys() | mattes.keys()):
        if name not in mattes:
            problems.append(f"{colours[name]}: no matte of that name in {pha}")
        elif name not in colours:
            problems.append(f"{mattes[name]}: no colour of that name in {fgr}")
        elif not (problem := frames_differ(pair := Pair(colours[name], mattes[name]))):
            yield name, pair
        else:
            problems.append(problem)


def media_in(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Pictures, videos and sub-folders of `folder` by name without extension; names that occur twice are left out."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if entry.name.startswith("."):
            continue
        if entry.is_dir() or entry.suffix.lower() in PICTURES | VIDEOS:
            found.setdefault(entry.name if entry.is_dir() else entry.stem, []).append(entry)
        else:
            problems.append(f"{entry}: neither a picture nor a video")
    for name, entries in found.items():
        if len(entries) > 1:
            listed = ", ".join(entry.name for entry in entries)
            problems.append(f"{folder}: the name {name!r} occurs {len(entries)} times ({listed}); keep one")
    return {name: entries[0] for name, entries in found.items() if len(entries) == 1}


def frames_differ(pair: Pair) -> str:
    """What is wrong with two frame folders that should hold the same frames; "" if nothing, or if they are files.

    Equal counts are not enough: with a different frame missing on either side, colour and matte would be shifted.
    """
    if not (pair.fgr.is_dir() and pair.pha.is_dir()):
        return ""
    colours, mattes = ({file.stem for file in frame_files(folder)} for folder in pair)
    if colours == mattes:
        return ""
    lonely = sorted(colours ^ mattes)
    return (
        f"{pair.fgr} has {len(colours)} frames, its matte {pair.pha} {len(mattes)}; without partner: "
        f"{', '.join(lonely[:3])}{', ...' if len(lonely) > 3 else ''}"
    )


def folder_of(root: Path, names: Iterable[str]) -> Path | None:
    """The sub-folder of `root` that bears one of `names`, capital letters or not; the first name wins."""
    present = {entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()} if root.is_dir() else {}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def nothing_there(root: Path, expected: str) -> DataError:
    """The error for a root that does not look like its set, with what was expected and what lies there."""
    there = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "nothing"
    return DataError(f"{root}: expected {expected}; found {there}")


def make_key(*parts: str) -> str:
    """A key from its parts: joined by hyphens; dots, which end a key within a shard, and slashes are replaced."""
    return "-".join(part.replace("/", "-").replace(".", "_") for part in parts)
