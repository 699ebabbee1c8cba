"""DVM, VideoMatting108, VideoMatte240K: clips in exactly the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matting_trees import colours, matte, run, save, save_clip, save_mp4, save_pair, skipped

from data_prep.sources import RawClip
from data_prep.sources.frames import Treatment, decode
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import Pair, read_frames


@pytest.fixture
def dvm(tmp_path: Path) -> Path:
    root = tmp_path / "DVM"
    for split in ("train", "test"):
        image, video = root / "fg" / "image" / split, root / "fg" / "video" / split
        save_pair(image / "fg" / "a fox.png", image / "alpha" / "a fox.png")
        save_clip(video / "0001" / "f.mp4", video / "0001" / "a.mp4")
        save_mp4([colours()], root / "bg" / split / "0001.mp4")
    save(matte(), root / "fg" / "image" / "test" / "trimap" / "a fox.png")
    return root


def test_dvm_stills_and_clips(dvm: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = run("dvm", dvm, out)
    assert {key: (record["split"], record["num_frames"]) for key, record in records.items()} == {
        "dvm-image-train-a fox": ("train", 1), "dvm-image-test-a fox": ("val", 1),
        "dvm-video-train-0001": ("train", 5), "dvm-video-test-0001": ("val", 5),
    }  # fmt: skip
    assert records["dvm-video-train-0001"]["fps"] == 25
    assert records["dvm-video-train-0001"]["licence"].startswith("DVM")
    assert records["dvm-image-train-a fox"]["licence"].startswith("Adobe")  # the stills are not DVM's own
    assert not skipped(out)
    frames = read_frames(out / records["dvm-video-train-0001"]["media"], None, 0, 5)
    truth = np.stack([matte(2 * t) for t in range(5)])
    assert np.abs(frames[..., 3].astype(int) - truth).mean() < 2
    assert (frames[..., 3][truth == 0] == 0).mean() > 0.97  # noise of the codec on empty ground is gone


def test_dvm_halves_and_lengths_that_are_wrong(dvm: Path, tmp_path: Path) -> None:
    video = dvm / "fg" / "video" / "train"
    save_clip(video / "0002" / "f.mp4", video / "0002" / "a.mp4")
    (video / "0002" / "a.mp4").unlink()
    save_clip(video / "0003" / "f.mp4", video / "0003" / "a.mp4")
    save_mp4([matte(2 * t) for t in range(4)], video / "0003" / "a.mp4")
    save_clip(video / "0004" / "f.mp4", video / "0004" / "a.mp4")
    save_mp4([matte(2 * t, 16, 48) for t in range(5)], video / "0004" / "a.mp4")
    save_clip(video / "0005" / "f.mp4", video / "0005" / "a.mp4")
    whole = (video / "0005" / "f.mp4").read_bytes()
    (video / "0005" / "f.mp4").write_bytes(whole[: len(whole) // 2])
    (dvm / "fg" / "image" / "test").rename(tmp_path / "elsewhere")
    out = tmp_path / "out"
    assert len(run("dvm", dvm, out)) == 3
    lines = skipped(out)
    for what in (
        "0002: a.mp4 missing",
        "0003/f.mp4 has 5 frames of 32x48, its matte",
        "0004/f.mp4 has 5 frames of 32x48, its matte",
        "0005/f.mp4: cannot be decoded",
        "fg/image/test: missing, so its clips are",
    ):
        assert sum(what in line for line in lines) == 1, (what, lines)
    assert len(lines) == 5


@pytest.mark.parametrize("size", [None, 16])
def test_one_pass_reads_what_random_access_reads(dvm: Path, size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dvm / "fg" / "video" / "train" / "0001"
    pair = Pair(folder / "f.mp4", folder / "a.mp4")
    clip = RawClip("clip", pair, "", "", "clip", "train", "", "")
    info, whole, changed = decode(clip, Treatment(size))
    assert changed == (size is not None)
    assert info.num_frames == 5
    monkeypatch.setattr("wan_alpha.data.media.BLOCK_PIXELS", 2 * 32 * 48)  # two frames at once
    np.testing.assert_array_equal(decode(clip, Treatment(size))[1], whole)
    if size is None:
        np.testing.assert_array_equal(whole, read_frames(pair, None, 0, 5))
    else:
        assert whole.shape == (5, 16, 24, 4)


def test_a_clip_that_would_fill_the_memory_is_left_out(dvm: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = run("dvm", dvm, out, max_gb=1e-5)  # 10 kB: room for a still, not for five frames
    assert {record["num_frames"] for record in records.values()} == {1}
    assert any("5 frames of 32x48 take 0.0 GB in memory, more than max_gb=1e-05; give a smaller size=" in line
               for line in skipped(out))  # fmt: skip
    assert len(run("dvm", dvm, tmp_path / "small", max_gb=1e-5, size=8)) == 4


@pytest.fixture
def vm108(tmp_path: Path) -> Path:
    root = tmp_path / "VideoMatting108"
    frames = {}
    for name in ("1_flower", "animal/cat.v2", "2_smoke"):
        for number in range(3):
            frame = f"{name}/{number + 7:05d}.png"
            save(np.dstack([colours(number), matte(number)]), root / "FG_done" / frame)
            frames[frame] = f"park/{number:05d}.png"
    save(colours(), root / "BG_done" / "park" / "00000.png")
    (root / "flow_png").mkdir()
    (root / "frame_corr.json").write_text(json.dumps(frames))
    (root / "train_videos.txt").write_text("1_flower\nanimal/cat.v2\n")
    (root / "train_videos_subset.txt").write_text("1_flower\n")
    (root / "val_videos_subset.txt").write_text("2_smoke\n")
    return root


def test_videomatting108(vm108: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = run("videomatting108", vm108, out, fps=25.0)
    assert {key: (record["split"], record["num_frames"], record["fps"]) for key, record in records.items()} == {
        "videomatting108-1_flower": ("train", 3, 25.0),
        "videomatting108-animal-cat_v2": ("train", 3, 25.0),
        "videomatting108-2_smoke": ("val", 3, 25.0),
    }
    assert not skipped(out)
    frames = read_frames(out / records["videomatting108-animal-cat_v2"]["media"], None, 0, 3)
    np.testing.assert_array_equal(frames, [np.dstack([colours(t), matte(t)]) for t in range(3)])


def test_videomatting108_names_missing_frames_and_videos(vm108: Path, tmp_path: Path) -> None:
    (vm108 / "FG_done" / "1_flower" / "00008.png").unlink()
    (vm108 / "val_videos_subset.txt").write_text("2_smoke\n3_never\n")
    out = tmp_path / "out"
    assert set(run("videomatting108", vm108, out)) == {"videomatting108-animal-cat_v2", "videomatting108-2_smoke"}
    lines = skipped(out)
    assert len(lines) == 2
    assert "1_flower: 1 of 3 frames, 00008.png first missing; unpack the archive again" in lines[0]
    assert "3_never: frames missing" in lines[1]
    (vm108 / "frame_corr.json").write_text("{")
    with pytest.raises(DataError, match=r"frame_corr\.json: not valid JSON"):
        run("videomatting108", vm108, tmp_path / "other")
    with pytest.raises(DataError, match="expected VideoMatting108's FG_done/"):
        run("videomatting108", vm108 / "FG_done", tmp_path / "other")


def test_opaque_frames_of_a_clip_that_should_be_rgba(vm108: Path, tmp_path: Path) -> None:
    for file in (vm108 / "FG_done" / "1_flower").iterdir():
        save(colours(), file)  # RGB
    out = tmp_path / "out"
    assert len(run("videomatting108", vm108, out)) == 2
    assert "expected an alpha channel, found mode RGB" in skipped(out)[0]


@pytest.mark.parametrize("form", ["frames", "videos"])
def test_videomatte240k(tmp_path: Path, form: str) -> None:
    root, held_out, ext = tmp_path / "VM240K", *{"frames": ("valid", ""), "videos": ("test", ".mp4")}[form]
    for split, name in (("train", "0000"), ("train", "0001"), (held_out, "0000")):
        save_clip(root / split / "fgr" / f"{name}{ext}", root / split / "pha" / f"{name}{ext}")
    out = tmp_path / "out"
    records = run("videomatte240k", root, out, fps=30.0)
    assert {key: (record["split"], record["num_frames"], record["fps"]) for key, record in records.items()} == {
        "videomatte240k-train-0000": ("train", 5, 30.0 if form == "frames" else 25.0),
        "videomatte240k-train-0001": ("train", 5, 30.0 if form == "frames" else 25.0),
        f"videomatte240k-{held_out}-0000": ("val", 5, 30.0 if form == "frames" else 25.0),
    }
    assert not skipped(out)
    frames = read_frames(out / records["videomatte240k-train-0001"]["media"], None, 0, 5)
    assert np.abs(frames[..., 3].astype(int) - np.stack([matte(2 * t) for t in range(5)])).mean() < 2


def test_frame_folders_with_different_gaps_are_not_shifted_against_each_other(tmp_path: Path) -> None:
    """Equal counts, but frame 1 is missing here and frame 3 there."""
    folder = tmp_path / "VM240K" / "train"
    for name in ("0000", "0001", "0002"):
        save_clip(folder / "fgr" / name, folder / "pha" / name)
    (folder / "fgr" / "0001" / "00001.jpg").unlink()
    (folder / "pha" / "0001" / "00003.jpg").unlink()
    (folder / "pha" / "0002" / "00004.jpg").unlink()
    save(matte(height=16), folder / "pha" / "0000" / "00003.jpg")  # one frame of another size
    save_clip(folder / "fgr" / "0003", folder / "pha" / "0003")
    out = tmp_path / "out"
    assert list(run("videomatte240k", tmp_path / "VM240K", out)) == ["videomatte240k-train-0003"]
    lines = skipped(out)
    for what in (
        "no folder valid or test or val",
        "0001 has 4 frames, its matte",
        "without partner: 00001, 00003",
        "0002 has 5 frames, its matte",
        "pha/0000/00003.jpg 16x48; both must agree",
    ):
        assert sum(what in line for line in lines) == 1, (what, lines)
