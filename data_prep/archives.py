"""Reading archives that somebody else made: nothing is unpacked, and nothing in them is trusted."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from wan_alpha.data.errors import DataError

MAX_MEMBER = 2**26
"""Bytes of one member, 64 MiB: the clips in such packages take less than one."""
MAX_TOTAL = 2**33
"""Bytes that one package may unpack to, 8 GiB."""


def read_members(package: Path, ext: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the files with an extension in a .tgz, in their order.

    Raises:
        DataError: the archive is broken, has members with path tricks (absolute, `..`, links, devices), or unpacks to
            more than the limits allow.
    """
    total = 0
    try:
        with gzip.open(package) as raw, tarfile.open(fileobj=cast(Any, _Limited(raw, package)), mode="r:") as tar:
            for member in tar:
                _refuse_tricks(package, member)
                total += member.size
                _refuse_bombs(package, member.name, member.size, total)
                handle = tar.extractfile(member) if member.isfile() and member.name.endswith(ext) else None
                if handle is not None:
                    yield member.name, handle.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{package}: a broken archive ({error}); fetch it again") from error


class _Limited:
    """A file from which nobody can read more at once than a member may have; tar headers too name sizes."""

    def __init__(self, file: gzip.GzipFile, package: Path) -> None:
        self.file, self.package = file, package

    def read(self, size: int = -1) -> bytes:
        _refuse_bombs(self.package, "a header", size, 0)
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def _refuse_tricks(package: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        kind = "a link or device" if not (member.isfile() or member.isdir()) else "a path out of the archive"
        raise DataError(f"{package}: the member {member.name!r} is {kind}; this is not the archive that was published")


def _refuse_bombs(package: Path, name: str, size: int, total: int) -> None:
    if size > MAX_MEMBER or total > MAX_TOTAL or size < -1:
        what = (
            f"{name} unpacks to {size} bytes" if size > MAX_MEMBER or size < 0 else f"it unpacks to over {total} bytes"
        )
        raise DataError(f"{package}: {what}, more than such an archive may; fetch it again from its publisher")
