"""Foreground colours where only a photo exists: how near the estimate comes, the cache, the panel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matting_trees import run, save, skipped
from PIL import Image

from data_prep import foreground
from data_prep.foreground import estimate, softest_window
from wan_alpha.data.media import read_frames
from wan_alpha.data.resize import Frames

pytest.importorskip("pymatting")


def scene(side: int = 96) -> tuple[Frames, npt.NDArray[np.float64]]:
    """(photo (1, H, W, 4), true foreground colours (H, W, 3)): an orange disc on blue ground, its edge 16 px soft."""
    y, x = np.mgrid[:side, :side] / side
    alpha = np.clip((0.42 - np.hypot(y - 0.5, x - 0.5)) * side / 16, 0, 1)[..., None]
    colour = np.stack([220 + 30 * x, 120 + 40 * y, 20 + 20 * x], axis=-1)
    ground = np.stack([20 + 40 * y, 40 + 20 * x, 180 + 60 * x], axis=-1)
    photo = np.rint(colour * alpha + ground * (1 - alpha))
    return np.dstack([photo, np.rint(255 * alpha)]).astype(np.uint8)[None], colour


def test_estimate_is_far_nearer_to_the_true_foreground_than_the_photo() -> None:
    photo, truth = scene()
    alpha = photo[0, ..., 3]
    found = estimate(photo)
    soft = (alpha > 12) & (alpha < 243)
    before, after = (np.abs(frames[0, soft, :3] - truth[soft]).mean() for frames in (photo, found))
    assert before > 40
    assert after < before / 8
    np.testing.assert_array_equal(found[..., 3], photo[..., 3])
    np.testing.assert_array_equal(found[0, alpha == 255], photo[0, alpha == 255])
    assert (found[0, alpha == 0, :3] == 0).all()


def test_compositing_the_estimate_gives_the_truth_on_every_ground() -> None:
    photo, truth = scene()
    found, alpha = estimate(photo)[0], photo[0, ..., 3:] / 255.0
    for level in (0, 255):
        wanted = truth * alpha + level * (1 - alpha)
        before, after = (np.abs(x[..., :3] * alpha + level * (1 - alpha) - wanted).mean() for x in (photo[0], found))
        assert after < before / 6


def test_cache_answers_by_content_and_survives_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, _ = scene(32)
    other = photo.copy()
    other[0, 0, 0, 0] ^= 1
    wanted = estimate(photo)
    np.testing.assert_array_equal(estimate(np.concatenate([photo, other, photo]), tmp_path)[[0, 2]], wanted[[0, 0]])
    files = list(tmp_path.rglob("*.png"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:40])
    np.testing.assert_array_equal(estimate(np.concatenate([photo, other]), tmp_path)[0], wanted[0])
    monkeypatch.setattr(foreground, "_estimate", lambda frame: pytest.fail("should have come from the cache"))
    np.testing.assert_array_equal(estimate(photo, tmp_path), wanted)


def test_a_picture_without_soft_pixels_is_left_as_it_is() -> None:
    photo, _ = scene(32)
    photo[..., 3] = np.where(photo[..., 3] > 127, 255, 0)
    found = estimate(photo)
    np.testing.assert_array_equal(found[photo[..., 3] == 255], photo[photo[..., 3] == 255])


def aim500(root: Path) -> Path:
    for number, side in enumerate((48, 96)):
        photo, _ = scene(side)
        save(photo[0, ..., :3], root / "original" / f"o_{number}.jpg")
        save(photo[0, ..., 3], root / "mask" / f"o_{number}.png")
    (root / "aim_category_type.json").write_text("{}")
    return root


def test_ingest_estimates_in_its_workers_and_keeps_the_results(tmp_path: Path) -> None:
    root, out, cache = aim500(tmp_path / "set"), tmp_path / "out", tmp_path / "cache"
    records = run("aim500", root, out, foreground="estimate", workers=1, cache=cache)
    assert {record["foreground"] for record in records.values()} == {"estimated"}
    assert not skipped(out)
    assert len(list(cache.rglob("*.png"))) == 2
    frame = read_frames(out / records["aim500-o_1"]["media"], None)[0]
    truth = scene(96)[1]
    soft = (frame[..., 3] > 12) & (frame[..., 3] < 243)
    assert np.abs(frame[soft][:, :3] - truth[soft]).mean() < 8
    small = run("aim500", root, tmp_path / "small", foreground="estimate", cache=cache, size=24)
    assert {record["height"] for record in small.values()} == {24}
    assert len(list(cache.rglob("*.png"))) == 2  # another size, the same estimates


def test_softest_window_finds_the_edge() -> None:
    alpha = np.zeros((200, 300), np.uint8)
    alpha[:, :150] = 255
    alpha[40:60, 240:260] = 128
    rows, columns = softest_window(alpha, 64)
    assert rows.start <= 40
    assert rows.stop >= 60
    assert columns.start <= 240
    assert columns.stop >= 260
    assert softest_window(alpha[:20, :30], 64) == (slice(0, 20), slice(0, 30))


def test_panel_shows_every_clip_and_colour(tmp_path: Path) -> None:
    root, out = aim500(tmp_path / "set"), tmp_path / "panels" / "panel.png"
    foreground.main([f"root={root}", f"out={out}", "source=aim500", "count=2", "side=48"])
    page = np.asarray(Image.open(out)).astype(int)
    tile, block = 48 + foreground.GAP, foreground.HEADER + 4 * (48 + foreground.GAP)
    assert page.shape[1] == foreground.GAP + 10 * tile
    assert page.shape[0] == foreground.GAP + 2 * (block + foreground.GAP)

    def corner(row: int, column: int) -> list[int]:
        """Bottom right pixel of a tile of the first clip, where nothing is but the background colour."""
        bottom, right = foreground.GAP + foreground.HEADER + row * tile + 47, foreground.GAP + column * tile + 47
        return page[bottom, right].tolist()

    for row in range(4):
        assert corner(row, 2) == [0, 0, 0]
        assert corner(row, 4) == [0, 255, 0]
        assert corner(row, 9) == [255, 255, 255]


def test_panel_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        foreground.main([f"root={tmp_path}", f"out={tmp_path / 'panel.png'}", "source=aim500"])
    assert "expected AIM-500's original/ and mask/" in capsys.readouterr().err
