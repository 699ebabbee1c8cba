"""One way to read RGBA media of every kind.

    kind                                  read as
    .webp .png .apng (animated or still)  Pillow
    .mov (ProRes 4444) .mkv (FFV1) ...    FFmpeg; .webm through libvpx, which keeps alpha
    a folder of RGBA pictures             its files in natural order of their names, one frame each
    Pair(fgr, pha)                        colour and matte apart, each a folder or a file

Everything comes out as uint8 (T, H, W, 4) with straight colour; deeper sources are reduced to 8 bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wan_alpha.data.encode import write_ffv1, write_x264
from wan_alpha.data.errors import AlphaError, MediaError
from wan_alpha.data.pictures import DEFAULT_FPS, picture_frames, probe_picture, read_times
from wan_alpha.data.resize import Frames
from wan_alpha.data.timing import Times, is_constant
from wan_alpha.data.video import probe_video, video_frames, video_times

__all__ = [
    "LOSSY_ALPHA_FLOOR",
    "MEDIA_EXTENSIONS",
    "AlphaError",
    "MediaError",
    "MediaInfo",
    "Pair",
    "Source",
    "each_block",
    "each_frame",
    "frame_files",
    "frame_times",
    "media_files",
    "probe",
    "read_frames",
    "write_ffv1",
    "write_x264",
]

RGBA_PICTURES = frozenset({".png", ".apng", ".webp"})
PICTURES = RGBA_PICTURES | {".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
RGBA_VIDEOS = frozenset({".mov", ".mkv", ".webm"})
VIDEOS = RGBA_VIDEOS | {".mp4", ".m4v", ".avi"}
MEDIA_EXTENSIONS = RGBA_PICTURES | RGBA_VIDEOS
"""Extensions of single files that can carry alpha."""

LOSSY = frozenset({".mov", ".webm", ".mp4", ".m4v", ".avi", ".jpg", ".jpeg"})
BLOCK_PIXELS = 2**24  # of full-size frames that `each_block` gives at once
LOSSY_ALPHA_FLOOR = 2
"""In lossily coded sources an alpha below this step of 255 is coding noise on empty ground and becomes 0."""


class Pair(NamedTuple):
    """Colour and matte in two places, each a folder of pictures, a picture or a video."""

    fgr: Path
    pha: Path


Source = Path | bytes | Pair


@dataclass(frozen=True)
class MediaInfo:
    """What a source holds: frames, frames per second (the average), height and width in pixels."""

    num_frames: int
    fps: float
    height: int
    width: int


def frame_times(source: Source, ext: str | None = None, name: str = "") -> Times | None:
    """When the frames of a source of variable frame rate are shown, in seconds, ascending; none if it is constant.

    Nothing is decoded.  Folders of frames and stills do not say, and count as constant.  `source`, `ext`, `name`: as in
    `probe`.

    Raises:
        MediaError: it cannot be read, or the halves of a pair are shown at different times.
    """
    if isinstance(source, Pair):
        colour, matte = (frame_times(half, None, str(half)) for half in source)
        if (colour is None) != (matte is None) or (
            colour is not None and matte is not None and not np.allclose(colour, matte, atol=0.005)
        ):
            raise MediaError(f"{source.fgr} is shown at other times than its matte {source.pha}; both must agree")
        return colour
    if isinstance(source, Path) and source.is_dir():
        return None
    suffix = _extension(source, ext)
    times, tick = (read_times(source), 0.001) if suffix in PICTURES else video_times(source, name or _name(source))
    return None if times is None or is_constant(times, tick) else times


def probe(source: Source, ext: str | None = None, name: str = "", need_alpha: bool = True) -> MediaInfo:
    """What `source` holds, without decoding more than its first frame.

    Args:
        source: a file, a folder of RGBA frames, a `Pair`, or the bytes of a file.
        ext: extension of the media, needed for bytes (".webp" or "webp"); for paths their own is taken.
        name: how messages call the source; its path if not given.
        need_alpha: refuse what has no alpha channel.

    Raises:
        AlphaError: there is no alpha channel though it is needed.
        MediaError: it cannot be read, is of an unknown kind, or the halves of a pair do not fit each other.
    """
    if not isinstance(source, Pair):
        return _probe_one(source, ext, name or _name(source), need_alpha)
    fgr = _probe_one(source.fgr, None, str(source.fgr), need_alpha=False)
    pha = _probe_one(source.pha, None, str(source.pha), need_alpha=False)
    if (fgr.num_frames, fgr.height, fgr.width) != (pha.num_frames, pha.height, pha.width):
        raise MediaError(
            f"{source.fgr} has {fgr.num_frames} frames of {fgr.height}x{fgr.width}, its matte {source.pha} "
            f"{pha.num_frames} of {pha.height}x{pha.width}; both must agree"
        )
    return fgr


def read_frames(
    source: Source,
    ext: str | None = None,
    start: int = 0,
    count: int = 1,
    stride: int = 1,
    name: str = "",
    alpha: bool = True,
) -> Frames:
    """Frames start, start + stride, ... (`count` of them) as straight RGBA, or with `alpha=False` as RGB.

    Only what is asked for is decoded, as far as the format allows.  `source`, `ext`, `name`: as in `probe`.

    Returns:
        uint8 (count, H, W, 4), straight colour, 0..255; (count, H, W, 3) with `alpha=False`.

    Raises:
        AlphaError: there is no alpha channel.
        MediaError: it cannot be read, or ends before the last frame asked for.
        ValueError: start < 0, or count or stride < 1.
    """
    if start < 0 or count < 1 or stride < 1:
        raise ValueError(f"expected start >= 0, count >= 1 and stride >= 1, got {start}, {count}, {stride}")
    positions = range(start, start + count * stride, stride)
    return np.stack(list(each_frame(source, ext, positions, name, alpha)))


def each_frame(
    source: Source, ext: str | None, positions: range, name: str = "", alpha: bool = True
) -> Iterator[Frames]:
    """Frames `positions` (ascending) of a source, decoded in one pass and given one after the other.

    Arguments and errors are those of `read_frames`.

    Returns:
        uint8 (H, W, 4) each, straight colour, 0..255; (H, W, 3) with `alpha=False`.
    """
    if isinstance(source, Pair):
        frames = _pair_frames(source, positions) if alpha else _frames_of(source.fgr, None, "", positions, "RGB")
        name = name or str(source.fgr)
    else:
        frames = _frames_of(source, ext, name, positions, "RGBA" if alpha else "RGB")
        name = name or _name(source)
    lossy = alpha and _lossy(source.pha if isinstance(source, Pair) else source, ext)
    first: tuple[int, ...] = ()
    for position, frame in zip(positions, frames, strict=True):
        first = first or frame.shape
        if frame.shape != first:
            raise MediaError(
                f"{_frame_name(source, position, name)} is {frame.shape[0]}x{frame.shape[1]}, the clip began with "
                f"{first[0]}x{first[1]}; frames of one clip must be of one size"
            )
        if lossy:
            frame = frame if frame.flags.writeable else frame.copy()
            frame[..., 3][frame[..., 3] < LOSSY_ALPHA_FLOOR] = 0
        yield frame


def each_block(source: Source, ext: str | None, info: MediaInfo, name: str = "") -> Iterator[Frames]:
    """All frames of a source in one pass, some at a time: uint8 (t, H, W, 4), straight colour.

    Args:
        source, ext, name: as in `probe`.
        info: what it says.
    """
    count = max(1, BLOCK_PIXELS // (info.height * info.width))
    frames = each_frame(source, ext, range(info.num_frames), name)
    while block := list(islice(frames, count)):
        yield np.stack(block)


def _pair_frames(pair: Pair, positions: range) -> Iterator[Frames]:
    """Colour and matte side by side; the mean of the matte's channels is alpha."""
    halves = (_frames_of(half, None, "", positions, "RGB") for half in pair)
    for position, colour, matte in zip(positions, *halves, strict=True):
        if colour.shape != matte.shape:
            names = [_frame_name(half, position, str(half)) for half in pair]
            raise MediaError(
                f"{names[0]} is {colour.shape[0]}x{colour.shape[1]}, its matte {names[1]} "
                f"{matte.shape[0]}x{matte.shape[1]}; both must agree"
            )
        opacity = np.rint(matte.mean(axis=-1, keepdims=True)).astype(np.uint8)
        yield np.concatenate([colour, opacity], axis=-1)


