"""What a reconstruction looks like: labelled grids of truth, prediction and error, as PNG, animated WebP and mp4."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.evaluation.film import H264, encode
from wan_alpha.evaluation.metrics import psnr
from wan_alpha.rendering import COLOUR_NAMES, COLOURS, alpha_to_rgb, checkerboard, hard_render

Frames = NDArray[np.uint8]  # (T, H, W, 3)

ERROR_GAIN = 4
COLUMNS = ("ground truth", "prediction", f"error x {ERROR_GAIN}")

# Small clips are enlarged by a whole factor until the shorter side has MIN_TILE pixels (if the longer one then keeps
# within MAX_TILE), large ones are reduced to a longer side of MAX_TILE.
MIN_TILE, MAX_TILE = 192, 448

_MARGIN, _GAP, _GUTTER = 24, 10, 118
_PAPER, _INK, _FAINT, _LINE = (255, 255, 255), (28, 30, 34), (122, 126, 134), (214, 217, 222)


def panel(rgb: Tensor, alpha: Tensor, pred_rgb: Tensor, pred_alpha: Tensor, colour: Tensor, title: str = "") -> Frames:
    """One clip as a labelled grid: ground truth, prediction and error of soft render, hard render and alpha.

    Args:
        rgb, pred_rgb: (3, T, H, W) in [-1, 1]; the prediction is clamped.
        alpha, pred_alpha: (1, T, H, W) in [0, 1]; the prediction is clamped.
        colour: background of the hard render, (3,) in [-1, 1]. Both hard renders are cut with the true alpha > 0.
        title: printed above, such as the clip's key.

    Returns:
        (T, H', W', 3) uint8. The error is the mean absolute difference of the channels, times `ERROR_GAIN`.
    """
    rgb, alpha, pred_rgb, pred_alpha = (x.detach().float().cpu() for x in (rgb, alpha, pred_rgb, pred_alpha))
    if rgb.dim() != 4 or rgb.shape != pred_rgb.shape or alpha.shape != pred_alpha.shape:
        raise ValueError(
            "panel: expected one clip, rgb (3, T, H, W) and alpha (1, T, H, W), for truth and prediction; got "
            f"{tuple(rgb.shape)}, {tuple(alpha.shape)}, {tuple(pred_rgb.shape)}, {tuple(pred_alpha.shape)}"
        )
    truth = _pictures(rgb, alpha, colour.detach().float().cpu(), alpha > 0)
    pred = _pictures(pred_rgb.clamp(-1, 1), pred_alpha.clamp(0, 1), colour.detach().float().cpu(), alpha > 0)
    labels = {"soft": ("soft render", "on checkerboard"), "hard": ("hard render", f"on {_colour_name(colour)}")}
    labels["alpha"] = ("alpha", "white is opaque")
    height, width = _tile_size(*rgb.shape[-2:])
    page = _blank(height, width, title, [(*labels[row], f"{psnr(pred[row], truth[row]):.1f} dB") for row in truth])
    frames = np.repeat(page[None], rgb.shape[1], axis=0)
    for i, row in enumerate(truth):
        error = _heat((pred[row] - truth[row]).abs().mean(1) * ERROR_GAIN)
        for j, tile in enumerate((truth[row], pred[row], error)):
            top, left = _corner(i, j, height, width)
            frames[:, top : top + height, left : left + width] = _to_frames(tile, height, width)
    return frames


def write_panels(path_stem: str | Path, clips: Sequence[Frames], fps: float) -> tuple[Path, Path]:
    """Lay panels side by side and write a contact sheet and a looping animation.

    Args:
        path_stem: where, without suffix.
        clips: results of `panel`; shorter ones start again while longer ones play.
        fps: frames per second of the animation.

    Returns:
        The paths of the PNG (middle frame of every clip) and of the animated WebP.
    """
    if not clips:
        raise ValueError("write_panels: no clips to draw")
    stem = Path(path_stem)
    png, webp = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.webp")
    stem.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet([clip[len(clip) // 2] for clip in clips])).save(png, optimize=True)
    length = max(len(clip) for clip in clips)
    animation = [Image.fromarray(sheet([clip[t % len(clip)] for clip in clips])) for t in range(length)]
    animation[0].save(
        webp, save_all=True, append_images=animation[1:], duration=round(1000 / fps), loop=0, quality=85, method=2
    )
    return png, webp


def sheet(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) in a nearly square grid, row by row, on paper."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    page = np.full((rows * height, columns * width, 3), _PAPER, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page


def write_mp4(frames: Frames, path: str | Path, fps: float) -> Path:
    """Encode (T, H, W, 3) as H.264 in yuv420p, which every player and W&B show; odd sides grow by one pixel."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(frames, fps, path, "mp4", H264)
    return path


