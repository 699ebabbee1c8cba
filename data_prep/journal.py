"""Writing `annotations.jsonl`: append, flush to the disk, and now and then drop what has been superseded.

Several processes and threads may write at once (a captioner and a review page, say): every append takes a lock beside
the file.  An append is on the disk when it returns.  A writer that was killed in the middle of a line harms that line
only, for the next one begins a new line.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from wan_alpha.data.annotations import ANNOTATIONS, Annotation, Entry, Kind, fold, read_entries

HISTORY = "annotations.history.jsonl"
LOCK = ".annotations.lock"
TYPING_SECONDS = 60.0
"""What somebody wrote and wrote over within so many seconds was typing, and is not kept as history."""


class Journal:
    """The annotations of one data set folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.file, self.history_file = root, root / ANNOTATIONS, root / HISTORY
        self._seen: tuple[int, int, int] | None = None
        self._state: dict[str, Annotation] = {}

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries; when this returns they are on the disk.

        Raises:
            OSError: they could not be written.
        """
        if not entries:
            return
        with self._locked():
            _append(self.file, "".join(entry.line() for entry in entries).encode())

    def state(self) -> dict[str, Annotation]:
        """What counts now, other writers' entries included."""
        try:
            stat = self.file.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except FileNotFoundError:
            return {}
        if seen != self._seen:
            self._state, self._seen = fold(read_entries(self.file)[0]), seen
        return self._state

    def annotation(self, key: str) -> Annotation:
        """What counts for one clip."""
        return self.state().get(key, Annotation())

    def history(self, key: str) -> list[Entry]:
        """Everything that was ever said about a clip, the latest first."""
        said = read_entries(self.history_file)[0] + read_entries(self.file)[0]
        return [entry for entry in reversed(list(dict.fromkeys(said))) if entry.key == key]

    def compact(self) -> int:
        """Move what no longer counts into the history file; returns the number of entries that were moved or dropped.

        Killed at any point, this leaves every entry in at least one of the two files.
        """
        with self._locked():
            entries, problems = read_entries(self.file)
            counts = {id(entry) for annotation in fold(entries).values() for entry in annotation.entries.values()}
            # Of each kind the last is kept: should a person's word be taken back by hand, the model's is still there.
            last = {_slot(entry): entry for entry in entries}
            kept = [entry for entry in entries if id(entry) in counts or last[_slot(entry)] is entry]
            stays = {id(entry) for entry in kept}
            old = [entry for entry in entries if id(entry) not in stays]
            if not old and not problems:
                return 0
            past = _without_typing(entries)
            _append(self.history_file, "".join(e.line() for e in old if id(e) in past).encode())
            temporary = self.root / f"{ANNOTATIONS}.tmp"
            with temporary.open("wb") as handle:
                handle.write("".join(entry.line() for entry in kept).encode())
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, self.file)
            _sync_folder(self.root)
        return len(old)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def entry(by: str, kind: Kind, key: str, name: str, value: str, source: str = "") -> Entry:
    """An entry of this moment."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Entry(now, by, kind, key, name, value, source)


def _append(file: Path, data: bytes) -> None:
    """Add whole lines to a file and wait until they are on the disk."""
    if not data:
        return
    is_new = not file.exists()
    with file.open("ab+") as handle:
        if handle.tell():
            handle.seek(-1, os.SEEK_END)
            data = data if handle.read(1) == b"\n" else b"\n" + data
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    if is_new:
        _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _slot(entry: Entry) -> tuple[str, str, str]:
    return entry.key, entry.field, entry.kind


def _without_typing(entries: Sequence[Entry]) -> set[int]:
    """Ids of entries that their author did not write over within moments."""
    later: dict[tuple[str, str, str, str], datetime] = {}
    lasting: set[int] = set()
    for item in reversed(entries):
        slot, time = (*_slot(item), item.by), datetime.fromisoformat(item.time)
        if slot not in later or (later[slot] - time).total_seconds() > TYPING_SECONDS:
            lasting.add(id(item))
        later[slot] = time
    return lasting
