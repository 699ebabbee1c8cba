"""The user's own clips, in every layout a folder may have."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rgba_media import animated, disc, prores, vp9, write_frames

from benchmarks.resume import data_config
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource, hold_out
from wan_alpha.data.media import media_files, write_ffv1
from wan_alpha.training.data import open_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One clip of every layout."""
    clip = disc()
    write_frames(clip, tmp_path / "frames")
    (tmp_path / "parrot.mov").write_bytes(prores(clip))
    (tmp_path / "smoke.v2.webm").write_bytes(vp9(clip))
    (tmp_path / "star.webp").write_bytes(animated(clip, "WEBP"))
    Image.fromarray(clip[0]).save(tmp_path / "still.png")
    write_frames(clip, tmp_path / "fgr" / "glass", "RGB")
    write_frames(clip, tmp_path / "pha" / "glass", "L")
    write_frames(clip, tmp_path / "own" / "fgr", "RGB")
    write_frames(clip, tmp_path / "own" / "pha", "L")
    return tmp_path


def test_every_layout_is_found(root: Path) -> None:
    source = FolderSource(root, "all")
    assert not source.problems
    lengths = {clip.key: clip.num_frames for clip in source.clips}
    assert lengths == {
        "frames": 9, "glass": 9, "own": 9, "parrot": 9, "smoke_v2": 9, "star": 9, "still": 1,
    }  # fmt: skip
    for index, clip in enumerate(source.clips):
        frames = source.read(index, 0, clip.num_frames)
        assert np.abs(frames[..., 3].astype(int) - disc()[: clip.num_frames, ..., 3]).mean() < 1, clip.key


def test_what_a_file_browser_leaves_among_frames_is_no_part_of_a_clip(root: Path) -> None:
    before = FolderSource(root, "all")
    place = [clip.key for clip in before.clips].index("frames")
    (root / "frames" / "@eaDir").mkdir()
    for name in (".DS_Store", "Thumbs.db"):
        (root / "frames" / name).write_bytes(b"whatever")
    after = FolderSource(root, "all")
    assert after.manifest_hash == before.manifest_hash
    assert after.checksum(place) == before.checksum(place)
    assert [file.name for file in media_files(root / "frames")] == [f"{number}.png" for number in range(9)]


def test_files_that_carry_no_alpha_are_named(root: Path) -> None:
    for name in ("opaque.mp4", "photo.JPG", "old.gif", "notes.txt", "README.md"):
        (root / name).write_bytes(b"whatever")
    source = FolderSource(root, "all")
    assert len(source) == 7
    assert [problem.split(":")[0] for problem in source.problems] == [
        str(root / name) for name in ("old.gif", "opaque.mp4", "photo.JPG")
    ]
    assert all("fgr/ + pha/" in problem for problem in source.problems)


def test_splits_are_disjoint_complete_and_never_empty(root: Path) -> None:
    keys = [{clip.key for clip in FolderSource(root, split).clips} for split in ("train", "val", "all")]
    assert keys[0]
    assert keys[1]
    assert not keys[0] & keys[1]
    assert keys[0] | keys[1] == keys[2]


@given(keys=st.lists(st.text(min_size=1), min_size=2, unique=True), share=st.floats(0.01, 0.99))
def test_holding_out_depends_on_no_order_and_leaves_both_sides(keys: list[str], share: float) -> None:
    held_out = hold_out(keys, share)
    assert held_out == hold_out(keys[::-1], share)
    assert 1 <= len(held_out) < len(keys)


def test_a_new_clip_moves_no_other_across_the_split() -> None:
    keys = [f"clip{number}" for number in range(200)]
    assert hold_out(keys, 0.2) <= hold_out([*keys, "new"], 0.2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "file,caption\nparrot.mov,a parrot\nghost,nobody\n"),
        ("captions.json", '{"parrot": "a parrot", "ghost": "nobody"}'),
        ("captions.jsonl", '{"key": "parrot", "caption": "a parrot"}\n{"key": "ghost", "caption": "nobody"}\n'),
    ],
)
def test_captions(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text)
    source = FolderSource(root, "all")
    assert {clip.key: clip.caption for clip in source.clips if clip.caption} == {"parrot": "a parrot"}
    assert source.problems == [f"{root}: a caption for 'ghost', but no clip"]
    (root / name).write_text('[{"key": "parrot"}]' if name.endswith("json") else "what\nthis\n")
    with pytest.raises(DataError, match=name):
        FolderSource(root, "all")


