"""Still and animated pictures through Pillow: PNG, APNG, WebP, and JPEG or TIFF where no alpha is needed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from wan_alpha.data.errors import AlphaError, MediaError
from wan_alpha.data.limits import check_size, webp_size
from wan_alpha.data.resize import Frames
from wan_alpha.data.timing import Times, picture_times

HEAD = 32  # bytes of a file that say how large a WebP is
DEFAULT_FPS = 24.0
"""Frames per second of what does not say: stills, and folders of frames."""


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An open picture; whatever Pillow throws while it is in use becomes a MediaError that names the file."""
    try:
        if size := webp_size(_head(source)):
            check_size(name, *size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours, and it is an error
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        with image:
            check_size(name, image.height, image.width)
            yield image
    except MediaError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise MediaError(f"{name}: cannot be read as a picture ({error}); write the file again or remove it") from error


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD]
    with source.open("rb") as file:
        return file.read(HEAD)


def _first_frame(image: Image.Image) -> int:
    """1 for an APNG whose frame 0 is a still for viewers that cannot animate, else 0."""
    return int(bool(image.info.get("default_image")))


def _fps(milliseconds: float) -> float:
    """WebP keeps whole milliseconds: 42 ms stands for 24 fps, so an integer rate that rounds to them is taken."""
    if milliseconds <= 0:
        return DEFAULT_FPS
    whole = round(1000 / milliseconds)
    return float(whole) if whole and round(1000 / whole) == round(milliseconds) else 1000 / milliseconds


def _require_alpha(image: Image.Image, name: str) -> None:
    if not image.has_transparency_data:
        raise AlphaError(
            f"{name}: expected an alpha channel, found mode {image.mode}; export it as RGBA, "
            "or give colour and matte as a pair fgr/ + pha/"
        )


def probe_picture(source: Path | bytes, name: str, need_alpha: bool) -> tuple[int, float, int, int]:
    """(num_frames, fps, height, width) of a picture, animated or still.

    Raises:
        AlphaError: `need_alpha` and the file has no alpha channel.
        MediaError: the file cannot be read.
    """
    with _opened(source, name) as image:
        first = _first_frame(image)
        image.seek(first)
        image.load()  # Pillow knows a frame's duration only after decoding it
        if need_alpha:
            _require_alpha(image, name)
        frames = int(getattr(image, "n_frames", 1)) - first
        fps = _fps(float(image.info.get("duration", 0))) if frames > 1 else DEFAULT_FPS
        return frames, fps, image.height, image.width


def picture_frames(source: Path | bytes, name: str, positions: range, mode: str = "RGBA") -> Iterator[Frames]:
    """Frames `positions` (ascending) of a picture, one after the other: uint8 (H, W, channels of `mode`).

    `mode` is "RGBA" or "RGB".
    """
    with _opened(source, name) as image:
        if mode == "RGBA":
            _require_alpha(image, name)
        first = _first_frame(image)
        for position in positions:
            image.seek(first + position)
            yield _as_mode(image, mode)


def _as_mode(image: Image.Image, mode: str) -> Frames:
    """One frame converted to `mode`; 16-bit grey, which Pillow clips at 255, is scaled."""
    if image.mode.startswith("I;16") or image.mode == "I":
        deep = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(deep * 255 / 65535).clip(0, 255).astype(np.uint8))
    return np.asarray(image.convert(mode))


def read_times(source: Path | bytes) -> Times | None:
    """When the frames of an animated picture are shown, in seconds; none if it does not say."""
    times = picture_times(source if isinstance(source, bytes) else source.read_bytes())
    return times if times is not None and len(times) > 1 else None
