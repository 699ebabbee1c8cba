"""The journal of annotations: nothing is lost, people outrank models, verdicts and corrections reach the shards."""

from __future__ import annotations

import json
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from data_prep.journal import HISTORY, Journal, entry
from data_prep.shard import Options, shard
from wan_alpha.data.annotations import ANNOTATIONS, Entry, read_annotations, read_entries
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource, read_captions
from wan_alpha.data.media import write_ffv1
from wan_alpha.data.shards import ShardSource


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four clips without captions."""
    frames = np.zeros((3, 16, 16, 4), np.uint8)
    frames[:, 4:12, 4:12] = (255, 90, 30, 200)
    for name in ("cup", "fire", "glass", "smoke"):
        write_ffv1(frames, 24.0, tmp_path / f"{name}.mkv")
    return tmp_path


def at(seconds: float, by: str, key: str, name: str, value: str) -> Entry:
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return Entry(time.isoformat(), by, "model" if by == "vlm" else "person", key, name, value)


def test_the_last_word_counts_and_a_person_s_before_a_model_s(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([entry("anna", "person", "cup", "short_en", "A cup.")])
    journal.append([entry("vlm", "model", "cup", "short_en", "A mug."), entry("vlm", "model", "cup", "shot", "close")])
    journal.append([entry("vlm", "model", "cup", "shot", "medium")])
    said = Journal(tmp_path).annotation("cup")
    assert (said.value("short_en"), said.value("shot"), said.value("style")) == ("A cup.", "medium", "")
    assert said.entries["short_en"].by == "anna"
    assert said.entries["short_en"].time.startswith(str(datetime.now(UTC).year))


def test_verdicts_and_corrections_reach_the_shards(root: Path, tmp_path: Path) -> None:
    (root / "captions.json").write_text(json.dumps({"cup": "mug", "fire": "fire"}))
    said = {"cup": {"caption": "a cup", "short_en": "A cup.", "shot": "close"}, "fire": {"verdict": "accepted"}}
    said |= {"smoke": {"verdict": "rejected"}}
    Journal(root).append([entry("anna", "person", k, n, v) for k, fields in said.items() for n, v in fields.items()])
    shard(Options(root, tmp_path / "out", workers=0, val_share=0.3))
    clips = {c.key: c for split in ("train", "val") for c in ShardSource(tmp_path / "out", split).clips}
    assert sorted(clips) == ["cup", "fire", "glass"]
    assert clips["cup"].caption == "a cup"
    assert clips["cup"].meta["captions"] == {"short_en": "A cup."}
    assert clips["cup"].meta["labels"] == {"shot": "close"}
    assert clips["fire"].caption == "fire"
    assert "smoke: rejected by anna on 20" in (tmp_path / "out" / "skipped.txt").read_text()
    assert len(FolderSource(root, "all", annotated=False)) == 4
    Journal(root).append([entry("ben", "person", "smoke", "verdict", "")])
    assert len(FolderSource(root, "all")) == 4


def test_a_line_that_was_cut_off_harms_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([entry("anna", "person", "cup", "note", "one"), entry("anna", "person", "fire", "note", "two")])
    whole = (tmp_path / ANNOTATIONS).read_bytes()
    for cut in range(whole.index(b"\n") + 2, len(whole) - 1, 7):
        (tmp_path / ANNOTATIONS).write_bytes(whole[:cut])
        Journal(tmp_path).append([entry("ben", "person", "fire", "note", "three")])
        said = read_annotations(tmp_path)
        assert (said["cup"].value("note"), said["fire"].value("note")) == ("one", "three")
    (tmp_path / ANNOTATIONS).write_bytes(whole + b'\xff\xfe\x00{"key": 3}\n[]\n' + whole)
    entries, problems = read_entries(tmp_path / ANNOTATIONS)
    assert len(entries) == 4
    assert [problem.split(": ")[0] for problem in problems] == [f"{tmp_path / ANNOTATIONS}:{n}" for n in (3, 4)]


def _write_many(root: Path, name: str) -> None:
    for number in range(60):
        Journal(root).append([entry(name, "person", f"clip{number}", "note", name * 40)])
        if number % 20 == 0:
            Journal(root).compact()


def test_writers_and_compaction_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert not read_entries(tmp_path / ANNOTATIONS)[1]
    journal = Journal(tmp_path)
    said = {(past.key, past.by) for number in range(60) for past in journal.history(f"clip{number}")}
    # Notes of one clip by three people within a moment are no typing: each wrote over the others, and stays.
    assert said == {(f"clip{number}", name) for number in range(60) for name in "abc"}


def test_compaction_keeps_what_counts_and_moves_the_rest(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([at(n, "anna", "cup", "note", "steam"[: n + 1]) for n in range(5)])  # typing
    journal.append([at(500, "ben", "cup", "note", "glass"), at(600, "vlm", "cup", "note", "mug")])
    before = {key: {n: e.value for n, e in a.entries.items()} for key, a in journal.state().items()}
    assert journal.compact() == 5
    assert {k: {n: e.value for n, e in a.entries.items()} for k, a in Journal(tmp_path).state().items()} == before
    assert [(e.by, e.value) for e in read_entries(tmp_path / ANNOTATIONS)[0]] == [("ben", "glass"), ("vlm", "mug")]
    assert [e.value for e in read_entries(tmp_path / HISTORY)[0]] == ["steam"]
    assert [e.value for e in journal.history("cup")] == ["mug", "glass", "steam"]
    assert journal.compact() == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", "file,caption\na,tea\nb,thé\n".encode("latin-1"), r"captions\.csv:3: not UTF-8 \(byte 0xe9\)"),
        ("captions.json", '{"a": "茶"}'.encode("gbk"), r"captions\.json:1: not UTF-8 .*; save the file as UTF-8"),
        ("captions.jsonl", '{"key": "a", "caption": "tea"}'.encode("utf-16"), r"captions\.jsonl:1: UTF-16 .*UTF-8"),
        ("captions.json", b'["tea"]', "expected rows with `key` and `caption`"),
        ("captions.csv", b"file,text\na,tea\n", "expected rows with `key` and `caption`"),
    ],
)
def test_captions_in_another_encoding_are_refused_by_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_bytes("file,caption\ncup.mov,茶\n".encode("utf-8-sig"))
    assert read_captions(tmp_path) == {"cup": "茶"}
