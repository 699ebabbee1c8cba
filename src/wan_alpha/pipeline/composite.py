"""A video over something: checkerboard, a colour, or the user's own picture or video; for looking, no alpha left."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from wan_alpha.data.errors import MediaError
from wan_alpha.data.misread import check_picture, check_stream
from wan_alpha.pipeline.pictures import UNREADABLE
from wan_alpha.pipeline.pixels import Pixels
from wan_alpha.rendering import COLOUR_NAMES, COLOURS, checkerboard

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_EIGHT = zip(COLOUR_NAMES, (255 * (COLOURS > 0)).tolist(), strict=True)
_NAMED: dict[str, tuple[int, int, int]] = {name: (r, g, b) for name, (r, g, b) in _EIGHT} | {"grey": (128, 128, 128)}


class BackgroundError(ValueError):
    """The background is no colour, no picture and no video, or a video that would be misread."""


def composite(pixels: Pixels, background: str = "checkerboard", fps: float = 16.0) -> Pixels:
    """Straight pixels over a background.

    Args:
        pixels: (T, H, W, 4) in [0, 1].
        background: `checkerboard`, a colour (`#00ff00` or a name), or the path of a picture or a video; a video plays
            at its own speed and starts again if it is shorter, and both are scaled to cover the frame.
        fps: frames per second of `pixels`.

    Returns:
        (T, H, W, 3) in [0, 1].
    """
    count, height, width = pixels.shape[:3]
    below = _background(background, count, height, width, fps)
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + below * (1 - alpha)


def parse_colour(text: str) -> tuple[int, int, int] | None:
    """`#rgb`, `#rrggbb` or a name -> 0..255 each; None if it is neither."""
    if text.lower() in _NAMED:
        return _NAMED[text.lower()]
    if re.fullmatch(r"#[0-9a-fA-F]{3}", text):
        text = "#" + "".join(2 * c for c in text[1:])
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    return None


def check_background(background: str) -> None:
    """Raise BackgroundError unless it can be read; of a video, its first frame."""
    _background(background, 1, 16, 16, 1.0)


def _background(background: str, count: int, height: int, width: int, fps: float) -> Pixels:
    """(T or 1, H, W, 3) in [0, 1]."""
    if background == "checkerboard":
        board = (checkerboard(height, width, max(4, min(height, width) // 30)).permute(1, 2, 0).numpy() + 1) / 2
        return board[None].astype(np.float32)
    if (colour := parse_colour(background)) is not None:
        return np.full((1, height, width, 3), np.array(colour) / 255, dtype=np.float32)
    if not Path(background).is_file():
        raise BackgroundError(
            f"background {background!r} is no file, no colour (#rrggbb, {', '.join(_NAMED)}) and not checkerboard"
        )
    if Path(background).suffix.lower() in PICTURES:
        try:
            with Image.open(background) as picture:
                return _cover(ImageOps.exif_transpose(picture).convert("RGB"), height, width)[None]
        except UNREADABLE as error:
            raise BackgroundError(f"background {background}: cannot be read as a picture ({error})") from error
    try:
        plates = [_cover(frame, height, width) for frame in itertools.islice(_moments(background, fps), count)]
    except MediaError as error:
        raise BackgroundError(f"background {error}") from error
    except (OSError, ValueError, IndexError) as error:
        raise BackgroundError(f"background {background}: cannot be decoded ({error})") from error
    if not plates:
        raise BackgroundError(f"background {background}: holds no frame")
    return np.stack([plates[i % len(plates)] for i in range(count)])


def _moments(path: str, fps: float) -> Iterator[Image.Image]:
    """What a video shows at 0, 1/fps, 2/fps, ... seconds until it ends."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        check_stream(path, stream)
        beat = 1 / float(stream.average_rate or fps)
        shown: av.VideoFrame | None = None
        begin: float | None = None
        end, taken = 0.0, 0
        for number, frame in enumerate(container.decode(stream)):
            check_picture(path, frame)
            time = number * beat if frame.time is None else frame.time
            begin = time if begin is None else begin
            end = time - begin + beat
            # The picture before this one is shown up to here; a hair less, for times that are rounded.
            while shown is not None and taken / fps < time - begin - 1e-3:
                yield _rgb(shown)
                taken += 1
            shown = frame
        while shown is not None and taken / fps < end - 1e-3:
            yield _rgb(shown)
            taken += 1


def _rgb(frame: av.VideoFrame) -> Image.Image:
    return Image.fromarray(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))


def _cover(picture: Image.Image, height: int, width: int) -> Pixels:
    scale = max(width / picture.width, height / picture.height)
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    scaled = picture.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    return np.asarray(scaled, np.float32) / np.float32(255)
