"""AIM-500, AM-2k, Distinctions-646: photos and mattes in exactly the published layouts."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from matting_trees import colours, matte, run, save, save_pair, skipped
from PIL import Image

from data_prep import ingest
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import read_frames

NAMES = ("o_0b7228ec", "o_0c8f03f0", "o_6e4a7373")


@pytest.fixture
def aim500(tmp_path: Path) -> Path:
    root = tmp_path / "AIM-500"
    for number, name in enumerate(NAMES):
        save_pair(root / "original" / f"{name}.jpg", root / "mask" / f"{name}.png", number)
        save(matte(number), root / "trimap" / f"{name}.png")
        save(matte(number), root / "usr" / f"{name}.png")
    facts = {name: {"type": "SO", "category": "animal"} for name in NAMES}
    (root / "aim_category_type.json").write_text(json.dumps(facts))
    return root


def test_aim500_photos_become_clips_of_one_frame(aim500: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = run("aim500", aim500, out)
    assert list(records) == [f"aim500-{name}" for name in NAMES]
    record = records["aim500-o_0c8f03f0"]
    wanted = {"num_frames": 1, "height": 32, "width": 48, "caption": "", "category": "animal", "type": "SO"}
    wanted |= {"foreground": "photo", "licence": "MIT-style AIM-500 release agreement"}
    assert wanted.items() <= record.items()
    assert sorted(record["split"] for record in records.values()) == ["train", "train", "val"]
    assert not skipped(out)
    frame = read_frames(out / record["media"], None)[0]
    np.testing.assert_array_equal(frame[..., 3], matte(1))
    photo = np.asarray(Image.open(aim500 / "original" / "o_0c8f03f0.jpg"))
    np.testing.assert_array_equal(frame[..., :3], photo)
    assert len(FolderSource(out, "all")) == 3


def test_photos_without_foreground_are_left_out_on_demand(aim500: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip could be used\naim500-o_0b7228ec: there is only a photo"):
        run("aim500", aim500, tmp_path / "out", foreground="given")


def test_another_choice_of_colours_is_made_again_and_the_same_is_not(aim500: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run("aim500", aim500, out)
    file = out / first["aim500-o_0b7228ec"]["media"]
    before = file.stat().st_mtime_ns
    run("aim500", aim500, out)
    assert file.stat().st_mtime_ns == before
    with pytest.raises(DataError, match="no clip could be used"):  # a record of photos is no answer to `given`
        run("aim500", aim500, out, foreground="given")


def test_what_cannot_be_used_is_named_and_counted(
    aim500: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(colours(), aim500 / "original" / "o_lonely.jpg")
    save(matte(), aim500 / "mask" / "o_orphan.png")
    save_pair(aim500 / "original" / "o_twice.jpg", aim500 / "mask" / "o_twice.png")
    save(colours(), aim500 / "original" / "o_twice.png")
    save(colours(), aim500 / "original" / "o_small.jpg")
    save(matte(height=16, width=16), aim500 / "mask" / "o_small.png")
    for name, alpha in (("o_white", np.full((32, 48), 255, np.uint8)), ("o_inverse", 255 - matte())):
        save(colours(), aim500 / "original" / f"{name}.jpg")
        save(alpha, aim500 / "mask" / f"{name}.png")
    save(colours(), aim500 / "original" / "o_broken.jpg")
    (aim500 / "mask" / "o_broken.png").write_bytes((aim500 / "mask" / "o_orphan.png").read_bytes()[:60])
    (aim500 / "mask" / "notes.txt").write_text("checked")
    out = tmp_path / "out"
    assert list(run("aim500", aim500, out)) == [f"aim500-{name}" for name in NAMES]
    expected = {
        "o_lonely.jpg: no matte of that name": 1,
        "o_orphan.png: no colour of that name": 1,
        "the name 'o_twice' occurs 2 times": 1,
        "o_twice.png: no colour of that name": 1,
        "o_small.jpg has 1 frames of 32x48, its matte": 1,
        "aim500-o_white: alpha is 255 everywhere": 1,
        "aim500-o_inverse: alpha is opaque along 100% of the border": 1,
        "o_broken.png: cannot be read as a picture": 1,
        "notes.txt: neither a picture nor a video": 1,
    }
    lines = skipped(out)
    assert {what: sum(what in line for line in lines) for what in expected} == expected
    assert len(lines) == len(expected)
    said = capsys.readouterr().err
    assert f"{len(expected)} problems, listed in" in said
    assert all(f"skipped: {line}" in said for line in lines)
    kept = run("aim500", aim500, tmp_path / "kept", keep_inverted=True)
    assert set(kept) - {f"aim500-{name}" for name in NAMES} == {"aim500-o_inverse"}


def deep_png(level: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG, grey (0) or RGBA (6), from uint16 (H, W, channels): Pillow writes only grey ones."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    height, width = level.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, colour_type, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in level)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_mattes_of_every_depth_mean_the_same(aim500: Path, tmp_path: Path) -> None:
    wanted = matte()
    palette = Image.fromarray(255 - wanted)  # index 0 stands for 255: a palette must be looked up
    palette.putpalette([level for index in range(256) for level in [255 - index] * 3])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert Image.open(buffer).mode == "P"
    forms = {
        "o_grey16": deep_png(wanted[..., None].astype(np.uint16) * 257, 0),
        "o_rgba16": deep_png(np.stack([*[wanted] * 3, np.full_like(wanted, 255)], -1).astype(np.uint16) * 257, 6),
        "o_palette": buffer.getvalue(),
    }
    for name, data in forms.items():
        save(colours(), aim500 / "original" / f"{name}.jpg")
        (aim500 / "mask" / f"{name}.png").write_bytes(data)
    out = tmp_path / "out"
    records = run("aim500", aim500, out)
    assert not skipped(out)
    for name in forms:
        np.testing.assert_array_equal(read_frames(out / records[f"aim500-{name}"]["media"], None)[0, ..., 3], wanted)


def test_aim500_without_its_json_or_at_the_wrong_root(aim500: Path, tmp_path: Path) -> None:
    (aim500 / "aim_category_type.json").unlink()
    out = tmp_path / "out"
    assert "category" not in run("aim500", aim500, out)["aim500-o_0b7228ec"]
    assert "aim_category_type.json: missing, so no clip has a category" in skipped(out)[0]
    (aim500 / "aim_category_type.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"aim_category_type\.json: expected \{name"):
        run("aim500", aim500, tmp_path / "other")
    with pytest.raises(DataError, match=r"expected AIM-500's original/ and mask/; found AIM-500, other, out"):
        run("aim500", tmp_path, tmp_path / "other")
    with pytest.raises(DataError, match="expected the folder of aim500, found nothing"):
        run("aim500", tmp_path / "nowhere", tmp_path / "other")


@pytest.fixture
def am2k(tmp_path: Path) -> Path:
    root = tmp_path / "AM-2k"
    for number, name in enumerate(("train/{}/m_00a1b2c3", "train/{}/m_00d4e5f6", "validation/{}/m_0a9b8c7d")):
        save_pair(root / f"{name.format('original')}.jpg", root / f"{name.format('mask')}.png", number)
    save(matte(), root / "validation" / "trimap" / "m_0a9b8c7d.png")
    return root


def test_am2k_splits_and_given_foregrounds(am2k: Path, tmp_path: Path) -> None:
    save(colours(9), am2k / "train" / "fg" / "m_00a1b2c3.png")
    records = run("am2k", am2k, tmp_path / "none")
    assert {key: record["split"] for key, record in records.items()} == {
        "am2k-m_00a1b2c3": "train", "am2k-m_00d4e5f6": "train", "am2k-m_0a9b8c7d": "val",
    }  # fmt: skip
    assert {record["foreground"] for record in records.values()} == {"photo"}
    out = tmp_path / "given"
    records = run("am2k", am2k, out, foreground="given")
    assert {key: record["foreground"] for key, record in records.items()} == {"am2k-m_00a1b2c3": "given"}
    frame = read_frames(out / records["am2k-m_00a1b2c3"]["media"], None)[0]
    np.testing.assert_array_equal(frame[..., :3], colours(9))
    np.testing.assert_array_equal(frame[..., 3], matte(0))
    assert len(skipped(out)) == 2


def test_am2k_with_one_split_only(am2k: Path, tmp_path: Path) -> None:
    (am2k / "validation").rename(tmp_path / "elsewhere")
    out = tmp_path / "out"
    assert len(run("am2k", am2k, out)) == 2
    assert "validation: missing, so its clips are" in skipped(out)[0]


@pytest.mark.parametrize(
    ("train", "test", "halves"),
    [
        ("Train", "Test", ("FG", "GT")),
        ("Train_ori", "Test_ori", ("Fg_images", "Alpha_matte")),
        ("train", "test", ("fg", "alpha")),
        ("Train", "Test", ("fgr", "pha")),
        ("Train", "Test", ("fg", "mask")),
    ],
)
def test_distinctions_in_all_its_names(tmp_path: Path, train: str, test: str, halves: tuple[str, str]) -> None:
    root = tmp_path / "Distinctions-646"
    for number, name in enumerate((f"{train}/{{}}/13(2).png", f"{train}/{{}}/13.png", f"{test}/{{}}/13.png")):
        save_pair(root / name.format(halves[0]), root / name.format(halves[1]), number)
    out = tmp_path / "out"
    records = run("distinctions646", root, out)
    assert {key: record["split"] for key, record in records.items()} == {
        "distinctions646-train-13(2)": "train", "distinctions646-train-13": "train", "distinctions646-test-13": "val",
    }  # fmt: skip
    assert {record["foreground"] for record in records.values()} == {"given"}
    assert not skipped(out)
    frame = read_frames(out / records["distinctions646-train-13(2)"]["media"], None)[0]
    np.testing.assert_array_equal(frame, np.dstack([colours(0), matte(0)]))


def test_distinctions_originals_win_over_composites_made_of_them(tmp_path: Path) -> None:
    save_pair(tmp_path / "set/Train_ori/Fg_images/13.png", tmp_path / "set/Train_ori/Alpha_matte/13.png")
    for number in range(2):
        save_pair(tmp_path / f"set/Train/FG/13_{number}.png", tmp_path / f"set/Train/GT/13_{number}.png")
    assert list(run("distinctions646", tmp_path / "set", tmp_path / "out")) == ["distinctions646-train-13"]


def test_distinctions_that_are_not(tmp_path: Path) -> None:
    (tmp_path / "Train" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"Train: expected one of FG, .*; found images"):
        run("distinctions646", tmp_path, tmp_path / "out")


def test_two_names_that_give_one_key(tmp_path: Path) -> None:
    for number, name in enumerate(("a.b", "a_b")):
        save_pair(tmp_path / "set/Train/FG" / f"{name}.png", tmp_path / "set/Train/GT" / f"{name}.png", number)
    out = tmp_path / "out"
    assert list(run("distinctions646", tmp_path / "set", out)) == ["distinctions646-train-a_b"]
    assert any("distinctions646-train-a_b: the key occurs twice" in line for line in skipped(out))


def test_an_unknown_way_with_foregrounds(aim500: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="foreground=guess: expected one of estimate, given, none"):
        ingest.ingest(ingest.Options("aim500", aim500, tmp_path / "out", foreground="guess"))
