"""`python -m data_prep.curate`: thresholds, the table, files, resuming, and what packs the clips afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curated_clips import ROOT, blobs, decided, settings, write_folder
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from data_prep import shard
from data_prep.captioner import Captioner, curated_measures
from data_prep.curate import curate
from data_prep.curation.applied import write_verdicts
from data_prep.curation.config import CurateConfig, LabelsConfig, Limits, Thresholds
from data_prep.curation.decide import decide
from data_prep.curation.report import REMOVED, _histogram, print_report, rule_table
from data_prep.curation.table import read_measures, write_table
from data_prep.curation.verdicts import Rule
from data_prep.journal import Journal
from data_prep.measures import LabelLimits
from data_prep.measures.names import MEASURES
from wan_alpha.command import ConfigError, valid_keys
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.resize import Frames
from wan_alpha.data.verdicts import read_verdicts


def still(frames: Frames) -> Frames:
    return np.repeat(frames[:1], len(frames), axis=0)


def hazy(frames: Frames) -> Frames:
    result = frames.copy()
    result[..., 3] = np.maximum(result[..., 3], 3)
    return result


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """Two good clips, a static one, a hazy one, one that is both, and a copy; the last good clip is held out."""
    clips = {
        "a-good": blobs(1), "b-static": still(blobs(2)), "c-hazy": hazy(blobs(3)), "d-both": hazy(still(blobs(4))),
        "e-copy": blobs(1)[:9], "f-val": blobs(6),
    }  # fmt: skip
    return write_folder(tmp_path / "six", clips, val=("f-val",))


def test_what_each_rule_removes_by_hand(six: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["thresholds.change.min=0.01", "thresholds.haze.max=0.01"]
    rows = decided(six, tmp_path, *limits)
    assert {key for key, row in rows.items() if row["keep"]} == {"a-good", "f-val"}
    assert rows["d-both"]["reasons"] == ["change 0 < 0.01", "haze 1 > 0.01"]
    outcome = decide(settings(f"root={six}", f"out={tmp_path / 'out'}", *limits))
    assert outcome.measured == 0  # all of it was in the cache
    assert outcome.rules == [
        Rule("cannot be read", 0, 0, 6),
        Rule("change >= 0.01", 2, 2, 4),
        Rule("haze <= 0.01", 2, 1, 3),
        Rule("no near-duplicate within the set", 1, 1, 2),
        Rule("no near-duplicate across sets", 0, 0, 2),
        Rule("no near-duplicate across the split", 0, 0, 2),
    ]
    assert rule_table(outcome.rules, 6).row_count == 6
    print_report(outcome, Path("six [b]") / "sheet.html")
    said = capsys.readouterr().out
    assert "look through them: six [b]/sheet.html" in said
    assert "kept 2 of 6 clips: 1 train, 1 val" in said
    assert "1 within the set" in said


def test_limits_include_their_ends_and_what_has_no_value_passes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"clip": blobs(1), "still": blobs(2, num_frames=1)})
    assert all(row["keep"] for row in decided(root, tmp_path, "thresholds.frames={min:10,max:10}").values())
    rows = decided(root, tmp_path, "thresholds.frames.min=11", "thresholds.flow.min=9")
    assert rows["still"]["keep"]
    assert rows["clip"]["reasons"][1] == "frames 10 < 11"


def test_a_clip_beyond_a_threshold_is_drawn_beyond_its_mark() -> None:
    rows = [{"keep": True, "noise": 0.1 * number} for number in range(9)] + [{"keep": False, "noise": 11.4}]
    place = Figure().subplots()
    _histogram(place, rows, "noise", Limits(max=2.0))
    bars = [bar for bar in place.patches if isinstance(bar, Rectangle) and bar.get_height()]
    removed = [bar for bar in bars if bar.get_facecolor() == to_rgba(REMOVED)]
    assert [bar.get_x() >= 2 - 1e-9 for bar in removed] == [True]


def test_everything_is_written_and_shards_honour_it(six: Path, tmp_path: Path) -> None:
    (six / "b-static.mkv").write_bytes(b"no video")
    out = curate(settings(f"root={six}", "thresholds.haze.max=0.01", "duplicates.straddle=move_train"))
    assert out == tmp_path / "six-curation"
    rows = {row["key"]: row for row in pq.read_table(out / "curation.parquet").to_pylist()}
    assert set(MEASURES) <= set(rows["a-good"])
    assert rows["b-static"]["reasons"][0].startswith("cannot be read: ")
    assert rows["b-static"]["flow"] is None
    assert read_measures(out / "curation.parquet")["a-good"] == {name: rows["a-good"][name] for name in MEASURES}
    with Image.open(out / "histograms.png") as picture:
        assert picture.size[0] > 1000
    assert (out / "contact_sheet.html").stat().st_size > 10_000
    manifest = shard.shard(shard.Options(six, tmp_path / "shards", workers=0))
    assert manifest["samples"] == {"train": 1, "val": 1}
    skipped = (tmp_path / "shards" / "skipped.txt").read_text()
    assert "c-hazy: curation: haze 1 > 0.01" in skipped
    assert "e-copy: curation: like a-good" in skipped


def test_a_clip_that_was_moved_is_packed_where_it_went(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"seen": blobs(1), "held": blobs(1)[:9], "other": blobs(2)}, val=("held",))
    outcome = decide(settings(f"root={root}", "duplicates.straddle=move_train"))
    write_verdicts(outcome.rows, root)
    assert {key: verdict.split for key, verdict in read_verdicts(root).items() if verdict.split} == {"seen": "val"}
    manifest = shard.shard(shard.Options(root, tmp_path / "shards", workers=0))
    assert manifest["samples"] == {"train": 1, "val": 2}


def test_what_was_measured_becomes_labels_of_captions(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"still": np.repeat(blobs(1)[:1], 9, axis=0), "clip": blobs(2)})
    outcome = decide(settings(f"root={root}", "duplicates.hash_distance=null"))
    write_table(outcome.rows, outcome.out)
    source = FolderSource(root, "all")
    measures = curated_measures(root)
    captioner = Captioner(None, source, None, Journal(root), None, measures)  # type: ignore[arg-type]
    labels = {clip.key: captioner._measure(clip) for clip in source.clips}
    assert labels["still"]["speed"] == "slow"
    assert labels["clip"].keys() == {"speed", "quality"}
    assert measures["still"]["flow"] == 0


def test_verdicts_that_are_no_verdicts_are_named(tmp_path: Path) -> None:
    (tmp_path / "curation.jsonl").write_text('{"key": "a", "keep": true}\n{"keep": tr')
    with pytest.raises(DataError, match=r"curation.jsonl:2: not a verdict .* run data_prep.curate again"):
        read_verdicts(tmp_path)


def test_folders_of_one_name_cannot_be_told_apart(tmp_path: Path) -> None:
    for place in ("x", "y"):
        write_folder(tmp_path / place / "set", {"clip": blobs(1)})
    with pytest.raises(DataError, match="the folders must have different names"):
        decided(f"[{tmp_path}/x/set,{tmp_path}/y/set]", tmp_path)


def test_content_decides_what_is_measured_again(tmp_path: Path) -> None:
    def measured(*overrides: str) -> int:
        return decide(settings(f"root={root}", f"out={tmp_path / 'out'}", *overrides)).measured

    root = write_folder(tmp_path / "set", {"one": blobs(1), "two": blobs(2)})
    assert measured() == 2
    (root / "one.mkv").rename(root / "renamed.mkv")
    records = (root / "records.jsonl").read_text().replace('"one"', '"renamed"').replace("one.mkv", "renamed.mkv")
    (root / "records.jsonl").write_text(records)
    assert measured() == 0
    write_folder(root, {"renamed": blobs(1), "two": blobs(3)})
    assert measured() == 1
    assert measured("thresholds.flow.min=0.5") == 0  # thresholds are free
    shutil.rmtree(tmp_path / "out" / "thumbnails")
    assert measured() == 2  # lost thumbnails are made again
    assert measured("measure.side=20") == 2


def test_schema_measures_and_file_agree() -> None:
    assert [item.name for item in fields(Thresholds)] == list(MEASURES)
    labels = settings("root=x").labels
    assert LabelLimits(**{item.name: getattr(labels, item.name) for item in fields(LabelsConfig)}) == LabelLimits()
    assert "thresholds.noise.max" in valid_keys(CurateConfig)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+thresholds.nois.max=1", "thresholds.nois: no such key, .* Did you mean thresholds.noise?"),
        ("+thresholds.flow.mim=1", "thresholds.flow.mim: no such key, .* Did you mean thresholds.flow.mi"),
        ("thresholds.flow.min=fast", "thresholds.flow.min='fast': input should be a valid number"),
        ("duplicates.straddle=drop", "duplicates.straddle='drop': input should be 'drop_train' or 'move_train'"),
        ("duplicates.look_distance=2", "duplicates.look_distance=2: input should be less than or equal to 1"),
    ],
)
def test_mistakes_are_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings("root=x", override)


def test_a_folder_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"^root has no value: give it on the command line, root="):
        settings()


def test_a_killed_run_continues(tmp_path: Path) -> None:
    """The command line, killed without warning while it measures; the next run does the rest and no more."""
    root = write_folder(tmp_path / "set", {f"clip{n:02}": blobs(n) for n in range(30)})
    whole = decide(settings(f"root={root}", f"out={tmp_path / 'whole'}"))
    out = tmp_path / "part"
    command = [sys.executable, "-m", "data_prep.curate", f"root={root}", f"out={out}", "workers=0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    cache = out / "cache.jsonl"
    while process.poll() is None and (not cache.exists() or cache.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = cache.read_bytes().count(b"\n")
    assert 3 <= done < 30
    with cache.open("ab") as file:
        file.write(b'{"content": "cut sh')  # what a kill in the middle of a write leaves
    again = decide(settings(f"root={root}", f"out={out}"))
    assert again.measured == 30 - done
    assert again.rows == whole.rows
    assert len([json.loads(line) for line in cache.read_text().splitlines()]) == 30
    assert decide(settings(f"root={root}", f"out={out}")).measured == 0
