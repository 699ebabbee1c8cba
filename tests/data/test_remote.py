"""Shards below a URL: the same clips as from a folder, whatever the network does."""

from __future__ import annotations

import hashlib
import json
import pickle
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rgba_media import write_shards

from benchmarks.range_server import RangeServer
from wan_alpha.data import remote
from wan_alpha.data.cache import Cache
from wan_alpha.data.dataset import ClipDataset
from wan_alpha.data.errors import DataError, MediaError, StoreError
from wan_alpha.data.remote import Remote
from wan_alpha.data.shards import ShardSource
from wan_alpha.data.stores import RemoteStore, open_store
from wan_alpha.data.tars import walk_tar


def add_index(root: Path) -> None:
    """`index.jsonl` beside the tars and in the manifest, as data_prep.shard writes it."""
    manifest = json.loads((root / "shards.json").read_text())
    lines = []
    for entry in manifest["shards"]:
        with (root / entry["name"]).open("rb") as file:
            for key, member, meta in walk_tar(file, entry["name"], entry["bytes"])[0]:
                lines.append(json.dumps({"key": key, **member._asdict(), "meta": dict(meta)}) + "\n")
    (root / "index.jsonl").write_text("".join(lines))
    data = (root / "index.jsonl").read_bytes()
    manifest["index"] = {"name": "index.jsonl", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (root / "shards.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shards(root, "train", [3, 2])
    add_index(root)
    return root


@pytest.fixture
def server(root: Path) -> Iterator[RangeServer]:
    with RangeServer(root) as server:
        yield server


def store_of(url: str, cache: Path, fetch: str = "clips", attempts: int = 3) -> RemoteStore:
    return RemoteStore(Remote(url, attempts, 0.02), Cache(cache, 10**9), fetch)  # type: ignore[arg-type]


def open_url(url: str, cache: Path, fetch: str = "clips", attempts: int = 3) -> ShardSource:
    return ShardSource(url, "train", store=store_of(url, cache, fetch, attempts))


def assert_same(found: ShardSource, expected: ShardSource) -> None:
    assert found.manifest_hash == expected.manifest_hash
    assert found.clips == expected.clips
    for index in range(len(expected)):
        np.testing.assert_array_equal(found.read(index, 1, 3), expected.read(index, 1, 3))


@pytest.mark.parametrize("fetch", ["clips", "shards"])
def test_a_url_holds_what_the_folder_holds_and_is_asked_once(
    fetch: str, server: RangeServer, root: Path, tmp_path: Path
) -> None:
    assert_same(open_url(server.url, tmp_path, fetch), ShardSource(root, "train"))
    asked = dict(server.requests)
    media = {"/train-000000.tar": 3, "/train-000001.tar": 2} if fetch == "clips" else {
        "/train-000000.tar": 1, "/train-000001.tar": 1
    }  # fmt: skip
    assert asked == {"/shards.json": 1, "/index.jsonl": 1} | media
    assert_same(open_url(server.url, tmp_path, fetch), ShardSource(root, "train"))
    assert server.requests - type(server.requests)(asked) == {"/shards.json": 1}  # all else is in the cache


def test_another_process_reads_on(server: RangeServer, root: Path, tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(open_url(server.url, tmp_path)))  # what a spawned worker gets
    assert_same(copy, ShardSource(root, "train"))


def test_opening_with_an_index_reads_no_shard(server: RangeServer, tmp_path: Path) -> None:
    assert len(open_url(server.url, tmp_path)) == 5
    assert not any("tar" in path for path in server.requests)


def test_without_an_index_every_shard_is_fetched_once(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    write_shards(tmp_path / "plain", "train", [2, 1])
    with RangeServer(tmp_path / "plain") as server:
        found = open_url(server.url, tmp_path / "cache")
        assert_same(found, ShardSource(tmp_path / "plain", "train"))
        assert server.requests["/train-000000.tar"] == server.requests["/train-000001.tar"] == 1


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_other_stores(scheme: str, root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    import fsspec

    url = request.getfixturevalue("s3") if scheme == "s3" else "memory://set"
    fs, path = fsspec.core.url_to_fs(url)
    for file in root.iterdir():
        fs.pipe(f"{path}/{file.name}", file.read_bytes())
    for fetch in ("clips", "shards"):
        assert_same(open_url(url, tmp_path / fetch, fetch), ShardSource(root, "train"))
    fs.rm(f"{path}/train-000001.tar")
    source = open_url(url, tmp_path / "again")
    with pytest.raises(MediaError, match=rf"{scheme}://.*/train-000001.tar: the shard is missing"):
        source.read(4, 0, 1)
    with pytest.raises(DataError, match=f"{scheme}://.*nowhere: expected shards.json there, found none"):
        open_url(f"{url}/nowhere", tmp_path)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a local S3 server, found through the environment as credentials are."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    import s3fs

    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/set"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3_needs_its_package_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(StoreError, match=r"pip install 'wan-alpha\[s3\]'"):
        Remote("s3://bucket/set")
    with pytest.raises(StoreError, match="Protocol not known: gopher"):
        Remote("gopher://old/set")


def test_s3_without_credentials_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match=r"cannot be read \(NoCredentialsError.*check the address and your access"):
        Remote("s3://bucket/set").read("shards.json")


@pytest.mark.parametrize("fetch", ["clips", "shards"])
def test_a_server_that_dies_in_the_middle_and_comes_back(
    fetch: str, server: RangeServer, root: Path, tmp_path: Path
) -> None:
    source = open_url(server.url, tmp_path, fetch, attempts=12)
    server.break_after = 200  # in the middle of the next answer
    again = threading.Timer(0.4, server.start)

    def die() -> None:
        while server.break_after is not None:
            time.sleep(0.002)
        server.stop()
        again.start()

    death = threading.Thread(target=die)
    death.start()
    assert_same(source, ShardSource(root, "train"))
    death.join()
    again.join()


def test_a_dead_store_is_an_error_and_not_a_bad_clip(server: RangeServer, root: Path, tmp_path: Path) -> None:
    source = open_url(server.url, tmp_path)
    server.stop()
    said = rf"{server.url}/train-000001.tar: no answer to 3 attempts in \d s \(last: Client.*is the server running\?"
    try:
        with pytest.raises(StoreError, match=said):
            ClipDataset(source, 3, 16, augment=False)[4]
    finally:
        server.start()
    assert ClipDataset(source, 3, 16, augment=False)[4]["problem"] == ""


def test_a_server_that_says_nothing_counts_as_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "READ_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StoreError, match=r"no answer to 2 attempts .*Timeout"):
            open_url(url, tmp_path, attempts=2)


@pytest.mark.parametrize(
    ("status", "requests", "message"),
    [
        (403, 1, "shards.json: cannot be read .*403.*check the address and your access"),
        (500, 3, "no answer to 3 attempts .*500"),
        (429, 3, "no answer to 3 attempts .*429"),
    ],
)
def test_what_may_pass_is_tried_again(
    status: int, requests: int, message: str, server: RangeServer, tmp_path: Path
) -> None:
    server.status = status
    with pytest.raises(StoreError, match=message):
        open_url(server.url, tmp_path)
    assert server.requests["/shards.json"] == requests


def test_a_missing_shard_is_named_and_its_clips_replaced(root: Path, tmp_path: Path) -> None:
    for name in ("shards.json", "index.jsonl", "train-000000.tar"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    with RangeServer(tmp_path) as server:
        sample = ClipDataset(open_url(server.url, tmp_path / "cache"), 3, 16, augment=False)[3]
        assert sample["key"] == "train000"
        assert sample["problem"].count(f"{server.url}/train-000001.tar: the shard is missing; copy it again") == 2


@pytest.mark.parametrize("fetch", ["clips", "shards"])
def test_a_truncated_shard_is_named(fetch: str, root: Path, tmp_path: Path) -> None:
    def cut(path: str, data: bytes) -> bytes:
        return data[: len(data) // 4] if path == "/train-000000.tar" else data

    with RangeServer(root, alter=cut) as server:
        source = open_url(server.url, tmp_path, fetch)
        with pytest.raises(MediaError, match=r"/train-000000.tar: ends before byte \d+; copy the shard again"):
            source.read(2, 0, 1)
        source.read(3, 0, 1)


@pytest.mark.parametrize("fetch", ["clips", "shards"])
def test_damage_on_the_way_is_fetched_again_and_damage_at_home_named(fetch: str, root: Path, tmp_path: Path) -> None:
    good = 1

    def damage(path: str, data: bytes) -> bytes:
        if path != "/train-000000.tar" or server.requests[path] > good:
            return data
        return data[:1000] + bytes(100) + data[1100:]

    with RangeServer(root, alter=damage) as server:
        np.testing.assert_array_equal(
            open_url(server.url, tmp_path / "a", fetch).read(0, 0, 5), ShardSource(root, "train").read(0, 0, 5)
        )
        assert server.requests["/train-000000.tar"] == 2
        good = 99
        source = open_url(server.url, tmp_path / "b", fetch)
        with pytest.raises(
            MediaError, match="crc32" if fetch == "clips" else "its sha256 is not the one in the manifest"
        ):
            source.read(0, 0, 5)


def test_a_damaged_cache_is_noticed(server: RangeServer, root: Path, tmp_path: Path) -> None:
    source = open_url(server.url, tmp_path)
    expected = source.read(0, 0, 5)
    for entry in tmp_path.glob("??/*"):
        entry.write_bytes(bytes(entry.stat().st_size))
    np.testing.assert_array_equal(source.read(0, 0, 5), expected)


def test_a_server_without_ranges(root: Path, tmp_path: Path) -> None:
    with RangeServer(root, ranges=False) as server:
        with pytest.raises(StoreError, match=r"sends whole files when asked for a part.*data.fetch=shards"):
            open_url(server.url, tmp_path).read(0, 0, 1)
        assert_same(open_url(server.url, tmp_path, "shards"), ShardSource(root, "train"))


def test_an_index_of_other_shards_is_refused(root: Path, tmp_path: Path) -> None:
    for file in root.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "index.jsonl").open("a") as file:
        file.write("{}\n")
    for place in (tmp_path, open_store(tmp_path)):
        with pytest.raises(DataError, match=r"index.jsonl: its sha256 is not the one in the manifest"):
            ShardSource(tmp_path, "train", store=None if place is tmp_path else place)  # type: ignore[arg-type]
    manifest = json.loads((tmp_path / "shards.json").read_text())
    data = (tmp_path / "index.jsonl").read_bytes()
    manifest["index"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (tmp_path / "shards.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"index.jsonl:6: not an index entry"):
        ShardSource(tmp_path, "train")
