"""What lies where in a shard: from the index that was written with it, or by walking through the tar."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from wan_alpha.data.errors import DataError
from wan_alpha.data.media import MEDIA_EXTENSIONS
from wan_alpha.data.source import numbered_lines


class Member(NamedTuple):
    """Where a clip's media lies: shard, extension, and the bytes [offset, offset + size) of the tar."""

    shard: str
    ext: str
    offset: int
    size: int


class Row(NamedTuple):
    """One sample of a shard: its media, and the content of its JSON."""

    key: str
    member: Member
    meta: Mapping[str, Any]


def read_index(text: str, where: str) -> dict[str, list[Row]]:
    """{shard: samples in the order of the tar} from an `index.jsonl`.

    Raises:
        DataError: a line is not what it has to be.
    """
    rows: dict[str, list[Row]] = {}
    for number, line in numbered_lines(text):
        try:
            entry = json.loads(line)
            member = Member(entry["shard"], entry["ext"], int(entry["offset"]), int(entry["size"]))
            rows.setdefault(member.shard, []).append(Row(entry["key"], member, entry["meta"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where}:{number}: not an index entry ({error!r}); make the shards again with data_prep.shard"
            ) from error
    return rows


def walk_tar(file: BinaryIO, shard: str, length: int) -> tuple[list[Row], dict[str, str], bool]:
    """(whole samples, {key: what is wrong with it}, whether the tar ends early) of a shard of `length` bytes."""
    members, truncated = _members(file, length)
    rows, problems = [], {}
    for key, parts in members.items():
        media = [ext for ext in parts if ext in MEDIA_EXTENSIONS]
        if len(media) != 1 or ".json" not in parts:
            problems[key] = f"expected one media file and one .json, found {', '.join(sorted(parts))}"
            continue
        offset, size = parts[".json"]
        file.seek(offset)
        try:
            meta = json.loads(file.read(size))
        except ValueError as error:
            problems[key] = f"its .json is not usable ({type(error).__name__}: {error})"
            continue
        rows.append(Row(key, Member(shard, media[0], *parts[media[0]]), meta))
    return rows, problems, truncated


def _members(file: BinaryIO, length: int) -> tuple[dict[str, dict[str, tuple[int, int]]], bool]:
    """{key: {extension: (offset, size)}} of the whole members of a tar, and whether it ends early."""
    members: dict[str, dict[str, tuple[int, int]]] = {}
    truncated = False
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, dot, ext = member.name.partition(".")
                if not member.isfile():
                    continue
                if member.offset_data + member.size > length:
                    truncated = True
                    continue
                members.setdefault(key, {})[f"{dot}{ext}".lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError):
        truncated = True
    return members, truncated