def test_unusable_clips_are_named_and_left_out(root: Path) -> None:
    opaque = disc()
    opaque[..., 3] = 255
    write_ffv1(opaque, 24, root / "opaque.mkv")
    write_frames(disc(), root / "rgb", "RGB")
    write_frames(disc(), root / "fgr" / "alone", "RGB")
    write_frames(disc(), root / "pha" / "left", "L")
    (root / "broken.webm").write_bytes(b"broken")
    (root / "star").mkdir()
    Image.fromarray(disc()[0]).save(root / "star" / "0.png")
    source = FolderSource(root, "all")
    assert len(source) == 7
    text = "\n".join(source.problems)
    assert "opaque.mkv: alpha is 255 of 255 in every pixel of every frame" in text
    assert "rgb/0.png: expected an alpha channel, found mode RGB" in text
    assert "fgr/alone: no matte of that name" in text
    assert "pha/left: no colour of that name" in text
    assert "broken.webm: cannot be decoded" in text
    assert "another clip has the key 'star' too" in text


def test_a_clip_that_is_empty_in_the_middle_is_usable(tmp_path: Path) -> None:
    clip = disc()
    clip[2:8] = 0
    write_ffv1(clip, 24, tmp_path / "blink.mkv")
    assert len(FolderSource(tmp_path, "all")) == 1


def test_a_folder_of_other_files_says_what_it_holds(root: Path) -> None:
    (root / "glow").mkdir()
    (root / "glow" / "0001.exr").touch()
    (problem,) = FolderSource(root, "all").problems
    assert "glow: the folder holds no pictures, but .exr; expected PNG" in problem


def test_nothing_usable_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder of clips"):
        FolderSource(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="neither RGBA files nor folders"):
        FolderSource(tmp_path, "train")
    write_frames(disc(), tmp_path / "rgb", "RGB")
    with pytest.raises(DataError, match=r"no clip can be used(.|\n)*expected an alpha channel"):
        FolderSource(tmp_path, "train")


def test_single_clip_is_for_training(tmp_path: Path) -> None:
    write_ffv1(disc(), 24, tmp_path / "only.mkv")
    assert len(FolderSource(tmp_path, "train")) == 1
    with pytest.raises(DataError, match="none of its 1 clips is in split 'val'"):
        FolderSource(tmp_path, "val")


def test_records_decide_alone(tmp_path: Path) -> None:
    write_ffv1(disc(), 24, tmp_path / "a.mkv")
    write_ffv1(disc(), 24, tmp_path / "unlisted.mkv")
    record = {"key": "a", "media": "a.mkv", "caption": "a disc", "split": "val", "fps": 24.0}
    record |= {"num_frames": 9, "height": 32, "width": 40, "licence": "MIT"}
    lost = record | {"key": "b", "media": "b.mkv"}
    (tmp_path / "records.jsonl").write_text(f"{json.dumps(record)}\n{json.dumps(lost)}\nnot json\n")
    source = FolderSource(tmp_path, "val")
    assert [(clip.key, clip.caption, clip.meta["licence"]) for clip in source.clips] == [("a", "a disc", "MIT")]
    assert len(source.problems) == 2
    assert "b.mkv: missing" in source.problems[0]
    assert "records.jsonl:3: not a record" in source.problems[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"split": "test"}, "split 'test'"), ({"num_frames": 0}, "0 frames of 32x40"), ({"fps": 0}, "at 0 fps"),
     ({"height": "tall"}, "invalid literal")],
)  # fmt: skip
def test_records_out_of_range_are_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    write_ffv1(disc(), 24, tmp_path / "a.mkv")
    record = {"key": "a", "media": "a.mkv", "caption": "a\u2028disc", "split": "val", "fps": 24.0}
    record |= {"num_frames": 9, "height": 32, "width": 40}
    other = record | {"key": "b"} | changes
    text = "".join(json.dumps(some, ensure_ascii=False) + "\n" for some in (record, other))
    (tmp_path / "records.jsonl").write_text(text, encoding="utf-8")
    source = FolderSource(tmp_path, "all")
    assert [clip.caption for clip in source.clips] == ["a\u2028disc"]  # which does not end the line
    assert len(source.problems) == 1
    assert said in source.problems[0]


