"""Writing videos with FFmpeg's libraries: ProRes 4444, FFV1, VP9 with alpha, and H.264 for composites.

Colour is converted to BT.709, limited range, and the files say so; alpha keeps its full range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from .pixels import Pixels, even_sides, to_8_bit, to_16_bit

PRORES = {"profile": "4444", "vendor": "apl0", "alpha_bits": "16", "qscale": "5"}
# Alpha needs auto-alt-ref off: libvpx's hidden reference frames and the alpha track do not go together.
VP9 = {"crf": "12", "b": "0", "auto-alt-ref": "0", "row-mt": "1", "deadline": "good", "cpu-used": "3"}
FFV1 = {"level": "3", "g": "1", "slices": "4", "slicecrc": "1", "context": "1"}
H264 = {"crf": "16", "preset": "medium"}


def write_prores(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """ProRes 4444 in QuickTime: 10 bit colour without subsampling, 16 bit alpha, straight."""
    tags = {"movflags": "use_metadata_tags"}
    with av.open(str(file), "w", format="mov", options=tags) as container:
        stream = _stream(container, "prores_ks", pixels, fps, "yuva444p10le", PRORES, metadata)
        for frame in to_16_bit(pixels):
            container.mux(stream.encode(_bt709(frame, "rgba64le", "yuva444p10le")))
        container.mux(stream.encode(None))


def write_vp9(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """VP9 in WebM: 8 bit 4:2:0 and an alpha track, straight: what browsers play."""
    with av.open(str(file), "w", format="webm") as container:
        stream = _stream(container, "libvpx-vp9", pixels, fps, "yuva420p", VP9, metadata)
        stream.metadata["alpha_mode"] = "1"
        for frame in to_8_bit(pixels):
            container.mux(stream.encode(_bt709(frame, "rgba", "yuva420p")))
        container.mux(stream.encode(None))


def write_ffv1(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """FFV1 in Matroska: 8 bit RGBA, straight, lossless: for archives and for training."""
    with av.open(str(file), "w", format="matroska") as container:
        stream = _stream(container, "ffv1", pixels, fps, "bgra", FFV1, metadata)
        for frame in to_8_bit(pixels):
            bgra = np.ascontiguousarray(frame[..., [2, 1, 0, 3]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bgra, format="bgra")))
        container.mux(stream.encode(None))


def write_h264(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """H.264 in MP4 of (T, H, W, 3): no alpha; odd sides get one more row or column."""
    pixels = even_sides(pixels)
    tags = {"movflags": "use_metadata_tags+faststart"}
    with av.open(str(file), "w", format="mp4", options=tags) as container:
        stream = _stream(container, "libx264", pixels, fps, "yuv420p", H264, metadata)
        for frame in to_8_bit(pixels):
            container.mux(stream.encode(_bt709(frame, "rgb24", "yuv420p")))
        container.mux(stream.encode(None))


def _stream(
    container: Any,
    codec: str,
    pixels: Pixels,
    fps: float,
    pixel_format: str,
    options: Mapping[str, str],
    metadata: Mapping[str, str],
) -> VideoStream:
    container.metadata.update(metadata)
    stream: VideoStream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=dict(options))
    stream.height, stream.width = pixels.shape[1:3]
    stream.pix_fmt = pixel_format
    context = stream.codec_context
    context.thread_count = 1 if codec == "ffv1" else 0
    if pixel_format.startswith("yuv"):
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def _bt709(frame: Any, source: str, target: str) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(frame, format=source)
    # One thread: swscale's slice threads race now and then and damage rows, alpha above all.
    converted = picture.reformat(
        format=target,
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )
    converted.color_primaries, converted.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return converted


def durations(count: int, fps: float) -> Iterator[int]:
    """Milliseconds of each frame, rounded so that the sum stays exact: 62 and 63 by turns at 16 fps."""
    for number in range(count):
        yield round(1000 * (number + 1) / fps) - round(1000 * number / fps)