def _pictures(rgb: Tensor, alpha: Tensor, colour: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The rows of a panel, (T, 3, H, W) in [0, 1] each."""
    height, width = rgb.shape[-2:]
    board = checkerboard(height, width, cell=max(1, round(min(height, width) / 12)))[:, None]
    rows = {
        "soft": rgb * alpha + board * (1 - alpha),
        "hard": hard_render(rgb[None], alpha[None], colour, mask[None])[0],
        "alpha": alpha_to_rgb(alpha[None])[0],
    }
    return {name: (picture.transpose(0, 1) + 1) / 2 for name, picture in rows.items()}


def _tile_size(height: int, width: int) -> tuple[int, int]:
    room = MAX_TILE / max(height, width)
    factor = min(math.ceil(MIN_TILE / min(height, width)), max(1, math.floor(room))) if room >= 1 else room
    return round(height * factor), round(width * factor)


def _to_frames(pictures: Tensor, height: int, width: int) -> Frames:
    """(T, 3, H, W) in [0, 1] -> (T, height, width, 3); enlarged without inventing pixels, reduced without aliasing."""
    if height > pictures.shape[-2]:
        pictures = F.interpolate(pictures, (height, width), mode="nearest-exact")
    elif height < pictures.shape[-2]:
        pictures = F.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _heat(values: Tensor) -> Tensor:
    """(T, H, W), shown from 0 to 1 -> (T, 3, H, W) in [0, 1], black to bright."""
    return torch.from_numpy(colormaps["inferno"](values.clamp(0, 1).numpy())[..., :3]).permute(0, 3, 1, 2).float()


def _corner(row: int, column: int, height: int, width: int) -> tuple[int, int]:
    """Top and left of a tile."""
    return 2 * _MARGIN + 46 + row * (height + _GAP), _MARGIN + _GUTTER + column * (width + _GAP)


def _blank(height: int, width: int, title: str, rows: Sequence[tuple[str, str, str]]) -> NDArray[np.uint8]:
    """The page without pictures: title, headings, row labels (name, note, PSNR) and the legend of the error."""
    bottom, right = _corner(len(rows) - 1, len(COLUMNS) - 1, height, width)
    page = Image.new("RGB", (right + width + _MARGIN, bottom + height + 2 * _MARGIN + 12), _PAPER)
    draw = ImageDraw.Draw(page)
    big, medium, small = (ImageFont.load_default(size) for size in (20, 15, 13))
    draw.text((_MARGIN, _MARGIN), title, _INK, big)
    for j, heading in enumerate(COLUMNS):
        top, left = _corner(0, j, height, width)
        draw.text((left + width / 2, top - 8), heading, _INK, medium, anchor="md")
    for i, (name, note, figure) in enumerate(rows):
        top, _ = _corner(i, 0, height, width)
        draw.text((_MARGIN, top + 4), name, _INK, medium)
        draw.text((_MARGIN, top + 26), note, _FAINT, small)
        draw.text((_MARGIN, top + height - 18), f"PSNR {figure}", _FAINT, small)
        for j in range(len(COLUMNS)):
            top, left = _corner(i, j, height, width)
            draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_LINE)
    legend = _to_frames(_heat(torch.linspace(0, 1, width).expand(1, 8, width)), 8, width)[0]
    page.paste(Image.fromarray(legend), (right, bottom + height + 12))
    draw.text((right, bottom + height + 26), "no error", _FAINT, small)
    draw.text((right + width, bottom + height + 26), f"{100 // ERROR_GAIN} % or more", _FAINT, small, anchor="ra")
    return np.asarray(page)


def _colour_name(colour: Tensor) -> str:
    """A name such as magenta, or "#8040ff" for a colour outside the colour set."""
    for name, known in zip(COLOUR_NAMES, COLOURS, strict=True):
        if torch.equal(colour.detach().float().cpu(), known):
            return name
    return "#" + "".join(f"{round((value + 1) * 127.5):02x}" for value in colour.tolist())