def test_ugly_names_are_keys_unless_they_are_no_text(tmp_path: Path) -> None:
    write_ffv1(disc(), 24, tmp_path / "a.mkv")
    names = ["-v: 100%03d #1", "fire\u00a0wall", "\U0001f469\u200d\U0001f680", "u\u0308ber", 'l\'ete "x"']
    for name in names:
        write_ffv1(disc(), 24, tmp_path / f"{name}.mkv")
    with (tmp_path / "a.mkv").open("rb") as good, open(os.fsencode(tmp_path / "caf") + b"\xe9.mkv", "wb") as bad:
        bad.write(good.read())
    (tmp_path / "captions.jsonl").write_text('{"file": "\u00fcber.mkv", "caption": "composed\u2028here"}\n', "utf-8")
    source = FolderSource(tmp_path, "all")
    assert {clip.key for clip in source.clips} == {*names, "a"} - {"u\u0308ber"} | {"\u00fcber"}
    assert [clip.caption for clip in source.clips if clip.caption] == ["composed\u2028here"]
    (problem,) = source.problems
    assert "bytes that are no UTF-8 in it; rename it" in problem
    assert problem.encode()  # logs take it


def test_a_folder_that_ingest_writes_is_no_clip_and_not_ready_before_it_ends(tmp_path: Path) -> None:
    write_ffv1(disc(), 24, tmp_path / "a.mkv")
    Image.fromarray(disc()[0]).save((tmp_path / "set").mkdir() or tmp_path / "set" / "still.png")
    (tmp_path / "set" / "records.jsonl.tmp").touch()
    source = FolderSource(tmp_path, "all")
    assert [clip.key for clip in source.clips] == ["a"]
    assert not source.problems
    with pytest.raises(DataError, match="ingest has not ended there; give its command again"):
        FolderSource(tmp_path / "set", "all")


def test_inverted_mattes_are_named_and_left_out(tmp_path: Path) -> None:
    clip, wide = disc(), disc()
    write_ffv1(clip, 24, tmp_path / "good.mkv")
    clip[..., 3] = 255 - clip[..., 3]
    write_ffv1(clip, 24, tmp_path / "inverted.mkv")
    wide[2:7, (0, -1)] = wide[2:7, :, (0, -1)] = 255  # covers the border, but only in the middle
    write_ffv1(wide, 24, tmp_path / "wide.mkv")
    source = FolderSource(tmp_path, "all")
    assert [clip.key for clip in source.clips] == ["good", "wide"]
    (problem,) = source.problems
    assert "inverted.mkv: alpha is opaque along 100% of the border and transparent inside" in problem
    assert "ingest the folder with keep_inverted=true" in problem
    assert len(FolderSource(tmp_path, "all", keep_inverted=True)) == 3


def test_verdicts_of_curation_reach_training_on_a_folder(tmp_path: Path) -> None:
    for name in "abcd":
        write_ffv1(disc(), 24, tmp_path / f"{name}.mkv")
    verdicts = [
        {"key": "a", "keep": True, "reasons": []},
        {"key": "b", "keep": False, "reasons": ["haze 1 > 0.01", "like a"]},
        {"key": "c", "keep": False, "reasons": ["like a"]},
        {"key": "d", "keep": True, "reasons": [], "split": "val"},
    ]
    (tmp_path / "curation.jsonl").write_text("".join(json.dumps(verdict) + "\n" for verdict in verdicts))
    said = {"time": "2026-01-01T00:00:00+00:00", "by": "anna", "kind": "person", "key": "c"}
    (tmp_path / "annotations.jsonl").write_text(json.dumps(said | {"field": "verdict", "value": "accepted"}) + "\n")
    assert len(FolderSource(tmp_path, "all")) == 4
    settings = data_config({"kind": "clips", "root": str(tmp_path), "val_share": 0.0})
    source = open_source(settings, "train")
    assert [clip.key for clip in source.clips] == ["a", "c"], "c was accepted by a person"
    assert source.problems == ["b: curation: haze 1 > 0.01; like a"]
    assert [clip.key for clip in open_source(settings, "val").clips] == ["d"]
