"""Writing videos with FFmpeg's libraries: ProRes 4444, FFV1, VP9 with alpha, and H.264 for composites.

Colour is converted to BT.709, limited range, and the files say so; alpha keeps its full range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wan_alpha.data.encode import as_bt709, tag_bt709
from wan_alpha.pipeline.pixels import Pixels, even_sides, to_8_bit, to_16_bit


@dataclass(frozen=True)
class Kind:
    """How frames get into a file.

    Attributes:
        container, codec: FFmpeg's names.
        pixel_format: what the codec gets.
        options: of the codec.
        tags: of the container.
    """

    container: str
    codec: str
    pixel_format: str
    options: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)


PRORES = Kind("mov", "prores_ks", "yuva444p10le",
              {"profile": "4444", "vendor": "apl0", "alpha_bits": "16", "qscale": "5"},
              {"movflags": "use_metadata_tags"})  # fmt: skip
# Alpha needs auto-alt-ref off: libvpx's hidden reference frames and the alpha track do not go together.
VP9 = Kind("webm", "libvpx-vp9", "yuva420p", {"crf": "12", "b": "0", "auto-alt-ref": "0", "row-mt": "1",
                                              "deadline": "good", "cpu-used": "3"})  # fmt: skip
FFV1 = Kind("matroska", "ffv1", "bgra", {"level": "3", "g": "1", "slices": "4", "slicecrc": "1", "context": "1"})
H264 = Kind("mp4", "libx264", "yuv420p", {"crf": "16", "preset": "medium"},
            {"movflags": "use_metadata_tags+faststart"})  # fmt: skip


def write_prores(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """ProRes 4444 in QuickTime: 10 bit colour without subsampling, 16 bit alpha, straight."""
    _write(PRORES, pixels, to_16_bit, "rgba64le", fps, file, metadata)


def write_vp9(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """VP9 in WebM: 8 bit 4:2:0 and an alpha track, straight: what browsers play."""
    _write(VP9, pixels, to_8_bit, "rgba", fps, file, metadata)


def write_ffv1(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """FFV1 in Matroska: 8 bit RGBA, straight, lossless: for archives and for training."""
    _write(FFV1, pixels, lambda frame: to_8_bit(frame[..., [2, 1, 0, 3]]), "bgra", fps, file, metadata)


def write_h264(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """H.264 in MP4 of (T, H, W, 3): no alpha; odd sides get one more row or column."""
    _write(H264, even_sides(pixels), to_8_bit, "rgb24", fps, file, metadata)


def _write(
    kind: Kind, pixels: Pixels, quantise: Callable[[Pixels], NDArray[Any]], pixel_format: str, fps: float, file: Path,
    metadata: Mapping[str, str],
) -> None:  # fmt: skip
    """Pixels (T, H, W, C), quantised frame by frame to one pixel format, into a file of one kind."""
    with av.open(str(file), "w", format=kind.container, options=dict(kind.tags)) as container:
        container.metadata.update(metadata)
        stream = _stream(container, kind, pixels.shape[1:3], fps)
        for frame in pixels:
            container.mux(stream.encode(_converted(quantise(frame), pixel_format, kind.pixel_format)))
        container.mux(stream.encode(None))


def _stream(container: Any, kind: Kind, size: tuple[int, ...], fps: float) -> VideoStream:
    rate = Fraction(fps).limit_denominator(1001)
    stream: VideoStream = container.add_stream(kind.codec, rate=rate, options=dict(kind.options))
    stream.height, stream.width = size
    stream.pix_fmt = kind.pixel_format
    context = stream.codec_context
    context.thread_count = 1 if kind is FFV1 else 0
    if kind.pixel_format.startswith("yuv"):
        tag_bt709(context)
    if kind is VP9:
        stream.metadata["alpha_mode"] = "1"
    return stream


def _converted(frame: NDArray[Any], source: str, target: str) -> av.VideoFrame:
    """A frame as the codec wants it: YUV is BT.709, limited range."""
    picture = av.VideoFrame.from_ndarray(frame, format=source)
    return picture if source == target else as_bt709(picture, target)


def durations(count: int, fps: float) -> Iterator[int]:
    """Milliseconds of each frame, rounded so that the sum stays exact: 62 and 63 by turns at 16 fps."""
    for number in range(count):
        yield round(1000 * (number + 1) / fps) - round(1000 * number / fps)
