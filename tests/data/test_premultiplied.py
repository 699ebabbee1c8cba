"""Premultiplied colour is told from straight colour, in pictures of every kind, and made straight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rgba_media import disc, write_frames

from wan_alpha.data.errors import AlphaError, DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import write_ffv1
from wan_alpha.data.premultiplied import FEWEST, looks_premultiplied, straighten
from wan_alpha.data.resize import Frames
from wan_alpha.data.shards import ShardSource


def premultiply(frames: Frames) -> Frames:
    colour = np.rint(frames[..., :3].astype(float) * frames[..., 3:] / 255).astype(np.uint8)
    return np.concatenate([colour, frames[..., 3:]], axis=-1)


def glow(colour: tuple[int, int, int], side: int = 48) -> Frames:
    """A soft blob of one colour that is nowhere opaque, (1, side, side, 4)."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    frames = np.zeros((1, side, side, 4), np.uint8)
    frames[..., 3] = np.clip(230 * np.exp(-12 * (x**2 + y**2)), 0, 255)
    frames[..., :3] = colour
    return frames


def outlined(side: int = 64) -> Frames:
    """A white disc with a black outline: its soft pixels are dark although nothing is premultiplied."""
    y, x = np.mgrid[:side, :side] - side / 2
    radius = np.hypot(y, x)
    frames = np.zeros((1, side, side, 4), np.uint8)
    frames[..., 3] = np.clip((26 - radius) * 60, 0, 255)
    frames[..., :3] = np.where(radius < 20, 255, 12)[..., None]
    return frames


@settings(max_examples=40, deadline=None)
@given(colour=st.tuples(*[st.integers(0, 255)] * 3), seed=st.integers(0, 9))
def test_straight_colour_is_never_taken_for_premultiplied(colour: tuple[int, int, int], seed: int) -> None:
    assert not looks_premultiplied(glow(colour))
    assert not looks_premultiplied(disc(2, seed=seed))
    assert not looks_premultiplied(outlined())


@settings(max_examples=40, deadline=None)
@given(colour=st.tuples(*[st.integers(40, 255)] * 3), seed=st.integers(0, 9))
def test_premultiplied_colour_is_found_where_it_matters(colour: tuple[int, int, int], seed: int) -> None:
    assert looks_premultiplied(premultiply(glow(colour)))
    assert looks_premultiplied(premultiply(disc(2, seed=seed)))


def test_pictures_that_do_not_tell() -> None:
    hard = disc(1)
    hard[..., 3] = np.where(hard[..., 3] > 127, 255, 0)
    assert looks_premultiplied(premultiply(hard)) is None
    assert looks_premultiplied(glow((0, 0, 0))) is None  # a shadow: straight and premultiplied are one
    assert looks_premultiplied(glow((200, 0, 0))) is False


def test_made_straight_within_rounding() -> None:
    clip = disc(3)
    straight = straighten(premultiply(clip), "clip")
    strong = clip[..., 3] > 100
    assert np.abs(straight[strong].astype(int) - clip[strong]).max() <= 2
    assert (straight[clip[..., 3] == 0] == 0).all()
    np.testing.assert_array_equal(straight[..., 3], clip[..., 3])
    with pytest.raises(AlphaError, match=r"clip: colour exceeds alpha in \d+% of the soft pixels.*premultiplied=no"):
        straighten(clip, "clip")


def test_made_straight_by_definition() -> None:
    """colour · 255 / alpha, rounded, at most 255; black where nothing is; few soft pixels are no proof of anything."""
    alpha = np.arange(256)
    frames = np.stack([alpha // 2, alpha, np.full(256, 9), alpha], axis=-1)[None, None].astype(np.uint8)
    found = straighten(frames, "ramp")[0, 0].astype(float)
    assert not found[0].any()
    np.testing.assert_array_equal(found[1:, 0], np.floor(alpha[1:] // 2 * 255 / alpha[1:] + 0.5))
    assert (found[1:, 1] == 255).all()
    np.testing.assert_array_equal(found[1:, 2], np.minimum(np.floor(9 * 255 / alpha[1:] + 0.5), 255))
    few = np.full((1, 1, FEWEST - 1, 4), 200, np.uint8)
    few[..., 3] = 100  # colour exceeds alpha
    assert (straighten(few, "few")[..., :3] == 255).all()
    with pytest.raises(AlphaError, match="100% of the soft pixels"):
        straighten(np.concatenate([few, few[:, :, :1]], axis=2), "enough")


def test_a_folder_asks_takes_or_converts(tmp_path: Path) -> None:
    write_ffv1(disc(seed=1), 24, tmp_path / "good.mkv")
    write_ffv1(premultiply(disc(seed=2)), 24, tmp_path / "dark.mkv")
    write_frames(premultiply(disc(seed=3)), tmp_path / "frames")
    asking = FolderSource(tmp_path, "all")
    assert [clip.key for clip in asking.clips] == ["good"]
    assert len(asking.problems) == 2
    assert (
        "give premultiplied=yes to make it straight, or premultiplied=no if it is meant so, to data_prep"
        in asking.problems[0]
    )
    taking = FolderSource(tmp_path, "all", premultiplied="no")
    assert len(taking) == 3
    np.testing.assert_array_equal(taking.read(0, 0, 9), premultiply(disc(seed=2)))
    (tmp_path / "good.mkv").unlink()
    making = FolderSource(tmp_path, "all", premultiplied="yes")
    frames, wanted = making.read(0, 2, 3), disc(seed=2)[2:5]
    assert np.abs(frames[wanted[..., 3] > 100].astype(int) - wanted[wanted[..., 3] > 100]).max() <= 2
    assert making.manifest_hash != FolderSource(tmp_path, "all", premultiplied="no").manifest_hash
    with pytest.raises(DataError, match="premultiplied=maybe: expected one of ask, yes, no"):
        FolderSource(tmp_path, "all", premultiplied="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_shipped_clips_are_straight_and_known_once_they_are_multiplied(split: str) -> None:
    source = ShardSource(Path(__file__).parents[2] / "assets" / "fluent-sample", split)
    frames = [source.read(index, 9, 1) for index in range(len(source))]
    assert not any(looks_premultiplied(frame) for frame in frames)
    assert all(looks_premultiplied(premultiply(frame)) for frame in frames)