def media_files(media: Path | Pair) -> list[Path]:
    """The files a clip consists of, in the order of its frames; of folders their pictures alone."""
    parts = media if isinstance(media, Pair) else (media,)
    return [file for part in parts for file in (frame_files(part) if part.is_dir() else [part])]


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order of their names (frame2 before frame10)."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")]

    def natural(file: Path) -> list[int | str]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]

    return sorted(files, key=natural)


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else f"{len(source)} bytes of media"


def _extension(source: Path | bytes, ext: str | None) -> str:
    if ext is None and isinstance(source, bytes):
        raise ValueError("bytes have no file name: give `ext`, for example '.webp'")
    suffix = source.suffix if ext is None and isinstance(source, Path) else f".{str(ext).lstrip('.')}"
    return suffix.lower()


def _lossy(source: Path | bytes, ext: str | None) -> bool:
    if isinstance(source, Path) and source.is_dir():
        return any(file.suffix.lower() in LOSSY for file in frame_files(source)[:1])
    return _extension(source, ext) in LOSSY


def _probe_one(source: Path | bytes, ext: str | None, name: str, need_alpha: bool) -> MediaInfo:
    if isinstance(source, Path) and source.is_dir():
        files = frame_files(source)
        if not files:
            there = ", ".join(sorted({file.suffix.lower() or file.name for file in source.iterdir()})[:8])
            raise MediaError(
                f"{name}: the folder holds no pictures, {f'but {there}' if there else 'it is empty'}; expected PNG or "
                "WebP frames in it (OpenEXR is not read: render it as straight PNG)"
            )
        first = _probe_one(files[0], None, str(files[0]), need_alpha)
        return MediaInfo(len(files), DEFAULT_FPS, first.height, first.width)
    suffix = _extension(source, ext)
    if suffix in PICTURES:
        return MediaInfo(*probe_picture(source, name, need_alpha))
    if suffix in VIDEOS:
        return MediaInfo(*probe_video(source, name, need_alpha))
    raise _unknown(name, suffix)


