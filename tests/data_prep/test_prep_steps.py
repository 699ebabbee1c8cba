"""From packages to shards to batches: ingest, shard, sample."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from data_prep import ingest, sample, shard
from data_prep.measures import measure
from data_prep.sources.fluent import clips, split_of
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import read_frames, write_ffv1
from wan_alpha.data.shards import ShardSource


def run_ingest(packages: Path, out: Path, **options: object) -> list[ingest.Record]:
    return ingest.ingest(ingest.Options(source="fluent", root=packages, out=out, **{"workers": 0, **options}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def originals(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("originals")
    run_ingest(packages, out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_original_bytes_are_kept(originals: Path, packages: Path) -> None:
    records = [json.loads(line) for line in (originals / "records.jsonl").read_text().splitlines()]
    assert [record["key"] for record in records] == sorted(record["key"] for record in records)
    parrot = next(record for record in records if record["key"] == "1f99c-parrot")
    wanted = {"caption": "parrot", "concept": "1f99c", "split": "train", "licence": "MIT", "fps": 24.0}
    wanted |= {"num_frames": 30, "height": 48, "width": 48, "media": "1f99c-parrot.webp"}
    assert wanted.items() <= parrot.items()
    assert (originals / "1f99c-parrot.webp").read_bytes() == next(clips(packages)).media


def test_resized_clips_are_lossless_and_straight(packages: Path, tmp_path: Path) -> None:
    run_ingest(packages, tmp_path, size=24, limit=1)
    frames = read_frames(tmp_path / "1f99c-parrot.mkv", None, 0, 30)
    assert frames.shape == (30, 24, 24, 4)
    visible = frames[..., 3] > 0
    strongly = frames[..., 3] > 60
    np.testing.assert_allclose(frames[strongly][:, :3].astype(int) - [0, 255, 128], 0, atol=2)
    assert (frames[~visible] == 0).all()


def test_interrupted_run_continues_with_what_is_left(packages: Path, tmp_path: Path) -> None:
    run_ingest(packages, tmp_path / "whole", size=24)
    part = tmp_path / "part"
    run_ingest(packages, part, size=24, limit=2)
    lines = (part / "records.jsonl").read_text().splitlines()
    (part / "records.jsonl").unlink()  # as if killed: a journal whose last line is cut, a half-written file
    (part / "records.jsonl.tmp").write_text(lines[0] + "\n" + lines[1][:40])
    (part / "1f44b-waving-hand.mkv.tmp").write_bytes(b"half")
    finished = json.loads(lines[0])["media"]
    before = (part / finished).stat().st_mtime_ns
    run_ingest(packages, part, size=24)
    assert (part / finished).stat().st_mtime_ns == before
    assert contents(part) == contents(tmp_path / "whole")


def test_processes_change_nothing(packages: Path, tmp_path: Path, originals: Path) -> None:
    run_ingest(packages, tmp_path, workers=1)
    assert contents(tmp_path) == contents(originals)


def test_clips_with_constant_alpha_are_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, alpha in (("1f525", 255), ("1f99c", 90)):
        images = [Image.new("RGBA", (8, 8), (t * 50, 0, 0, alpha)) for t in range(3)]
        if name == "1f99c":
            images[1].putpixel((0, 0), (0, 0, 0, 0))
        images[0].save(tmp_path / f"{name}.webp", save_all=True, append_images=images[1:], lossless=True)
    records = run_ingest(tmp_path, tmp_path / "out")
    assert [record["key"] for record in records] == ["1f99c-parrot"]
    assert "skipped: 1f525-fire: " in capsys.readouterr().err
    (tmp_path / "1f99c.webp").unlink()
    with pytest.raises(DataError, match=r"no clip could be used\n1f525-fire"):
        run_ingest(tmp_path, tmp_path / "other")


def test_unknown_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source=fluid: unknown set; expected one of fluent"):
        ingest.ingest(ingest.Options("fluid", tmp_path, tmp_path / "out"))


def test_sharding_twice_gives_the_same_bytes(originals: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shard.shard(shard.Options(originals, tmp_path / name, shard_mb=0.01, workers=0))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(list((tmp_path / "a").glob("train-*.tar"))) > 1


def test_shards_are_read_by_us_and_by_plain_webdataset(originals: Path, tmp_path: Path) -> None:
    manifest = shard.shard(shard.Options(originals, tmp_path, workers=0))
    assert manifest["samples"] == {"train": 3, "val": 2}
    assert manifest["licences"] == ["MIT"]
    source = ShardSource(tmp_path, "val", verify=True)
    assert [clip.caption for clip in source.clips] == ["waving hand", "red heart"]
    samples = list(webdataset.WebDataset(str(tmp_path / "val-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [clip.key for clip in source.clips]
    assert samples[0]["webp"] == (originals / f"{source.clips[0].key}.webp").read_bytes()
    assert json.loads(samples[0]["json"])["concept"] == "1f44b"


def test_a_smaller_run_leaves_no_old_shards(originals: Path, tmp_path: Path) -> None:
    shard.shard(shard.Options(originals, tmp_path, shard_mb=0.001, workers=0))
    shard.shard(shard.Options(originals, tmp_path, workers=0))
    assert {file.name for file in tmp_path.iterdir()} == {
        "train-000000.tar",
        "val-000000.tar",
        "shards.json",
        "index.jsonl",
    }


def test_a_users_folder_becomes_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames_of = rng.integers(0, 256, (2, 4, 8, 8, 4), dtype=np.uint8)
    write_ffv1(frames_of[0], 24, tmp_path / "file.mkv")
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(frames_of[1]):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{t}.png")
    shard.shard(shard.Options(tmp_path, tmp_path / "out", val_share=0.5, workers=0))
    found = {}
    for split in ("train", "val"):
        source = ShardSource(tmp_path / "out", split)
        found |= {clip.key: source.read(index, 0, 4) for index, clip in enumerate(source.clips)}
    np.testing.assert_array_equal(found["file"], frames_of[0])
    np.testing.assert_array_equal(found["frames"], frames_of[1])


def test_measures_in_closed_form() -> None:
    frames = np.zeros((2, 8, 8, 4), np.uint8)
    frames[0, :4, :4, 3] = 100  # 16 translucent pixels, 4 of them with a translucent neighbourhood
    frames[1, :4, :4, 3] = 255
    found = measure(frames)
    assert found == {
        "motion": round(16 * 155 / 255 / 64, 5),
        "glass": round(4 / 32, 5),
        "translucent": 0.5,
        "soft": 0.5,
        "coverage": round(16 * (100 + 255) / 2 / 64 / 255, 5),
    }


def test_sample_keeps_its_budget_and_shares_no_noun(originals: Path, tmp_path: Path) -> None:
    arguments = [f"root={originals}", f"out={tmp_path / 'out'}", "max_mb=0.2", f"sheet={tmp_path / 'sheet.png'}"]
    sample.main(arguments)
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) <= 0.2e6
    keys = {clip.key for split in ("train", "val") for clip in ShardSource(tmp_path / "out", split).clips}
    assert len({key for key in keys if "running" in key}) == 1  # two variants of one concept
    assert {"1f99c-parrot", "1f44b-waving-hand"} <= keys
    before = contents(tmp_path / "out")
    sample.main(arguments)
    assert contents(tmp_path / "out") == before
    assert Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())).size == (9 * 128, 128)


def test_shipped_sample_is_whole_varied_and_split_by_concept() -> None:
    root = Path(__file__).parents[2] / "assets" / "fluent-sample"
    assert sum(file.stat().st_size for file in root.iterdir()) <= 19e6
    concepts: dict[str, set[str]] = {}
    for split, least in (("train", 36), ("val", 8)):
        source = ShardSource(root, split, verify=True)
        assert not source.problems
        concepts[split] = {clip.meta["concept"] for clip in source.clips}
        assert len(concepts[split]) == len(source) >= least
        assert {split_of(concept) for concept in concepts[split]} == {split}
        assert all(clip.caption and clip.meta["licence"] == "MIT" for clip in source.clips)
        assert source.read(0, 0, 2).shape == (2, 256, 256, 4)
    assert {"1f943", "1f3a2", "1f578"} <= concepts["train"]  # glass, roller coaster, spider web
