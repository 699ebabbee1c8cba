"""A folder of files that came over the network, shared by any number of processes.

An entry is named by its content's checksum, written beside its place and moved there in one step, so that a process
that dies leaves no half entry.  While one process fetches an entry the others wait for it (`flock`, which the system
gives back when its holder dies).  Entries that were not used for longest go first when room is needed; who still reads
one keeps it until the file is closed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from wan_alpha.data.errors import DataError, StoreError

HIGH, LOW = 0.9, 0.8  # room is made when more than HIGH of the limit would be used, down to LOW
SCAN_SHARE = 0.01  # other processes write too: after so much of the limit a process counts again
ABANDONED_AFTER = 3600.0  # seconds without a write
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Cache:
    """Files by key, at most `limit` bytes of them.

    Args:
        root: the folder; made when it is missing.
        limit: bytes; exceeded at most by what is being fetched at the moment, and by a hundredth for each process
            beyond ten.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root, limit
        self._counted: int | None = None  # bytes at the last count and since
        self._added = 0
        try:
            (root / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{root}: the cache cannot be made there ({error}); choose another data.cache_dir"
            ) from error

    def path(self, key: str) -> Path:
        """Where an entry lies when it is there."""
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.root / name[:2] / name[2:]

    def read(self, key: str, size: int, fetch: Callable[[BinaryIO], None], start: int = 0, count: int = -1) -> bytes:
        """`count` bytes from `start` of an entry (by default all of it), which `fetch` writes when it is not there.

        Args:
            key: names the content; other content must have another key.
            size: bytes of the whole entry.
            fetch: writes the entry into the open file it is given; what it raises is raised here.
            start, count: the part that is wanted.

        Raises:
            DataError: what was fetched is not of that size.
            StoreError: the entry is larger than the cache, or the disk is full.
        """
        path = self.path(key)
        while True:
            with suppress(FileNotFoundError), path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == size:
                    os.utime(file.fileno())  # used just now
                    file.seek(start)
                    return file.read(size - start if count < 0 else count)
            with self._lock(path.name[:2]):  # of 256; entries that share one merely wait for each other
                if not (path.exists() and path.stat().st_size == size):
                    self._make_room(size)
                    self._write(path, size, fetch)

    def forget(self, key: str) -> None:
        """Drop an entry whose content turned out to be wrong."""
        self.path(key).unlink(missing_ok=True)

    def _write(self, path: Path, size: int, fetch: Callable[[BinaryIO], None]) -> None:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f"{path.name}.tmp")
        try:
            with partial.open("wb") as file:
                fetch(file)
            found = partial.stat().st_size
            if found != size:  # else it would be fetched for ever
                raise DataError(f"what was fetched holds {found} bytes, {size} were promised; copy the set again")
            self._added += found
            os.replace(partial, path)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise StoreError(
                f"{self.root}: no room for {path.name[:12]} ({error}); free some space, lower data.cache_gb or choose "
                "another data.cache_dir"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Drop what was not used for longest, if `size` more bytes would be too much."""
        if size > self.limit:
            raise StoreError(
                f"{self.root}: data.cache_gb={self.limit / 1e9:g} is less than one entry of {size / 1e9:g} GB; raise it"
            )
        known = None if self._counted is None else self._counted + self._added + size
        if known is not None and known <= HIGH * self.limit and self._added <= SCAN_SHARE * self.limit:
            return
        with self._lock("room"):
            entries = sorted(self._entries())
            total = sum(bytes_ for _, bytes_, _ in entries)
            if total + size > HIGH * self.limit:
                for _, bytes_, path in entries:
                    if total + size <= LOW * self.limit:
                        break
                    path.unlink(missing_ok=True)
                    total -= bytes_
        self._counted, self._added = total, 0

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, bytes, path) of all entries; what a dead process left is removed."""
        for folder in self.root.iterdir():
            for entry in os.scandir(folder) if len(folder.name) == 2 else ():
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    if not entry.name.endswith(".tmp"):
                        yield stat.st_mtime, stat.st_size, Path(entry.path)
                    elif time.time() - stat.st_mtime > ABANDONED_AFTER:
                        Path(entry.path).unlink()

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self.root / "locks" / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
