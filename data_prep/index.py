"""An index for shards that have none: older ones, or tars in webdataset's form that were made elsewhere.

    python -m data_prep.index root=SHARDS

Every tar is walked through once.  `index.jsonl` says where each sample lies, as `data_prep.shard` would have written
it, and `shards.json` names it.  The tars stay as they are.  With the index, training starts from a URL at once.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.progress import track

from data_prep.cli import parse, told
from data_prep.files import write_atomic
from data_prep.packing import Indexed, write_lines
from data_prep.shard import INDEX
from wan_alpha.data.errors import DataError
from wan_alpha.data.shards import MANIFEST, SCHEMA_VERSION, read_manifest, sha256_of
from wan_alpha.data.source import SPLITS, clip_of
from wan_alpha.data.stores import LocalStore
from wan_alpha.data.tars import walk_tar


@dataclass
class Options:
    """Write the index of shards that have none; the tars stay as they are."""

    root: Annotated[Path, "folder of the shards"]


def index(root: Path) -> int:
    """Run the step and return the number of samples.

    Raises:
        DataError: there are no shards, one differs from the manifest, or a sample is not whole; nothing is written.
    """
    files = [file for split in SPLITS for file in sorted(root.glob(f"{split}-*.tar"))]
    if not files:
        raise DataError(f"{root}: expected shards train-000000.tar ..., found none")
    manifest = _manifest(root, files)
    progress = track(files, "index", console=Console(stderr=True))
    lines = [line for file in progress for line in _lines(file)]
    write_lines(root / INDEX, lines)
    entry = {"name": INDEX, "sha256": sha256_of(root / INDEX), "bytes": (root / INDEX).stat().st_size}
    write_atomic(
        root / MANIFEST, (json.dumps(manifest | {"index": entry}, indent=2, ensure_ascii=False) + "\n").encode()
    )
    return len(lines)


def _manifest(root: Path, files: list[Path]) -> dict[str, Any]:
    """The manifest that is there, if the shards are those it names; else one of the shards as they are."""
    found = {file.name: sha256_of(file) for file in files}
    manifest = read_manifest(LocalStore(root), str(root))
    if manifest is not None:
        if {entry["name"]: entry["sha256"] for entry in manifest["shards"]} != found:
            raise DataError(f"{root}: the shards are not those that {MANIFEST} names; copy them again, or remove it")
        return manifest
    counts = {file.name: len(_lines(file)) for file in files}
    samples = {split: sum(count for name, count in counts.items() if name.startswith(split)) for split in SPLITS}
    shards = [
        {"name": file.name, "sha256": found[file.name], "bytes": file.stat().st_size, "samples": counts[file.name]}
        for file in files
    ]
    return {"schema_version": SCHEMA_VERSION, "shards": shards, "samples": samples}


def _lines(file: Path) -> list[Indexed]:
    """The index lines of one shard."""
    split = file.name.rsplit("-", 1)[0]
    with file.open("rb") as tar:
        rows, problems, truncated = walk_tar(tar, file.name, file.stat().st_size)
    for row in rows:
        clip_of(row.key, row.meta, split)
    if truncated or problems:
        reasons = [f"{key}: {reason}" for key, reason in problems.items()] + ["the tar ends early"] * truncated
        raise DataError(f"{file}: {'; '.join(reasons)}; make the shard again")
    return [
        Indexed(
            key=row.key, split=split, shard=row.member.shard, ext=row.member.ext, offset=row.member.offset,
            size=row.member.size, meta=dict(row.meta),
        )
        for row in rows
    ]  # fmt: skip


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.index")
    with told():
        count = index(options.root)
    print(f"{count} samples -> {options.root / INDEX}")


if __name__ == "__main__":
    main(sys.argv[1:])
