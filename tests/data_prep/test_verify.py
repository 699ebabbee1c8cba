"""Whatever can be wrong with shards is found by reading them again."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matting_trees import rgba, save

from data_prep import shard
from data_prep.verify import Options, main, verify
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import write_ffv1

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    for clip in range(4):
        for number, frame in enumerate(rgba(clip, 3)):
            save(frame, root / "in" / f"clip{clip}" / f"{number}.png")
    shard.shard(shard.Options(root / "in", root / "out", val_share=0.4, workers=0))
    return root / "out"


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "shards"))


def problems(root: Path) -> list[str]:
    return verify(Options(root, workers=0)).problems


def rewrite(root: Path, name: str, change: Callable[[Members], Members]) -> None:
    """Change the members of a tar, and the manifest with it, as a broken tool would that keeps its books."""
    with tarfile.open(root / name) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    members = change(members)
    with tarfile.open(root / name, "w") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    manifest = json.loads((root / "shards.json").read_text())
    manifest.pop("index", None)
    for entry in manifest["shards"]:
        if entry["name"] == name:
            entry["bytes"] = (root / name).stat().st_size
            entry["sha256"] = hashlib.sha256((root / name).read_bytes()).hexdigest()
            entry["samples"] = sum(member.endswith(".json") for member in members)
    manifest["samples"] = manifest["frames"] = None
    (root / "shards.json").write_text(json.dumps(manifest))


def edit(members: Members, key: str, **fields: object) -> Members:
    return members | {f"{key}.json": json.dumps(json.loads(members[f"{key}.json"]) | fields).encode()}


def first(root: Path, name: str = "train-000000.tar") -> str:
    with tarfile.open(root / name) as tar:
        return tar.getnames()[0].partition(".")[0]


def test_good_shards(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(Options(good, workers=0))
    assert not found.problems
    assert (found.samples, found.frames, dict(found.by_media)) == (4, 12, {".mkv": 4})
    assert found.bytes == sum(file.stat().st_size for file in good.glob("*.tar"))
    main([f"root={good}", "workers=0"])
    assert "everything is as it was written" in capsys.readouterr().out


def test_bytes_that_changed_on_the_way(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = root / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[2000:2010] = bytes(10)
    tar.write_bytes(data)
    assert problems(root) == [
        "train-000000.tar: its sha256 is not the one in shards.json; copy it again",
        f"train-000000.tar: {first(root)}: its bytes are not those that were written (crc32); copy the shard again",
        "shards.json: promises frames {'train': 9, 'val': 3}, found {'train': 6, 'val': 3}",
    ]
    with pytest.raises(SystemExit):
        main([f"root={root}", "workers=0"])
    assert "sha256 is not the one" in capsys.readouterr().err


def test_files_that_are_missing_cut_or_strange(root: Path) -> None:
    (root / "val-000000.tar").unlink()
    tar = root / "train-000000.tar"
    shutil.copy(tar, root / "train-000007.tar")
    tar.write_bytes(tar.read_bytes()[:9000])
    text = "\n".join(problems(root))
    assert "train-000007.tar: not in shards.json" in text
    assert "val-000000.tar: missing, with 1 samples" in text
    assert "train-000000.tar: expected " in text
    assert "is cut off" in text or "not a whole tar" in text
    assert "shards.json: promises samples {'train': 3, 'val': 1}" in text


def test_an_index_that_points_elsewhere(root: Path) -> None:
    index = root / "index.jsonl"
    index.write_text(index.read_text().replace('"offset": 512', '"offset": 513', 1))
    assert problems(root) == ["index.jsonl: its sha256 is not the one in shards.json; copy it again"]
    manifest = json.loads((root / "shards.json").read_text())
    manifest["index"]["sha256"] = hashlib.sha256(index.read_bytes()).hexdigest()
    (root / "shards.json").write_text(json.dumps(manifest))
    (problem,) = problems(root)
    assert problem.startswith("index.jsonl: 1 samples are not where it says")
    index.unlink()
    assert problems(root) == ["index.jsonl: missing; copy it again"]


def test_clips_that_are_not_what_their_json_says(root: Path) -> None:
    key = first(root)
    rewrite(root, "train-000000.tar", lambda members: edit(members, key, num_frames=9))
    assert "its .json says MediaInfo(num_frames=9" in problems(root)[0]
    rewrite(root, "train-000000.tar", lambda members: edit(members, key, num_frames=3, split="val"))
    assert problems(root) == [f"train-000000.tar: {key}: its .json says split 'val'"]
    rewrite(root, "train-000000.tar", lambda members: members | {f"{key}.json": b"{"})
    assert "its .json is not usable" in problems(root)[0]


def test_a_clip_that_cannot_be_decoded_or_says_nothing(root: Path) -> None:
    key = first(root)
    noise = b"no video at all" * 50
    rewrite(
        root,
        "train-000000.tar",
        lambda members: edit(members | {f"{key}.mkv": noise}, key, crc32=zlib.crc32(noise)),
    )
    assert "cannot be decoded" in problems(root)[0]
    opaque = io.BytesIO()
    write_ffv1(np.full((3, 32, 48, 4), 255, np.uint8), 24, opaque)
    data = opaque.getvalue()
    rewrite(root, "train-000000.tar", lambda members: edit(members | {f"{key}.mkv": data}, key, crc32=zlib.crc32(data)))
    assert problems(root) == [f"train-000000.tar: {key}: alpha is 255 of 255 in every pixel"]


def test_one_key_in_two_shards_and_one_concept_in_two_splits(root: Path) -> None:
    train, val = first(root), first(root, "val-000000.tar")
    with tarfile.open(root / "train-000000.tar") as tar:
        copy = {ext: tar.extractfile(f"{train}{ext}").read() for ext in (".mkv", ".json")}  # type: ignore[union-attr]
    rewrite(root, "train-000000.tar", lambda members: edit(members, train, concept="parrot"))
    rewrite(
        root,
        "val-000000.tar",
        lambda members: edit(members, val, concept="parrot") | {f"{train}{ext}": data for ext, data in copy.items()},
    )
    text = "\n".join(problems(root))
    assert f"the key '{train}' occurs 2 times: train-000000.tar, val-000000.tar" in text
    assert f"the concept 'parrot' is in several splits: {train} in train and {val} in val" in text


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.mkv", r"..\b.mkv", ".hidden.json"])
def test_members_with_path_tricks(root: Path, name: str) -> None:
    rewrite(root, "train-000000.tar", lambda members: members | {name: b"x"})
    assert f"{name!r} is no member of a sample" in "\n".join(problems(root))


def test_members_that_occur_twice_or_lack_their_partner(root: Path) -> None:
    key = first(root)
    tar_file = root / "train-000000.tar"
    rewrite(root, tar_file.name, lambda members: {k: v for k, v in members.items() if k != f"{key}.mkv"})
    assert problems(root)[0] == f"train-000000.tar: {key}: expected one media file and one .json, found .json"
    with tarfile.open(tar_file, "a") as tar:
        info = tarfile.TarInfo(f"{key}.json")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    assert f"the member {key}.json occurs twice" in "\n".join(problems(root))


def test_what_is_no_folder_of_shards(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shards\.json: missing; expected what data_prep\.shard wrote"):
        verify(Options(tmp_path))
    (root / "shards.json").write_text("[]")
    with pytest.raises(DataError, match="not a manifest"):
        verify(Options(root))
    (root / "shards.json").write_text('{"schema_version": 9, "shards": []}')
    with pytest.raises(DataError, match="expected schema_version 1, found 9"):
        verify(Options(root))
