"""Where shards are made before they are there: a hidden folder that an interrupted run leaves and the next continues.

The folder's name is a hash of everything the shards follow from (clips, their JSON, options, versions of the encoders).
If any of it changes, the old stage is thrown away and the work begins anew; so a run that continues ends with the bytes
of one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av

from data_prep.packing import Entry, Indexed, Job
from wan_alpha.data.media import media_files

PREFIX = ".shard-"
JOURNAL = "journal.jsonl"


def fingerprint(jobs: Iterable[Job], *options: object) -> str:
    """A hash of the clips, the state of their files, the options and the encoders."""
    digest = hashlib.sha256(json.dumps([options, av.library_versions], sort_keys=True).encode())
    for job in jobs:
        states = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in media_files(job.media)]
        line = json.dumps([job.key, job.split, job.encode, job.meta, states], sort_keys=True)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]


class Stage:
    """The stage of a run in the folder `out`; stages of other runs are removed.

    Attributes:
        folder: where it lies.
        sizes: bytes of the clips that are encoded, by key.
        shards: (entry, index) of the shards that are written, by name.
    """

    def __init__(self, out: Path, identity: str) -> None:
        self.folder = out / f"{PREFIX}{identity}"
        for old in out.glob(f"{PREFIX}*"):
            if old != self.folder:
                shutil.rmtree(old)
        (self.folder / "clips").mkdir(parents=True, exist_ok=True)
        self.sizes: dict[str, int] = {}
        self.shards: dict[str, tuple[Entry, list[Indexed]]] = {}
        self._read()
        self._journal = (self.folder / JOURNAL).open("a", encoding="utf-8")

    def _read(self) -> None:
        """What earlier runs noted; the line during which one was killed is cut off, lest the next be glued to it."""
        journal = self.folder / JOURNAL
        text = journal.read_bytes() if journal.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(journal, len(whole))
        for line in whole.decode().splitlines():
            note = json.loads(line)
            if "clip" in note:
                self.sizes[note["clip"]] = note["bytes"]
            else:
                self.shards[note["entry"]["name"]] = (note["entry"], note["index"])

    def note_clip(self, key: str, size: int) -> None:
        """A clip is encoded."""
        self.sizes[key] = size
        self._note({"clip": key, "bytes": size})

    def note_shard(self, entry: Entry, index: list[Indexed]) -> None:
        """A shard is written."""
        self.shards[entry["name"]] = (entry, index)
        self._note({"entry": entry, "index": index})

    def _note(self, note: dict[str, Any]) -> None:
        self._journal.write(json.dumps(note) + "\n")
        self._journal.flush()

    def close(self) -> None:
        """Keep the stage for a run that continues."""
        self._journal.close()

    def remove(self) -> None:
        """Everything is where it belongs."""
        self.close()
        shutil.rmtree(self.folder)
