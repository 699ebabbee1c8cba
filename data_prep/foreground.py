"""Foreground colours where only a photo and its matte exist, and a panel that shows what the estimate is good for.

    python -m data_prep.foreground root=DIR out=panel.png [source=aim500] [count=4] [side=160]

At a soft edge a photo shows foreground and background mixed: I = alpha·F + (1 - alpha)·B.  Rendered onto another
colour with the same alpha, the old background shines through, and the hard render shows it in full.  F is estimated
per frame with the multi-level method of Germer et al. (2020) from pymatting.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from data_prep.cli import parse, told
from data_prep.sources import Choices, RawClip
from data_prep.sources.registry import adapter
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import probe, read_frames
from wan_alpha.data.resize import Frames, resize_rgba
from wan_alpha.rendering import COLOUR_NAMES, COLOURS, checkerboard, hard_render, soft_render
from wan_alpha.schema import Count

METHOD = "pymatting-ml-1"  # part of every cache key: change it when the estimate changes
GAP, HEADER = 4, 14
ROWS = ("photo, soft render", "estimate, soft render", "photo, hard render", "estimate, hard render")
PAPER, INK = (255, 255, 255), (30, 30, 30)


@dataclass
class Options:
    """Draw photos before and after the estimate on all eight colours, around their softest spot."""

    root: Annotated[Path, "where the set lies"]
    out: Annotated[Path, "the picture to write, PNG"]
    source: Annotated[str, "the set; generic: fgr/ and pha/, or what else data_prep.ingest reads"] = "generic"
    count: Annotated[Count, "so many clips, spread over the set"] = 4
    side: Annotated[Count, "side of one tile in pixels"] = 160


def estimate(frames: Frames, cache: Path | None = None) -> Frames:
    """Frames of a photo with the colours of the foreground alone.

    Args:
        frames: uint8 (T, H, W, 4): the photo's colours and alpha.
        cache: folder for results, by the hash of each frame; none: nothing is kept.

    Returns:
        uint8 (T, H, W, 4): alpha as it was; colours as they were where alpha is 255, estimated where it is softer,
        black where it is 0.

    Raises:
        DataError: pymatting is not installed.
    """
    return np.stack([_cached(frame, cache) for frame in frames])


def prepare() -> None:
    """Load pymatting; its first import on a machine compiles for a minute, which no worker should do beside another.

    Raises:
        DataError: it is not installed.
    """
    try:
        import numba
        import pymatting.foreground.estimate_foreground_ml  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"foreground=estimate needs pymatting ({error}); pip install 'wan-alpha[data]', or give foreground=none "
            "to keep the photos' colours"
        ) from error
    numba.set_num_threads(1)  # processes are the parallelism


def _cached(frame: Frames, cache: Path | None) -> Frames:
    """The estimate of one frame, (H, W, 4), from the cache if it is there."""
    if cache is None:
        return _estimate(frame)
    digest = hashlib.sha256(f"{METHOD} {frame.shape}".encode() + np.ascontiguousarray(frame).tobytes()).hexdigest()
    file = cache / digest[:2] / f"{digest}.png"
    try:
        with Image.open(file) as image:
            colours = np.asarray(image.convert("RGB"))
        if colours.shape[:2] == frame.shape[:2]:
            return np.concatenate([colours, frame[..., 3:]], axis=-1)
    except (OSError, SyntaxError, ValueError):
        pass  # not there yet, or damaged: estimate and write it again
    result = _estimate(frame)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.tmp")  # two processes may meet the same picture
    Image.fromarray(np.ascontiguousarray(result[..., :3])).save(partial, "PNG", compress_level=1)
    os.replace(partial, file)
    return result


def _estimate(frame: Frames) -> Frames:
    """The estimate of one frame, (H, W, 4)."""
    prepare()
    from pymatting.foreground.estimate_foreground_ml import estimate_foreground_ml

    alpha = frame[..., 3]
    result = frame.copy()
    result[alpha == 0, :3] = 0
    soft = (alpha > 0) & (alpha < 255)
    if soft.any():
        scaled = frame.astype(np.float32) / 255
        colours = estimate_foreground_ml(np.ascontiguousarray(scaled[..., :3]), np.ascontiguousarray(scaled[..., 3]))
        result[soft, :3] = np.rint(colours[soft] * 255).clip(0, 255).astype(np.uint8)
    return result


def panel(clips: list[tuple[str, Frames]], side: int = 160) -> Image.Image:
    """For each (name, frame) four rows, soft and hard render before and after, on a checkerboard and on all colours.

    Args:
        clips: names, and RGBA frames (1, H, W, 4) with a photo's colours.
        side: of one tile, in pixels.
    """
    block = HEADER + len(ROWS) * (side + GAP)
    page = Image.new("RGB", (GAP + (2 + len(COLOUR_NAMES)) * (side + GAP), len(clips) * (block + GAP) + GAP), PAPER)
    for number, (name, frame) in enumerate(track(clips, description="estimate")):
        _draw_clip(page, GAP + number * (block + GAP), name, frame, side)
    return page


def _draw_clip(page: Image.Image, top: int, name: str, frame: Frames, side: int) -> None:
    """One clip of a panel from line `top` of the page: its name, what the rows and columns are, and the tiles."""
    draw = ImageDraw.Draw(page)
    crop = (slice(None), *softest_window(frame[0, ..., 3], side))
    crops = [resize_rgba(frames[crop], (side, side)) for frames in (frame, estimate(frame))]
    page.paste(Image.fromarray(_square(frame, side - HEADER)), (GAP, top + HEADER))
    for column, title in enumerate((name[: side // 7], "checkerboard", *COLOUR_NAMES)):
        draw.text((GAP + column * (side + GAP), top), title, INK)
    for row, label in enumerate(ROWS):
        line = top + HEADER + row * (side + GAP)
        draw.text((GAP, line + side - HEADER), label, INK)  # below the photo in the first row
        for column, tile in enumerate(_renders(crops[row % 2], hard=row >= 2), start=1):
            page.paste(Image.fromarray(tile), (GAP + column * (side + GAP), line))


def softest_window(alpha: Frames, side: int) -> tuple[slice, slice]:
    """Rows and columns of the window of at most `side` pixels with the most soft alpha, uint8 (H, W)."""
    height, width = (min(side, length) for length in alpha.shape)
    level = torch.from_numpy(alpha.astype(np.float32))[None, None] / 255
    step = max(1, min(height, width) // 8)
    softness = F.avg_pool2d(level * (1 - level), (height, width), stride=step)[0, 0]
    row, column = divmod(int(softness.argmax()), softness.shape[1])
    return slice(row * step, row * step + height), slice(column * step, column * step + width)


def _renders(rgba: Tensor, hard: bool) -> list[Frames]:
    """Tiles (H, W, 3) of a frame, float (1, 4, H, W) in [0, 1]: on a checkerboard (always soft) and on each colour."""
    rgb, alpha = (2 * rgba[:, :3] - 1)[:, :, None], rgba[:, 3:, None]
    board = checkerboard(*rgba.shape[-2:])[None, :, None]
    render = hard_render if hard else soft_render
    pictures = [rgb * alpha + board * (1 - alpha), *(render(rgb, alpha, colour) for colour in COLOURS)]
    return [_tile(picture[0, :, 0]) for picture in pictures]


def _square(frame: Frames, side: int) -> Frames:
    """The whole photo, its background included, fitted into a white square."""
    image = Image.fromarray(frame[0, ..., :3])
    image.thumbnail((side, side))
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(image)
    return np.asarray(square)


def _tile(picture: Tensor) -> Frames:
    """(3, H, W) in [-1, 1] -> uint8 (H, W, 3)."""
    tile: Frames = ((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return tile


def _chosen(options: Options) -> list[tuple[str, Frames]]:
    """The middle frame of `count` clips, spread evenly over the set."""
    problems: list[str] = []
    clips: list[RawClip] = list(adapter(options.source, options.root)(options.root, problems, Choices()))
    step = max(1, len(clips) // max(1, options.count))
    chosen = []
    for clip in islice(clips, 0, None, step):
        try:
            middle = probe(clip.media, clip.ext or None, clip.key).num_frames // 2
            chosen.append((clip.key, read_frames(clip.media, clip.ext or None, middle, 1, name=clip.key)))
        except DataError as error:
            problems.append(str(error))
        if len(chosen) == options.count:
            break
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not chosen:
        raise DataError(f"{options.root}: no clip could be read")
    return chosen


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.foreground")
    with told():
        chosen = _chosen(options)
        prepare()
        options.out.parent.mkdir(parents=True, exist_ok=True)
        panel(chosen, options.side).save(options.out, "PNG")
    print(f"{len(chosen)} clips -> {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
