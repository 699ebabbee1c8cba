"""Shards: the same bytes from every engine and after every interruption, an index that says where clips lie."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curated_clips import settings
from matting_trees import rgba, save

from data_prep import engine, ingest, shard
from data_prep.curation.decide import decide
from data_prep.journal import Journal, entry
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import read_frames, write_ffv1, write_x264
from wan_alpha.data.shards import ShardSource

NUM_CLIPS = 7
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips as folders of frames, so that each has to be encoded."""
    root = tmp_path_factory.mktemp("own")
    for clip in range(NUM_CLIPS):
        for number, frame in enumerate(rgba(clip, 4)):
            save(frame, root / f"clip{clip}" / f"{number}.png")
    return root


def pack(root: Path, out: Path, **options: object) -> shard.Manifest:
    chosen: dict[str, object] = {"workers": 0, "shard_mb": 0.02, "val_share": 0.3, **options}
    return shard.shard(shard.Options(root, out, **chosen))  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def clip_bytes(folder: Path) -> dict[str, bytes]:
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    whole = {line["key"]: (folder / line["shard"]).read_bytes()[line["offset"] :] for line in lines}
    return {line["key"]: whole[line["key"]][: line["size"]] for line in lines}


def same_clips(folder: Path, other: Path) -> None:
    """Fails with the clip, and the places in its pictures, where two folders of shards differ."""
    ours, theirs = clip_bytes(folder), clip_bytes(other)
    assert ours.keys() == theirs.keys()
    for key in ours:
        if ours[key] != theirs[key]:
            places = np.argwhere(read_frames(ours[key], ".mkv", 0, 4) != read_frames(theirs[key], ".mkv", 0, 4))
            sizes = f"{len(ours[key])} and {len(theirs[key])} bytes"
            pytest.fail(f"{key}: {sizes}, pictures differ in {len(places)} values, first (t, y, x, c): {places[:9]}")


def curate(out: Path, *overrides: str) -> list[dict[str, Any]]:
    """Rows of curation.parquet."""
    return [dict(row) for row in decide(settings(f"out={out}", *overrides)).rows]


