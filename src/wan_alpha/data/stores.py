"""Where shards lie: a folder, or a URL with a cache before it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

from wan_alpha.data.cache import Cache
from wan_alpha.data.errors import DataError, MediaError
from wan_alpha.data.remote import Remote, is_url

Fetch = Literal["clips", "shards"]


class Shard(NamedTuple):
    """What the manifest says of a shard."""

    name: str
    bytes: int
    sha256: str
    samples: int


class Store(Protocol):
    """Files of one data set."""

    def describe(self, name: str) -> str:
        """Where a file lies, for messages."""
        ...

    def whole(self, name: str, sha256: str | None = None, size: int | None = None) -> bytes:
        """All bytes of a small file.

        Raises:
            FileNotFoundError: it is not there.
            DataError: it cannot be read, or is not the one that `sha256` names.
        """
        ...

    def part(self, shard: Shard, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of a shard.

        Raises:
            MediaError: this shard cannot be read, while others may be.
            StoreError: nothing can be read any more.
        """
        ...

    def forget(self, shard: Shard, offset: int, size: int) -> bool:
        """These bytes were wrong: see that they are fetched again.  False where that would bring nothing new."""
        ...


class LocalStore:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def describe(self, name: str) -> str:
        """See `Store.describe`."""
        return str(self.root / name)

    def whole(self, name: str, sha256: str | None = None, size: int | None = None) -> bytes:
        """See `Store.whole`."""
        return _same((self.root / name).read_bytes(), sha256, self.describe(name))

    def part(self, shard: Shard, offset: int, size: int) -> bytes:
        """See `Store.part`."""
        try:
            with open(self.root / shard.name, "rb", buffering=0) as file:
                data = bytearray()
                while len(data) < size and (chunk := os.pread(file.fileno(), size - len(data), offset + len(data))):
                    data += chunk
        except OSError as error:
            raise MediaError(f"{self.root / shard.name}: cannot be opened or read ({error})") from error
        if len(data) < size:
            raise MediaError(f"{self.root / shard.name}: ends within a sample; copy the shard again")
        return bytes(data)

    def forget(self, shard: Shard, offset: int, size: int) -> bool:
        """See `Store.forget`."""
        return False


class RemoteStore:
    """A URL.  What was fetched once is kept in the cache, clip by clip or shard by shard.

    Args:
        remote: the URL.
        cache: where fetched bytes stay.
        fetch: "clips" fetches the bytes of a clip when it is needed; "shards" the whole shard it lies in, whose sha256
            is compared with the manifest's on arrival.
    """

    def __init__(self, remote: Remote, cache: Cache, fetch: Fetch = "clips") -> None:
        self.remote, self.cache, self.fetch = remote, cache, fetch

    def describe(self, name: str) -> str:
        """See `Store.describe`."""
        return f"{self.remote.url}/{name}"

    def whole(self, name: str, sha256: str | None = None, size: int | None = None) -> bytes:
        """See `Store.whole`; a file that is named by its sha256 is fetched once."""
        if sha256 is None or size is None:
            return self.remote.read(name)

        def write(file: BinaryIO) -> None:
            file.write(_same(self.remote.read(name), sha256, self.describe(name)))

        return self.cache.read(sha256, size, write)

    def part(self, shard: Shard, offset: int, size: int) -> bytes:
        """See `Store.part`."""
        try:
            if self.fetch == "shards":
                return self.cache.read(shard.sha256, shard.bytes, lambda file: self._fetch(shard, file), offset, size)

            def write(file: BinaryIO) -> None:
                file.write(self.remote.read(shard.name, offset, offset + size))

            return self.cache.read(_part_key(shard, offset, size), size, write)
        except FileNotFoundError as error:
            raise MediaError(f"{self.describe(shard.name)}: the shard is missing; copy it again") from error

    def forget(self, shard: Shard, offset: int, size: int) -> bool:
        """See `Store.forget`."""
        self.cache.forget(shard.sha256 if self.fetch == "shards" else _part_key(shard, offset, size))
        return True

    def _fetch(self, shard: Shard, file: BinaryIO) -> None:
        """A whole shard; what arrives is compared with the manifest, and once more if it differs."""
        for _ in range(2):
            file.seek(0)
            file.truncate()
            digest = hashlib.sha256()
            for chunk in self.remote.chunks(shard.name, shard.bytes):
                file.write(chunk)
                digest.update(chunk)
            if digest.hexdigest() == shard.sha256:
                return
        raise MediaError(
            f"{self.describe(shard.name)}: its sha256 is not the one in the manifest; copy the shard again"
        )


def open_store(
    root: Path | str, cache_dir: Path | str = "~/.cache/wan-alpha", cache_gb: float = 50.0, fetch: Fetch = "clips"
) -> Store:
    """The store of a folder, or of a URL with its cache; see `RemoteStore`.

    Raises:
        StoreError: the URL's kind is unknown, or the cache cannot be made.
    """
    if not is_url(str(root)):
        return LocalStore(Path(root))
    return RemoteStore(Remote(str(root)), Cache(Path(cache_dir).expanduser(), int(cache_gb * 1e9)), fetch)


def _part_key(shard: Shard, offset: int, size: int) -> str:
    return f"{shard.sha256}:{offset}+{size}"


def _same(data: bytes, sha256: str | None, where: str) -> bytes:
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{where}: its sha256 is not the one in the manifest; copy it again")
    return data
