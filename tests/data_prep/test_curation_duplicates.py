"""Near-duplicates: found whatever was done to them, resolved across sets and across the split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from curated_clips import blobs, decided, recompressed, write_folder

from data_prep.curation.duplicates import BITS, Pair, _hash_distances, near_duplicates
from data_prep.curation.looks import FRAMES, Look, from_json, look, to_json
from wan_alpha.data.resize import Frames, resize_rgba, to_uint8

HASH, LOOK = 0.12, 0.08  # as in conf/curate.yaml


def pairs(*clips: Frames) -> list[Pair]:
    return near_duplicates([look(frames) for frames in clips], HASH, LOOK)


def changed(how: str) -> Frames:
    frames = blobs(1)
    pad = np.zeros((10, 60, 70, 4), np.uint8)
    pad[:, 12:52, 5:45] = frames
    return {
        "copied": frames,
        "mirrored": frames[:, :, ::-1],
        "recompressed": recompressed(frames),
        "scaled up": to_uint8(resize_rgba(frames, (90, 90))),
        "scaled down": to_uint8(resize_rgba(frames, (32, 32))),
        "on a larger canvas": pad,
        "brighter": np.concatenate([np.minimum(frames[..., :3] * 1.06, 255).astype(np.uint8), frames[..., 3:]], -1),
        "backwards": frames[::-1],
        "cut shorter": frames[:8],
        "at half the frame rate": frames[::2],
        "mirrored, scaled and recompressed": recompressed(to_uint8(resize_rgba(frames, (56, 56)))[:, :, ::-1]),
    }[how]


@pytest.mark.parametrize(
    "how",
    ["copied", "mirrored", "recompressed", "scaled up", "scaled down", "on a larger canvas", "brighter", "backwards",
     "cut shorter", "at half the frame rate", "mirrored, scaled and recompressed"],
)  # fmt: skip
def test_a_clip_is_known_again(how: str) -> None:
    found = pairs(blobs(1), changed(how))
    assert [(pair.first, pair.second) for pair in found] == [(0, 1)]
    assert found[0].mirrored is how.startswith("mirrored")


def test_other_clips_are_not_alike() -> None:
    assert pairs(*(blobs(seed) for seed in range(12))) == []


def test_the_same_shape_in_other_colours_is_another_clip() -> None:
    red, green = blobs(1), blobs(1, hue=1)
    assert near_duplicates([look(red), look(green)], 1, 1)[0].hash_distance < 0.2  # shades alone would not tell
    assert near_duplicates([look(red), look(green)], 1, LOOK) == []


def test_looks_survive_json() -> None:
    before = look(blobs(1))
    after = from_json(to_json(before))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(after, Look)


def test_of_duplicates_the_best_stays(tmp_path: Path) -> None:
    clips = {"small": changed("scaled down"), "large": changed("scaled up"), "own": blobs(1), "other": blobs(2)}
    root = write_folder(tmp_path / "set", clips)
    rows = decided(root, tmp_path)
    assert {key for key, row in rows.items() if row["keep"]} == {"large", "other"}
    assert rows["small"]["duplicate_of"] == "set/large"
    assert rows["small"]["reasons"] == ["like large"]


def test_a_clip_that_a_threshold_removes_displaces_nobody(tmp_path: Path) -> None:
    clips = {"large": changed("scaled up"), "own": blobs(1)}
    root = write_folder(tmp_path / "set", clips)
    rows = decided(root, tmp_path, "thresholds.short_side.max=50")
    assert {key: row["reasons"] for key, row in rows.items()} == {"large": ["short_side 90 > 50"], "own": []}


def test_across_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_folder(tmp_path / "first", {"same": blobs(1), "one": blobs(2)})
    second = write_folder(tmp_path / "second", {"twin": changed("mirrored"), "two": blobs(3)})
    rows = decided(f"[{first},{second}]", tmp_path)
    assert rows["twin"]["reasons"] == ["like first/same, mirrored"]
    assert [key for key, row in rows.items() if not row["keep"]] == ["twin"]
    said = capsys.readouterr().out
    assert "pairs of near-duplicates: 0 within the set, 1 across sets, 0 across the split" in said


@pytest.mark.parametrize("held_out", ["small", "large"])
def test_a_pair_that_straddles_the_split_is_reported_and_leaves_the_training_side(
    held_out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = {"small": changed("scaled down"), "large": changed("scaled up"), "other": blobs(2), "val": blobs(3)}
    root = write_folder(tmp_path / "set", clips, val=(held_out, "val"))
    rows = decided(root, tmp_path)
    trained = {"small": "large", "large": "small"}[held_out]
    assert {key for key, row in rows.items() if not row["keep"]} == {trained}
    assert rows[trained]["reasons"] == [f"like {held_out}, which is held out"]
    assert rows[trained]["duplicate_kind"] == "across the split"
    said = capsys.readouterr().out
    assert "1 across the split" in said
    assert "kept 3 of 4 clips: 1 train, 2 val" in said


def test_or_both_are_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = {"seen": blobs(1), "held": changed("recompressed"), "other": blobs(2)}
    root = write_folder(tmp_path / "set", clips, val=("held",))
    rows = decided(root, tmp_path, "duplicates.straddle=move_train")
    assert all(row["keep"] for row in rows.values())
    assert {key: row["new_split"] for key, row in rows.items()} == {"seen": "val", "held": "val", "other": "train"}
    assert "moved from train to val: 1" in capsys.readouterr().out


def test_nobody_looks_for_duplicates_unless_asked(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"one": blobs(1), "two": blobs(1)})
    rows = decided(root, tmp_path, "duplicates.hash_distance=null")
    assert all(row["keep"] for row in rows.values())


def test_the_distance_of_hashes_is_their_share_of_different_bits() -> None:
    own = np.full((FRAMES, 2), 5, np.uint64)
    others = np.stack([own, own ^ np.uint64(0xFFFF), ~own, own])
    others[2, :, 1] = own[:, 1]  # one word of two is inverted
    others[3, 0] = ~own[0]  # one frame of several has no partner
    assert _hash_distances(own, others).tolist() == pytest.approx([0, 2 * 16 / BITS, 0.5, 1 / FRAMES])
