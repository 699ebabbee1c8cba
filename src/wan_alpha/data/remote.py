"""Bytes below a URL (http, https, s3 and whatever else fsspec knows), with patience.

Networks fail for seconds and servers restart: what may pass is tried again after a while, twice as long each time.
What cannot pass (no such file, no permission) is said at once.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from typing import Any

from wan_alpha.data.errors import DataError, MediaError, StoreError

ATTEMPTS = 9
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds; nine attempts span a minute and a half
CHUNK = 8 << 20
"""Bytes of one request when a whole file is fetched: what is lost when a connection breaks."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0  # seconds without a sign of life
BEYOND_THE_END = 416
LATER = (408, 425, 429)  # client errors that mean "not now"
CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")  # botocore's, which may not be installed

log = logging.getLogger(__name__)


def is_url(root: str) -> bool:
    """Whether `root` is a URL and not a path."""
    return "://" in root


class Remote:
    """Files below a URL, by name.

    Args:
        url: what the names are below.
        attempts: after so many failures in a row the store counts as dead.
        first_delay: seconds before the second attempt.

    Raises:
        StoreError: the URL's kind needs a package that is not installed, or is unknown.
    """

    def __init__(self, url: str, attempts: int = ATTEMPTS, first_delay: float = FIRST_DELAY) -> None:
        self.url, self.attempts, self.first_delay = url.rstrip("/"), attempts, first_delay
        self._open()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a file, all of it by default.

        Raises:
            FileNotFoundError: the store says that there is no such file.
            MediaError: the file is shorter than that.
            StoreError: the store refuses, or does not answer however often it is asked.
        """
        where, began = f"{self.url}/{name}", time.monotonic()
        for attempt in range(1, self.attempts + 1):
            try:
                return self._once(where, start, stop)
            except (FileNotFoundError, DataError):
                raise
            except Exception as error:  # every protocol has exceptions of its own
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
                if getattr(error, "status", None) == BEYOND_THE_END and stop is not None:
                    raise _ends_early(where, stop) from error
                if _is_final(error):
                    raise StoreError(
                        f"{where}: cannot be read ({reason}); check the address and your access"
                    ) from error
                if attempt == self.attempts:
                    raise StoreError(
                        f"{where}: no answer to {attempt} attempts in {time.monotonic() - began:.0f} s (last: "
                        f"{reason}); is the server running? When it is, the same command continues where it stopped"
                    ) from error
                delay = min(self.first_delay * 2 ** (attempt - 1), LONGEST_DELAY) * random.uniform(0.75, 1.25)
                log.warning("%s: %s; attempt %d of %d in %.1f s", where, reason, attempt + 1, self.attempts, delay)
                time.sleep(delay)
        raise AssertionError("unreachable")

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """A whole file of `size` bytes, piece by piece; a piece that is lost on the way is fetched again."""
        for start in range(0, size, CHUNK):
            try:
                yield self.read(name, start, min(start + CHUNK, size))
            except NoRangesError as answer:  # it knows whole files only, and that was one
                yield answer.content
                return

    def _once(self, where: str, start: int, stop: int | None) -> bytes:
        fs, path = self._open(where)
        if stop is None:
            return bytes(fs.cat_file(path))
        data: bytes = fs.cat_file(path, start=start, end=stop)
        if len(data) > stop - start:
            raise NoRangesError(
                f"{where}: the server sends whole files when asked for a part; use one that knows Range requests, or "
                "data.fetch=shards",
                data,
            )
        if len(data) < stop - start:
            raise _ends_early(where, stop)
        return data

    def _open(self, where: str | None = None) -> tuple[Any, str]:
        """fsspec's file system for the URL and the path within it; fsspec keeps one for each process and kind."""
        import fsspec  # not needed for local data

        try:
            options = _http_options() if self.url.startswith("http") else {}
            return fsspec.core.url_to_fs(where or self.url, **options)
        except ImportError as error:
            raise StoreError(f"{self.url}: {error}; for s3:// pip install 'wan-alpha[s3]'") from error
        except ValueError as error:
            raise StoreError(f"{self.url}: {error}") from error


class NoRangesError(StoreError):
    """The server sent the whole file (`content`) when a part was asked for."""

    def __init__(self, message: str, content: bytes = b"") -> None:
        super().__init__(message)
        self.content = content


def _ends_early(where: str, stop: int) -> MediaError:
    return MediaError(f"{where}: ends before byte {stop}; copy the shard again")


def _http_options() -> dict[str, Any]:
    import aiohttp

    # No limit on the whole, for a large file may take long; but a server that says nothing is dead.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
    return {"client_kwargs": {"timeout": timeout}}


def _is_final(error: Exception) -> bool:
    """Whether asking again is pointless."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in LATER
    if type(error).__name__ in CREDENTIALS:
        return True
    return isinstance(error, PermissionError | IsADirectoryError | NotImplementedError | ImportError | TypeError)
