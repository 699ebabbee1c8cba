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
import numpy.typing as npt
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream

from wan_alpha.data.resize import Frames

# Every frame a key frame (`g`), so that a clip window is read without what lies before it.
FFV1_OPTIONS = {"level": "3", "g": "1", "slices": "4", "slicecrc": "1", "context": "1"}
# No B-frames and short groups: pictures come in their order, and a window needs few frames before its first.
X264_OPTIONS = {"crf": "14", "preset": "medium", "bf": "0", "g": "12", "sc_threshold": "0"}
ALPHA_TITLE = "alpha"
"""Title of the second stream of a file whose colour and alpha are apart."""
BT709, FULL_RANGE = 1, 2  # of FFmpeg's enumerations

Blocks = Frames | Iterable[Frames]
Floats = npt.NDArray[np.float32]
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT  # the same on every processor


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
                picture = picture.reformat(format="yuvj444p", dst_colorspace="itu709", interpolation=EXACT, threads=1)
                container.mux(colour.encode(picture))
                matte = np.ascontiguousarray(frame[..., 3])
                container.mux(alpha.encode(av.VideoFrame.from_ndarray(matte, format="gray")))
        container.mux(colour.encode(None))
        container.mux(alpha.encode(None))

    _write(frames, file, encode)


WRITERS = {"ffv1": write_ffv1, "x264": write_x264}


def as_bt709(picture: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """sRGB as YUV the way video files have it: BT.709, limited range; alpha keeps its full range."""
    # One thread: swscale's slice threads race now and then and damage rows, alpha above all.
    converted = picture.reformat(
        format=pixel_format,
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )
    converted.color_primaries, converted.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return converted


def tag_bt709(context: VideoCodecContext) -> None:
    """Let a file say what `as_bt709` made; one that says nothing is shown by guess, by its height."""
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def spread_colours(frames: Frames) -> Frames:
    """Colours with those under alpha 0 replaced by an ever wider average of the visible ones around them.

    Args:
        frames: uint8 (T, H, W, 4), straight colour.

    Returns:
        uint8 (T, H, W, 3); bit-identical where alpha > 0.
    """
    x = frames.astype(np.float32)
    weight = (x[..., 3:] > 0).astype(np.float32)
    levels = [(x[..., :3] * weight, weight)]
    while max(levels[-1][0].shape[1:3]) > 1:
        colours, weights = levels[-1]
        levels.append((_halved(colours), _halved(weights)))
    filled: Floats = np.divide(levels[-1][0], np.maximum(levels[-1][1], 1e-6))
    for colours, weights in reversed(levels[:-1]):
        wider = _doubled(filled)[:, : colours.shape[1], : colours.shape[2]]
        filled = np.where(weights > 0, colours / np.maximum(weights, 1e-6), wider)
    return np.clip(np.rint(filled), 0, 255).astype(np.uint8)


def _halved(x: Floats) -> Floats:
    """Means of 2x2 pixels (T, H, W, C), those beyond an odd edge counting as 0; sums in one order, so always equal."""
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    x = x[:, 0::2] + x[:, 1::2]
    return (x[:, :, 0::2] + x[:, :, 1::2]) / np.float32(4)


def _doubled(x: Floats) -> Floats:
    """Twice the height and width, (T, H, W, C), bilinear: of the two nearest pixels, 3/4 and 1/4."""
    for axis in (1, 2):
        edge = [(0, 0)] * 4
        edge[axis] = (1, 1)
        padded = np.moveaxis(np.pad(x, edge, mode="edge"), axis, 0)
        near = 0.75 * padded[1:-1]
        pairs = np.stack([near + 0.25 * padded[:-2], near + 0.25 * padded[2:]], axis=1)
        x = np.moveaxis(pairs.reshape(-1, *pairs.shape[2:]), 0, axis)
    return x


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
