"""Writing RGBA video for shards: lossless FFV1, or H.264 colour beside lossless alpha for large sets.

Both are Matroska, depend on nothing but the frames (one encoder thread, no identifiers, no dates), and are replaced
only once they are complete.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.stream import VideoStream
from torch.nn import functional as F

from wan_alpha.data.resize import Frames

# Every frame a key frame (`g`), so that a clip window is read without what lies before it.
FFV1_OPTIONS = {"level": "3", "g": "1", "slices": "4", "slicecrc": "1", "context": "1"}
# No B-frames and short groups: pictures come in their order, and a window needs few frames before its first.
X264_OPTIONS = {"crf": "14", "preset": "medium", "bf": "0", "g": "12", "sc_threshold": "0"}
ALPHA_TITLE = "alpha"
"""Title of the second stream of a file whose colour and alpha are apart."""
BT709, FULL_RANGE = 1, 2  # of FFmpeg's enumerations

Blocks = Frames | Iterable[Frames]


def write_ffv1(frames: Blocks, fps: float, file: Path | io.BytesIO) -> None:
    """Write RGBA frames as FFV1 (bgra) in Matroska: lossless, and the same bytes for the same input.

    Args:
        frames: uint8 (T, H, W, 4), straight colour, or blocks of them in their order.
        fps: frames per second.
        file: where to write; a path is replaced only once the video is complete.

    Raises:
        ValueError: there are no frames, or they are not uint8 (T, H, W, 4).
        OSError: the disk is full, or the file cannot be written; nothing is left behind.
    """

    def encode(container: OutputContainer, blocks: Iterator[Frames], height: int, width: int) -> None:
        stream = _stream(container, "ffv1", fps, height, width, "bgra", FFV1_OPTIONS)
        for frame in chain.from_iterable(blocks):
            bgra = np.ascontiguousarray(frame[..., [2, 1, 0, 3]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bgra, format="bgra")))
        container.mux(stream.encode(None))

    _write(frames, file, encode)


def write_x264(frames: Blocks, fps: float, file: Path | io.BytesIO) -> None:
    """Write RGBA frames as two streams of one Matroska file: H.264 4:4:4 colour (crf 14), FFV1 grey alpha.

    Alpha is lossless.  Colour under alpha 0, which nobody sees, is replaced by what surrounds it, so that no edge to it
    costs bits or rings into the visible part.  Arguments and errors: as for `write_ffv1`.
    """

    def encode(container: OutputContainer, blocks: Iterator[Frames], height: int, width: int) -> None:
        colour = _stream(container, "libx264", fps, height, width, "yuvj444p", X264_OPTIONS)
        colour.codec_context.color_range, colour.codec_context.colorspace = FULL_RANGE, BT709
        alpha = _stream(container, "ffv1", fps, height, width, "gray", FFV1_OPTIONS)
        alpha.metadata["title"] = ALPHA_TITLE
        for block in blocks:
            for rgb, frame in zip(spread_colours(block), block, strict=True):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                # One thread: swscale's slice threads race now and then and damage rows.
                picture = picture.reformat(format="yuvj444p", dst_colorspace="itu709", threads=1)
                container.mux(colour.encode(picture))
                matte = np.ascontiguousarray(frame[..., 3])
                container.mux(alpha.encode(av.VideoFrame.from_ndarray(matte, format="gray")))
        container.mux(colour.encode(None))
        container.mux(alpha.encode(None))

    _write(frames, file, encode)


WRITERS = {"ffv1": write_ffv1, "x264": write_x264}


def spread_colours(frames: Frames) -> Frames:
    """Colours with those under alpha 0 replaced by an ever wider average of the visible ones around them.

    Args:
        frames: uint8 (T, H, W, 4), straight colour.

    Returns:
        uint8 (T, H, W, 3); bit-identical where alpha > 0.
    """
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    weight = (x[:, 3:] > 0).float()
    levels = [(x[:, :3] * weight, weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        levels.append(tuple(F.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in levels[-1]))  # type: ignore[arg-type]
    filled = levels[-1][0] / levels[-1][1].clamp_min(1e-6)
    for colours, weights in reversed(levels[:-1]):
        wider = F.interpolate(filled, colours.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weights > 0, colours / weights.clamp_min(1e-6), wider)
    rgb: Frames = filled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return rgb


def _stream(
    container: OutputContainer, codec: str, fps: float, height: int, width: int, pixels: str, options: dict[str, str]
) -> VideoStream:
    """A video stream whose bytes depend on its frames alone."""
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = width, height, pixels
    stream.codec_context.flags |= Flags.bitexact
    stream.codec_context.thread_count = 1
    return stream


def _write(frames: Blocks, file: Path | io.BytesIO, encode: object) -> None:
    """Run an encoder over checked blocks, into memory or into a file that appears when it is complete."""
    blocks = iter([frames] if isinstance(frames, np.ndarray) else frames)
    first = next(blocks, None)
    if first is None or not len(first):
        raise ValueError("expected at least one frame")
    whole = _checked(chain([first], blocks))
    first = next(whole)
    target = file if isinstance(file, io.BytesIO) else file.with_name(f"{file.name}.tmp")
    try:
        # bitexact: no random segment identifier, no version string of the encoder.
        destination = target if isinstance(target, io.BytesIO) else str(target)
        with av.open(destination, "w", format="matroska", container_options={"fflags": "+bitexact"}) as container:
            encode(container, chain([first], whole), *first.shape[1:3])  # type: ignore[operator]
    except BaseException:
        if isinstance(target, Path):
            target.unlink(missing_ok=True)
        raise
    if isinstance(target, Path) and isinstance(file, Path):
        os.replace(target, file)


def _checked(blocks: Iterable[Frames]) -> Iterator[Frames]:
    for block in blocks:
        if block.ndim != 4 or block.shape[-1] != 4 or block.dtype != np.uint8:
            raise ValueError(f"expected uint8 frames of shape (T, H, W, 4), got {block.dtype} {block.shape}")
        yield block
