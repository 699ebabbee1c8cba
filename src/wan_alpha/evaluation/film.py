"""Opaque video files for looking: what a page, W&B and VBench are given."""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wan_alpha.data.encode import as_bt709, tag_bt709

H264 = "libx264", {"crf": "16"}
VP9 = "libvpx-vp9", {"crf": "18", "b:v": "0", "deadline": "good", "cpu-used": "4", "row-mt": "0"}


def encode(
    frames: NDArray[np.uint8], fps: float, file: Path | io.BytesIO, container: str, codec: tuple[str, Mapping[str, str]]
) -> None:
    """Write (T, H, W, 3) as 4:2:0; odd sides grow by one row or column, the last one again.

    Args:
        frames: uint8, sRGB.
        fps: frames per second.
        file: a path, or memory.
        container: FFmpeg's name of the format.
        codec: `H264` or `VP9`.
    """
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    name, options = codec
    target = file if isinstance(file, io.BytesIO) else str(file)
    with av.open(target, "w", format=container) as film:
        stream: VideoStream = film.add_stream(  # type: ignore[assignment]  # the codecs are of videos
            name, rate=Fraction(fps).limit_denominator(1001), options=dict(options)
        )
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        tag_bt709(stream.codec_context)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            film.mux(stream.encode(as_bt709(picture, "yuv420p")))
        film.mux(stream.encode(None))
