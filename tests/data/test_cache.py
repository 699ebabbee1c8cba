"""The cache: one fetch for many processes, never more than its limit, never half an entry."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from wan_alpha.data.cache import Cache
from wan_alpha.data.errors import DataError, StoreError

FORK = multiprocessing.get_context("fork")


def content(key: str, size: int) -> bytes:
    return (key.encode() * size)[:size]


def put(cache: Cache, key: str, size: int = 100) -> bytes:
    return cache.read(key, size, lambda file: file.write(content(key, size)) and None)


def used(cache: Cache) -> int:
    total = 0
    for file in cache.root.glob("??/*"):
        with suppress(FileNotFoundError):  # others are at work
            total += file.stat().st_size
    return total


def there(cache: Cache) -> set[str]:
    return {key for key in "abcdefghijklmnop" if cache.path(key).exists()}


def test_an_entry_is_fetched_once_and_read_in_parts(tmp_path: Path) -> None:
    cache, fetched = Cache(tmp_path / "new" / "cache", 10**6), []

    def fetch(file: BinaryIO) -> None:
        fetched.append(1)
        file.write(b"0123456789")

    assert cache.read("key", 10, fetch) == b"0123456789"
    assert cache.read("key", 10, fetch, 3, 4) == b"3456"
    assert cache.read("key", 10, fetch, 8) == b"89"
    assert len(fetched) == 1
    cache.forget("key")
    cache.read("key", 10, fetch)
    assert len(fetched) == 2


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**6)

    def fetch(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyError("no more")

    with pytest.raises(KeyError):
        cache.read("key", 10, fetch)
    assert not list(tmp_path.glob("??/*"))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for number, key in enumerate("abcdefghi"):
        put(cache, key)
        os.utime(cache.path(key), (number, number))
    assert there(cache) == set("abcdefghi")
    put(cache, "a")  # used just now
    put(cache, "j")
    assert there(cache) == set("adefghij")  # b and c made room
    assert used(cache) == 800


def test_an_entry_in_use_survives_until_it_is_closed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    put(cache, "a", 600)
    with cache.path("a").open("rb") as file:
        put(cache, "b", 700)
        assert there(cache) == {"b"}
        assert file.read() == content("a", 600)


def test_limits_are_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"data.cache_gb=1e-06 is less than one entry of 2e-06 GB; raise it"):
        put(Cache(tmp_path, 1000), "a", 2000)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"the cache cannot be made there .*choose another data.cache_dir"):
        Cache(tmp_path / "file" / "cache", 1000)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**6)
    put(cache, "a")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"no room for .*File too large.*free some space, lower data.cache_gb or"):
            put(cache, "b", 9000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert used(cache) == 100
    assert put(cache, "b", 9000) == content("b", 9000)


def _use(root: Path, limit: int, seed: int, log: Path, most: Path) -> None:
    cache = Cache(root, limit)
    largest = 0
    for number in np.random.default_rng(seed).integers(30, size=120):
        key, size = f"entry {number}", 100 + int(number)

        def fetch(file: BinaryIO, key: str = key, size: int = size) -> None:
            with log.open("a") as lines:
                lines.write(f"{key}\n")
            time.sleep(0.001)
            file.write(content(key, size))

        assert cache.read(key, size, fetch) == content(key, size)
        largest = max(largest, used(cache))
    most.write_text(str(largest))


@pytest.mark.parametrize("limit", [100_000, 1500])
def test_processes_share_it(limit: int, tmp_path: Path) -> None:
    """Right content always; with room for all, one fetch of each; without, never more than the limit."""
    log = tmp_path / "log"
    root = tmp_path / "cache"
    users = [FORK.Process(target=_use, args=(root, limit, s, log, tmp_path / f"most{s}")) for s in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
        assert user.exitcode == 0
    fetched = log.read_text().splitlines()
    if limit == 100_000:
        assert len(fetched) == len(set(fetched)) == 30
    else:
        assert len(fetched) > 30
        in_flight = 4 * 129
        assert max(int(file.read_text()) for file in tmp_path.glob("most*")) <= limit + in_flight
        assert used(Cache(root, limit)) <= limit


def _hang_in_the_middle(root: Path) -> None:
    def fetch(file: BinaryIO) -> None:
        file.write(b"half of")
        file.flush()
        (root / "begun").touch()
        time.sleep(60)

    Cache(root, 10**6).read("key", 100, fetch)


def test_a_process_killed_in_the_middle_holds_nobody_up(tmp_path: Path) -> None:
    victim = FORK.Process(target=_hang_in_the_middle, args=(tmp_path,))
    victim.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.005)
    os.kill(victim.pid or 0, signal.SIGKILL)
    victim.join()
    assert put(Cache(tmp_path, 10**6), "key") == content("key", 100)
    assert used(Cache(tmp_path, 10**6)) == 100


def test_what_the_dead_left_is_removed_in_time(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    put(cache, "a")
    old, new = (cache.path(key).with_name("x.tmp") for key in ("a", "b"))
    for file in (old, new):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    put(Cache(tmp_path, 1000), "c")
    assert not old.exists()
    assert new.exists()  # its process may be alive


def test_an_entry_of_another_size_is_refused_and_not_fetched_for_ever(tmp_path: Path) -> None:
    answers = [b"abc", b"abc"]
    with pytest.raises(DataError, match="holds 3 bytes, 5 were promised"):
        Cache(tmp_path, 100).read("key", 5, lambda file: file.write(answers.pop()) and None)
    assert len(answers) == 1
