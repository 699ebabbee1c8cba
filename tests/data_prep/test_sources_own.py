"""The Wan-Alpha release with its list, and the user's own clips."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matting_trees import colours, rgba, run, save, save_clip, save_pair, save_prores, skipped

from data_prep.journal import Journal, entry
from data_prep.shard import Options as ShardOptions
from data_prep.shard import shard
from data_prep.sources.wanalpha import latent_size
from data_prep.verify import Options as VerifyOptions
from data_prep.verify import verify
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import read_frames
from wan_alpha.data.shards import ShardSource

COLUMNS = ("video_fgr", "video_pha", "prompt", "cache_path", "frame_height", "frame_width", "num_frames")


def write_list(root: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with (root / "data.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows(rows)
    return root / "data.csv"


def row(name: str, prompt: str, ext: str = ".mp4") -> tuple[str, ...]:
    return f"fgr/{name}{ext}", f"pha/{name}{ext}", prompt, f"cache/{name}.pth", "104", "60", "21"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    for name in ("fire.v2", "smoke"):
        save_clip(root / "fgr" / f"{name}.mp4", root / "pha" / f"{name}.mp4")
    save_pair(root / "fgr" / "glass.png", root / "pha" / "glass.png")
    write_list(
        root,
        [
            row("fire.v2", "一团火焰, 透明背景"),
            row("fire.v2", "一团橙色的火焰在黑暗中缓缓升起，\n边缘发光, 透明背景"),
            row("smoke", "烟"),
            row("glass", "玻璃杯", ".png"),
        ],
    )
    return root


def test_release_has_each_clip_once_with_all_its_captions(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = run("wanalpha", release, out)
    assert {key: record["num_frames"] for key, record in records.items()} == {
        "wanalpha-fire_v2": 5, "wanalpha-glass": 1, "wanalpha-smoke": 5,
    }  # fmt: skip
    fire = records["wanalpha-fire_v2"]
    assert fire["caption"] == "一团火焰, 透明背景"
    assert fire["captions"] == ["一团火焰, 透明背景", "一团橙色的火焰在黑暗中缓缓升起，\n边缘发光, 透明背景"]
    assert {record["split"] for record in records.values()} == {"train", "val"}
    assert fire["trained_at"] == [81, 480, 832]
    assert not skipped(out)


def test_latent_columns_are_swapped() -> None:
    assert latent_size({"frame_height": "104", "frame_width": "60", "num_frames": "21"}) == (81, 480, 832)
    assert latent_size({"frame_height": "60", "frame_width": "104", "num_frames": "1"}) == (1, 832, 480)


def test_what_is_wrong_with_the_list_is_named_row_by_row(release: Path, tmp_path: Path) -> None:
    save_clip(release / "fgr" / "unlisted.mp4", release / "pha" / "unlisted.mp4")
    rows = [
        row("fire.v2", "@@"),
        (*row("smoke", "烟")[:3], "", "wide", "60", "21"),
        row("smoke", "一缕白烟"),
        row("gone", "x"),
        (r"D:\clips\fgr\glass.png", r"D:\clips\pha\glass.png", "玻璃杯", "", "", "", ""),
        ("fgr/fire.v2.mp4", "", "x", "", "", "", ""),
    ]
    file = write_list(release, rows)
    file.write_bytes(file.read_bytes().replace(b"@@", "火焰".encode("gb18030")))
    out = tmp_path / "out"
    records = run("wanalpha", release, out)
    assert {key: record["caption"] for key, record in records.items()} == {
        "wanalpha-smoke": "烟", "wanalpha-glass": "玻璃杯",
    }  # fmt: skip
    lines = skipped(out)
    for what in (
        "data.csv:2: not UTF-8; save the table as UTF-8",
        "data.csv:3: the latent's size is not three whole numbers",
        "data.csv:5: fgr/gone and pha/gone not found",
        "data.csv:7: video_fgr or video_pha empty",
        "fgr/unlisted.mp4: not in data.csv",
        "fgr/fire.v2.mp4: not in data.csv",  # its rows cannot be used
    ):
        assert sum(what in line for line in lines) == 1, (what, lines)
    assert len(lines) == 6


def test_one_clip_with_two_mattes(release: Path, tmp_path: Path) -> None:
    write_list(release, [row("smoke", "a"), ("fgr/smoke.mp4", "pha/fire.v2.mp4", "b", "", "", "", "")])
    with pytest.raises(DataError, match=r"'smoke' has several mattes in the list: fire\.v2, smoke"):
        run("wanalpha", release, tmp_path / "out")


def test_vae_list_has_a_status_and_no_captions(release: Path, tmp_path: Path) -> None:
    columns = ("video_fgr", "video_pha", "status")
    write_list(
        release, [("fgr/smoke.mp4", "pha/smoke.mp4", "dynamic"), ("fgr/glass.png", "pha/glass.png", "static")], columns
    )
    records = run("wanalpha", release, tmp_path / "out")
    assert {key: (record["caption"], record["status"]) for key, record in records.items()} == {
        "wanalpha-smoke": ("", "dynamic"), "wanalpha-glass": ("", "static"),
    }  # fmt: skip


def test_a_list_with_other_columns(release: Path, tmp_path: Path) -> None:
    write_list(release, [("a", "b")], ("video", "text"))
    with pytest.raises(
        DataError, match=r"expected a UTF-8 table with the columns video_fgr, video_pha; .*\['video', 'text'\]"
    ):
        run("wanalpha", release, tmp_path / "out")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    root.mkdir()
    save_prores(rgba(1, 4), root / "parrot.mov")
    for number, frame in enumerate(rgba(2, 4)):
        save(frame, root / "fire" / f"{number}.png")
    save(rgba()[0], root / "logo.png")
    save_pair(root / "fgr" / "cup.png", root / "pha" / "cup.png")
    (root / "captions.csv").write_text("file,caption\nparrot.mov,a parrot\nfire,a fire\n", encoding="utf-8")
    return root


def test_own_clips_keep_names_captions_and_bytes(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = run("generic", own, out, licence="ours", fps=30.0)
    assert {key: (record["caption"], record["fps"]) for key, record in records.items()} == {
        "parrot": ("a parrot", 24.0), "fire": ("a fire", 30.0), "logo": ("", 24.0), "cup": ("", 24.0),
    }  # fmt: skip
    assert {record["licence"] for record in records.values()} == {"ours"}
    assert {record["foreground"] for record in records.values()} == {"given"}
    assert {record["split"] for record in records.values()} == {"train", "val"}
    assert (out / records["parrot"]["media"]).read_bytes() == (own / "parrot.mov").read_bytes()
    np.testing.assert_array_equal(read_frames(out / records["fire"]["media"], None, 0, 4), rgba(2, 4))


def test_a_second_run_takes_what_changed_and_keeps_other_sets(own: Path, release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("generic", own, out, size=16)
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.mkv")}
    assert len(before) == 4
    (own / "captions.csv").write_text("file,caption\nparrot.mov,a parrot\u2028at last\n", encoding="utf-8")
    for number, frame in enumerate(rgba(5, 4)):
        save(frame, own / "fire" / f"{number}.png")  # drawn again
    run("wanalpha", release, out)  # without size
    records = run("generic", own, out, size=16, licence="ours")
    after = {name: (out / name).stat().st_mtime_ns for name in before}
    assert [name for name in before if before[name] != after[name]] == ["fire.mkv"]
    assert (records["parrot"]["caption"], records["fire"]["caption"]) == ("a parrot\u2028at last", "")
    assert {records[key]["licence"] for key in ("parrot", "fire", "logo", "cup")} == {"ours"}
    assert {records[key]["size"] for key in records} == {16, None}
    assert sorted(key for key in records if key.startswith("wanalpha-")) == [
        "wanalpha-fire_v2", "wanalpha-glass", "wanalpha-smoke",
    ]  # fmt: skip
    assert len(FolderSource(out, "all")) == 7
    index = run_shard(out, tmp_path / "shards")
    assert {clip.caption for clip in index.clips} >= {"a parrot\u2028at last", ""}


def test_what_was_said_of_an_ingested_folder_goes_with_it(own: Path, tmp_path: Path) -> None:
    run("generic", own, tmp_path / "large")
    journal = Journal(tmp_path / "large")
    said = {"short_en": "A parrot.", "style": "cartoon"}
    journal.append([entry("ada", "person", "parrot", name, value) for name, value in said.items()])
    parrot = run("generic", tmp_path / "large", tmp_path / "small", size=16)["parrot"]
    assert (parrot["captions"], parrot["labels"]) == ({"short_en": "A parrot."}, {"style": "cartoon"})


def run_shard(root: Path, out: Path) -> ShardSource:
    shard(ShardOptions(root, out, workers=0, val_share=0))
    assert not verify(VerifyOptions(out, workers=0)).problems
    return ShardSource(out, "train")


def test_own_files_are_not_written_over(own: Path) -> None:
    with pytest.raises(DataError, match="is root too, whose files would be written over; give another folder"):
        run("generic", own, own / ".." / "own", size=8)


def test_names_that_are_no_text_or_too_long_are_listed(own: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(own) + b"/caf\xe9.mov")).write_bytes((own / "parrot.mov").read_bytes())
    save(rgba()[0], own / f"{'長' * 80}.png")
    assert len(run("generic", own, tmp_path / "out")) == 4
    long, odd = sorted(skipped(tmp_path / "out"), key=lambda line: "caf" in line)
    assert "caf\\udce9.mov: the key" in odd
    assert "takes more than 200 bytes; give it a shorter one" in long


def test_own_captions_in_another_encoding_stop_the_run(own: Path, tmp_path: Path) -> None:
    (own / "captions.csv").write_bytes("file,caption\nfire,火".encode("gb18030"))
    with pytest.raises(DataError, match=r"captions\.csv:\d+: not UTF-8 .*; save the file as UTF-8"):
        run("generic", own, tmp_path / "out")


def test_own_frames_that_do_not_belong_together(own: Path, tmp_path: Path) -> None:
    for number in range(5):
        save_pair(own / "fgr" / "wave" / f"{number}.png", own / "pha" / "wave" / f"{number}.png", number)
    (own / "fgr" / "wave" / "0.png").unlink()
    (own / "pha" / "wave" / "4.png").unlink()
    out = tmp_path / "out"
    assert "wave" not in run("generic", own, out)
    assert any("fgr/wave has 4 frames, its matte" in line for line in skipped(out))


def test_the_command_says_what_it_did_and_where_it_failed(own: Path, tmp_path: Path) -> None:
    (own / "solid.png").write_bytes(save(colours(), tmp_path / "solid.png").read_bytes())
    command = [
        sys.executable,
        "-m",
        "data_prep.ingest",
        "source=generic",
        f"root={own}",
        f"out={tmp_path / 'out'}",
        "workers=0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert done.stdout.startswith("4 clips, 10 frames -> ")
    assert "solid.png: expected an alpha channel, found mode RGB" in done.stderr
    assert "1 problems, listed in" in done.stderr
