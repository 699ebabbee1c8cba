"""Panels: the right pictures at the right places, in files that open."""

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wan_alpha.evaluation import panels
from wan_alpha.evaluation.panels import panel, sheet, write_mp4, write_panels
from wan_alpha.rendering import COLOURS

MAGENTA = COLOURS[5]


def clip(frames: int = 3, size: int = 64) -> tuple[Tensor, Tensor]:
    """A green square, opaque, wandering to the right: rgb (3, T, H, W), alpha (1, T, H, W)."""
    rgb = COLOURS[2].reshape(3, 1, 1, 1).expand(3, frames, size, size).clone()
    alpha = torch.zeros(1, frames, size, size)
    for t in range(frames):
        alpha[:, t, 16:48, 8 + 8 * t : 40 + 8 * t] = 1
    return rgb, alpha


def tile(frames: np.ndarray, row: int, column: int, height: int = 192, width: int = 192) -> np.ndarray:
    top, left = panels._corner(row, column, height, width)
    return frames[:, top : top + height, left : left + width]


def test_every_tile_shows_what_its_labels_say():
    rgb, alpha = clip()
    drawn = panel(rgb, alpha, rgb, alpha * 0.5, MAGENTA, title="square")
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] == 3
    inside, outside = (0, 100, 70), (0, 10, 10)  # in the square and beside it, enlarged 3 times, first frame
    assert tile(drawn, 0, 0)[inside].tolist() == [0, 255, 0]
    assert tile(drawn, 0, 0)[outside].tolist() == [255, 255, 255]  # the checkerboard's light corner
    assert tile(drawn, 1, 0)[outside].tolist() == tile(drawn, 1, 1)[outside].tolist() == [255, 0, 255]
    assert tile(drawn, 1, 1)[inside].tolist() == [0, 255, 0]  # half transparent is fully there in a hard render
    assert tile(drawn, 2, 0)[inside].tolist() == [255, 255, 255]
    assert tile(drawn, 2, 1)[inside].tolist() == [128, 128, 128]
    assert (tile(drawn, 1, 2) == tile(drawn, 1, 2)[0, 0, 0]).all()  # hard renders agree: no error anywhere
    assert tile(drawn, 2, 2)[inside].sum() > 600  # 0.5 off, four times enlarged: the brightest of the scale
    assert tile(drawn, 2, 2)[outside].sum() < 20


def test_frames_move_and_labels_do_not():
    rgb, alpha = clip()
    drawn = panel(rgb, alpha, rgb, alpha, MAGENTA, title="square")
    assert (tile(drawn, 2, 0)[0] != tile(drawn, 2, 0)[2]).any()
    top, left = panels._corner(0, 0, 192, 192)
    assert (drawn[0, :top] == drawn[2, :top]).all()
    assert (drawn[0, :, : left - 1] == drawn[2, :, : left - 1]).all()
    assert (drawn[0, :, : left - 1] < 128).any()  # and there are some
    untitled = panel(rgb, alpha, rgb, alpha, MAGENTA)
    assert (untitled[0, :48] == 255).all() != (drawn[0, :48] == 255).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [((64, 64), (192, 192)), ((96, 128), (192, 256)), ((200, 300), (200, 300)), ((480, 832), (258, 448))],
)
def test_tiles_are_large_enough_to_see_and_small_enough_to_fit(given, expected):
    height, width = given
    rgb, alpha = torch.zeros(3, 1, height, width), torch.ones(1, 1, height, width)
    drawn = panel(rgb, alpha, rgb, alpha, MAGENTA)
    bottom, right = panels._corner(2, 2, *expected)
    assert drawn.shape[1] > bottom + expected[0]
    assert drawn.shape[2] == right + expected[1] + 24
    assert (tile(drawn, 2, 2, *expected)[0] < 20).all()


def test_predictions_of_any_range_and_precision_are_drawn():
    rgb, alpha = clip(1)
    drawn = panel(rgb, alpha, (rgb * 3).bfloat16(), alpha * 2, MAGENTA)
    assert (tile(drawn, 0, 0) == tile(drawn, 0, 1)).all()


def test_a_batch_is_refused():
    rgb, alpha = clip(1)
    with pytest.raises(ValueError, match=r"expected one clip, .* got \(1, 3, 1, 64, 64\)"):
        panel(rgb[None], alpha[None], rgb[None], alpha[None], MAGENTA)


def test_colours_are_named_or_coded():
    assert panels._colour_name(MAGENTA) == "magenta"
    assert panels._colour_name(torch.tensor([-1.0, 0.0, 1.0])) == "#0080ff"


def test_sheet_is_nearly_square_and_keeps_the_order():
    pictures = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    page = sheet(pictures)
    assert page.shape == (8, 12, 3)
    assert [page[0, 0, 0], page[0, 6, 0], page[4, 0, 0], page[4, 6, 0]] == [10, 20, 30, 255]


def test_files_open_and_hold_every_frame(tmp_path):
    rgb, alpha = clip(3)
    drawn = panel(rgb, alpha, rgb, alpha * 0.5, MAGENTA, title="square")
    png, webp = write_panels(tmp_path / "new" / "step.000100", [drawn, drawn[:2]], fps=8)
    assert png.name == "step.000100.png"
    with Image.open(png) as picture:
        assert (np.asarray(picture) == sheet([drawn[1], drawn[1]])).all()
    with Image.open(webp) as animation:
        assert (animation.format, animation.n_frames, animation.info["loop"]) == ("WEBP", 3, 0)
        durations = []
        for t in range(3):
            animation.seek(t)
            shown = np.asarray(animation.convert("RGB")).astype(int)
            durations.append(animation.info["duration"])
            # the shorter clip starts again
            assert np.abs(shown - sheet([drawn[t], drawn[t % 2]])).mean() < 3
        assert durations == [125, 125, 125]
    with pytest.raises(ValueError, match="no clips"):
        write_panels(tmp_path / "none", [], fps=8)


def test_mp4_of_odd_size_is_playable(tmp_path):
    frames = np.stack([np.full((33, 51, 3), value, np.uint8) for value in (40, 120, 200)])
    path = write_mp4(frames, tmp_path / "new" / "clip.mp4", fps=12.5)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 12.5)
        context = stream.codec_context  # BT.709, limited range, whatever the height
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert [frame.shape for frame in decoded] == [(34, 52, 3)] * 3
    for frame, value in zip(decoded, (40, 120, 200), strict=True):
        assert np.abs(frame.astype(int) - value).max() <= 3