def test_ray_gives_the_bytes_of_local_processes(own: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    choices: dict[str, Any] = {"source": "generic", "root": own, "size": 16}
    pack(own, tmp_path / "here", codec="x264")
    ingest.ingest(ingest.Options(out=tmp_path / "ingested-here", workers=0, **choices))
    curated = {"here": curate(tmp_path / "curated-here", f"root={own}")}
    with engine.open_engine("ray", workers=1):  # one cluster for all steps: it takes seconds to start
        pack(own, tmp_path / "ray", codec="x264", engine="ray")
        ingest.ingest(ingest.Options(out=tmp_path / "ingested-ray", engine="ray", **choices))
        curated["ray"] = curate(tmp_path / "curated-ray", f"root={own}", "engine=ray")
    assert not ray.is_initialized()
    same_clips(tmp_path / "ray", tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    assert contents(tmp_path / "ingested-ray") == contents(tmp_path / "ingested-here")
    assert curated["ray"] == curated["here"]
    assert len(curated["ray"]) == NUM_CLIPS
    assert contents(tmp_path / "curated-ray/thumbnails") == contents(tmp_path / "curated-here/thumbnails")


def test_unknown_engines_and_codecs(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="engine=spark: expected one of local, ray"):
        pack(own, tmp_path, engine="spark")
    with pytest.raises(DataError, match="codec=h265: expected one of ffv1, x264"):
        pack(own, tmp_path, codec="h265")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r"pip install 'wan-alpha\[ray\]', or engine=local"):
        pack(own, tmp_path, engine="ray")


def test_a_start_of_ray_that_fails_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    parts = []

    def slow(**_: object) -> None:
        parts.append(subprocess.Popen(["sleep", "100"]))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(DataError, match="Ray does not start here"), engine.open_engine("ray", workers=1):
        pass
    assert [part.wait(60) for part in parts] == [-signal.SIGKILL] * engine.RAY_ATTEMPTS


def has_ended(process: int) -> bool:
    """Whether a process that is nobody's child any more is gone, or waits to be buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = """if True:
        import time
        from data_prep.engine import LocalProcesses
        processes = LocalProcesses(1)
        print(*set(processes.map(eval, ["__import__('os').getpid()"] * 2)), flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert not has_ended(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(1000):
        if has_ended(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker waits for a parent that is no more")


@pytest.mark.parametrize("codec", ["ffv1", "x264"])
def test_index_says_where_each_clip_lies(own: Path, tmp_path: Path, codec: str) -> None:
    manifest = pack(own, tmp_path, codec=codec, shard_mb=0.01)
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines if line["split"] == "train"] == sorted(
        line["key"] for line in lines if line["split"] == "train"
    )
    assert len(lines) == NUM_CLIPS == sum(manifest["samples"].values())
    assert sum(manifest["frames"].values()) == 4 * NUM_CLIPS
    assert len({line["shard"] for line in lines}) == len(manifest["shards"]) > 2
    for line in lines:
        data = (tmp_path / line["shard"]).read_bytes()[line["offset"] :][: line["size"]]
        assert zlib.crc32(data) == line["meta"]["crc32"]
        frames, wanted = read_frames(data, line["ext"], 0, 4), rgba(int(line["key"][-1]), 4)
        np.testing.assert_array_equal(frames[..., 3], wanted[..., 3])
        visible = wanted[..., 3] > 0
        error = np.abs(frames[visible].astype(int) - wanted[visible])[:, :3]
        assert error.mean() <= (0 if codec == "ffv1" else 4)


def test_what_is_compact_keeps_its_bytes(tmp_path: Path) -> None:
    root = tmp_path / "own"
    root.mkdir()
    write_ffv1(rgba(1, 4), 24, root / "lossless.mkv")
    write_x264(rgba(2, 4), 24, root / "lossy.mkv")
    save(rgba(3)[0], root / "still.png")
    kept = {"ffv1": {"lossless", "lossy", "still"}, "x264": {"lossy", "still"}}
    for codec in kept:
        for keep in (True, False):
            pack(root, tmp_path / "out", codec=codec, keep=keep)
            same = set()
            for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines():
                entry = json.loads(line)
                data = (tmp_path / "out" / entry["shard"]).read_bytes()[entry["offset"] :][: entry["size"]]
                same |= {file.stem for file in root.iterdir() if file.read_bytes() == data}
            wanted = kept[codec] if keep else ({"lossless"} if codec == "ffv1" else set())  # encoded to the same bytes
            assert same == wanted, (codec, keep)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [0, 2, 5, 8, 9, 10])
def test_a_killed_run_continues_and_ends_with_the_same_bytes(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    pack(own, tmp_path / "whole")
    out = tmp_path / "out"
    work = {"left": after}
    encode, write = shard.encode_clip, shard.pack

    def until_killed(function):
        def run(*arguments, **options):
            if work["left"] == 0:
                raise Killed
            work["left"] -= 1
            return function(*arguments, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(shard, "encode_clip", until_killed(encode))
        patch.setattr(shard, "pack", until_killed(write))
        if after == 10:  # while shards are moved to their places
            patch.setattr(shard, "write_lines", until_killed(shard.write_lines))
        with pytest.raises(Killed):
            pack(own, out)
    assert not (out / "shards.json").exists()
    journal = next(out.glob(".shard-*/journal.jsonl"))
    journal.write_bytes(journal.read_bytes() + b'{"clip": "cl')  # the line that was being written
    calls: list[str] = []
    monkeypatch.setattr(shard, "encode_clip", lambda job, stage: calls.append(job.key) or encode(job, stage))
    pack(own, out)
    assert len(calls) == max(0, NUM_CLIPS - after)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_stage_of_other_clips_is_thrown_away(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "plan", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        pack(own, tmp_path)
    monkeypatch.undo()
    (left,) = tmp_path.glob(".shard-*")
    pack(own, tmp_path, codec="x264")
    assert not left.exists()


def test_verdicts_and_corrections_are_honoured(own: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(own, tmp_path / "root"))
    dropped = ("clip1", "clip2", "clip3")
    lines = [{"key": key, "keep": False, "reasons": ["hardly moves"]} for key in dropped]
    (root / "curation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = [("clip0", "caption", "a wave"), ("clip2", "verdict", "accepted"), ("clip4", "verdict", "rejected")]
    Journal(root).append([entry("ada", "person", *what) for what in said])
    manifest = pack(root, tmp_path / "out")
    captions = {
        clip.key: clip.caption for split in ("train", "val") for clip in ShardSource(tmp_path / "out", split).clips
    }
    assert captions == {"clip0": "a wave", "clip2": "", "clip5": "", "clip6": ""}
    assert manifest["left_out"] == 3
    skipped = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert skipped[:2] == ["clip1: curation: hardly moves", "clip3: curation: hardly moves"]
    assert skipped[2].startswith("clip4: rejected by ada on 20")


def test_every_clip_dropped(own: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(own, tmp_path / "root"))
    Journal(root).append([entry("ada", "person", f"clip{n}", "verdict", "rejected") for n in range(NUM_CLIPS)])
    with pytest.raises(DataError, match=r"every clip is left out:\n  clip0: rejected by ada"):
        pack(root, tmp_path / "out")
