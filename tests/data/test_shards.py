"""Shards: what is there is read, what is not is named."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from rgba_media import disc, write_shards

from wan_alpha.data.errors import DataError, MediaError
from wan_alpha.data.shards import ShardSource


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shards(tmp_path, "train", [3, 2])
    write_shards(tmp_path, "val", [1])
    return tmp_path


def test_reads_every_clip_of_its_split(root: Path) -> None:
    source = ShardSource(root, "train", verify=True)
    assert len(source) == 5
    assert not source.problems
    assert [clip.key for clip in source.clips] == [f"train{number:03d}" for number in range(5)]
    assert source.clips[4].caption == "disc 4"
    for index in (4, 0):
        np.testing.assert_array_equal(source.read(index, 1, 2, 2), disc(5, 24, 32, seed=index)[1:5:2])
    assert len(ShardSource(root, "val")) == 1


def test_pickled_source_reads_on_in_another_process(root: Path) -> None:
    source = ShardSource(root, "train")
    expected = source.read(1, 0, 5)
    copy = pickle.loads(pickle.dumps(source))
    del source
    np.testing.assert_array_equal(copy.read(1, 0, 5), expected)


def test_manifest_hash_follows_content_not_place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_shards(other, "train", [3, 2])
    assert ShardSource(root, "train").manifest_hash == ShardSource(other, "train").manifest_hash
    write_shards(tmp := tmp_path_factory.mktemp("third"), "train", [3, 2], num_frames=4)
    assert ShardSource(tmp, "train").manifest_hash != ShardSource(root, "train").manifest_hash


def test_missing_shard_is_named_and_counted(root: Path) -> None:
    (root / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"2 of 5 train samples are lost(.|\n)*train-000001.tar: the shard is missing"):
        ShardSource(root, "train")
    source = ShardSource(root, "train", max_corrupt_share=0.5)
    assert len(source) == 3
    assert source.problems == [f"{root / 'train-000001.tar'}: the shard is missing (2 samples); copy it again"]


def test_truncated_tar_keeps_what_is_whole(root: Path) -> None:
    shard = root / "train-000000.tar"
    with tarfile.open(shard) as tar:
        cut = tar.getmember("train002.mkv").offset_data + 100
    shard.write_bytes(shard.read_bytes()[:cut])
    source = ShardSource(root, "train", max_corrupt_share=0.2)
    assert [clip.key for clip in source.clips] == ["train000", "train001", "train003", "train004"]
    assert any("expected" in problem and "bytes" in problem for problem in source.problems)
    assert any(f"{shard}: the tar ends early at byte {cut}" in problem for problem in source.problems)
    assert any(re.search(rf"{shard.name}: \d of its \d samples are lost", problem) for problem in source.problems)
    with pytest.raises(DataError, match="1 of 5 train samples are lost"):
        ShardSource(root, "train")


def test_member_without_partner_is_skipped(root: Path) -> None:
    shard = root / "train-000001.tar"
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    (root / "shards.json").unlink()
    with tarfile.open(shard, "w") as tar:
        for member, data in members:
            if member.name != "train003.json":
                tar.addfile(member, io.BytesIO(data))
    source = ShardSource(root, "train", max_corrupt_share=0.2)
    assert len(source) == 4
    assert source.problems == [f"{shard}: train003: expected one media file and one .json, found .mkv"]


def test_keys_that_occur_twice_or_lead_elsewhere_are_named(root: Path) -> None:
    shard = root / "train-000001.tar"
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(shard, "w") as tar:
        for member, data in members:
            member.name = member.name.replace("train003", "train000").replace("train004", "../train004")
            tar.addfile(member, io.BytesIO(data))
    (root / "shards.json").unlink()
    source = ShardSource(root, "train", max_corrupt_share=0.5)
    assert [clip.key for clip in source.clips] == ["train000", "train001", "train002"]
    assert f"{shard}: train000: another sample has this key too" in "\n".join(source.problems)
    assert "train004" not in "".join(clip.key for clip in source.clips)


def test_unusable_json_is_named(root: Path) -> None:
    shard = root / "train-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'{"num_frames": 5', b'{"num_fr*mes": 5', 1))
    source = ShardSource(root, "train", max_corrupt_share=0.2)
    assert len(source) == 4
    assert "train000: its .json is not usable (KeyError: 'num_frames')" in source.problems[0]


def test_damaged_bytes_are_found_by_verifying_and_on_reading(root: Path) -> None:
    shard = root / "train-000000.tar"
    with tarfile.open(shard) as tar:
        member = tar.getmember("train001.mkv")
    data = bytearray(shard.read_bytes())
    middle = member.offset_data + member.size // 2
    data[middle : middle + 60] = bytes(255 - byte for byte in data[middle : middle + 60])
    shard.write_bytes(data)
    assert "sha256" in ShardSource(root, "train", verify=True).problems[0]
    source = ShardSource(root, "train")
    assert not source.problems
    source.read(0, 0, 5)
    with pytest.raises(MediaError, match=r"train-000000\.tar: train001\.mkv: the bytes are not"):
        source.read(1, 0, 5)


def test_shard_that_disappears_later_is_named(root: Path) -> None:
    source = ShardSource(root, "val")
    fresh = pickle.loads(pickle.dumps(source))
    (root / "val-000000.tar").unlink()
    with pytest.raises(MediaError, match=r"val-000000\.tar: cannot be opened"):
        fresh.read(0, 0, 1)


def test_unknown_split_and_schema(root: Path) -> None:
    with pytest.raises(DataError, match=r"expected shards test-000000\.tar .*, found train-000000\.tar"):
        ShardSource(root, "test")
    with pytest.raises(DataError, match=r"no shards at all; data_prep.shard makes them"):
        ShardSource(root / "nowhere", "train")
    manifest = json.loads((root / "shards.json").read_text()) | {"schema_version": 99}
    (root / "shards.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="expected schema_version 1, found 99"):
        ShardSource(root, "train")


@pytest.mark.parametrize(("offset", "size"), [(0, 10**15), (-512, 600), (10**15, 9)])
def test_an_index_that_points_out_of_its_shard_is_not_believed(root: Path, offset: int, size: int) -> None:
    source = ShardSource(root, "train")
    lines = [
        {"key": clip.key, "shard": member.shard, "ext": member.ext, "offset": member.offset, "size": member.size,
         "meta": clip.meta}
        for clip, member in zip(source.clips, source._members, strict=True)
    ]  # fmt: skip
    lines[1] |= {"offset": offset, "size": size}
    index = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (root / "index.jsonl").write_bytes(index)
    manifest = json.loads((root / "shards.json").read_text())
    manifest["index"] = {"name": "index.jsonl", "sha256": hashlib.sha256(index).hexdigest(), "bytes": len(index)}
    (root / "shards.json").write_text(json.dumps(manifest))
    found = ShardSource(root, "train", max_corrupt_share=0.5)
    assert lines[1]["key"] not in {clip.key for clip in found.clips}
    assert "the index points out of the shard" in found.problems[0]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "shards": [{"name": "x"}]}']
)
def test_a_manifest_that_is_none_is_named(root: Path, text: str) -> None:
    (root / "shards.json").write_text(text)
    with pytest.raises(DataError, match=r"shards\.json: not a manifest \(.*; copy it again"):
        ShardSource(root, "train")