def _frames_of(source: Path | bytes, ext: str | None, name: str, positions: range, mode: str) -> Iterator[Frames]:
    name = name or _name(source)
    if isinstance(source, Path) and source.is_dir():
        return _folder_frames(source, positions, mode)
    suffix = _extension(source, ext)
    if suffix in PICTURES:
        return picture_frames(source, name, positions, mode)
    if suffix in VIDEOS:
        return video_frames(source, name, positions, mode)
    raise _unknown(name, suffix)


def _folder_frames(folder: Path, positions: range, mode: str) -> Iterator[Frames]:
    files = frame_files(folder)
    if positions[-1] >= len(files):
        raise MediaError(f"{folder}: frame {positions[-1]} was asked for, the folder holds {len(files)}")
    for position in positions:
        yield from _frames_of(files[position], None, "", range(1), mode)


def _frame_name(source: Source, position: int, name: str) -> str:
    """How messages call one frame: by its file, if it is one."""
    media = source.fgr if isinstance(source, Pair) else source
    if isinstance(media, Path) and media.is_dir():
        return str(frame_files(media)[position])
    return f"{name}: frame {position}"


def _unknown(name: str, suffix: str) -> MediaError:
    known = ", ".join(sorted(PICTURES | VIDEOS))
    return MediaError(f"{name}: unknown kind of media {suffix!r}; expected one of {known}")
